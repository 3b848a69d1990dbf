"""The command ``ktlsgate``: verbs, exit codes, and where the configuration comes from.

Theory: nothing heavy (Trio, OpenSSL) is imported before a verb needs it, so help
and mistakes answer at once. Every `ConfigError` ends as plain last lines on
standard error, one for each complaint and without a traceback.

The file is the one of ``-c``, else of KTLSGATE_CONFIG, else none if flags say
what to serve (``--listen``, ``--cert``, ``--key``, ``--backend``), else the default.
Flags win over the file.
"""

from __future__ import annotations

import argparse
import enum
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import ConfigError
from .serve_options import add_serve

if TYPE_CHECKING:
    from cryptography import x509

    from ..config import Config
    from .certificates import Identity

__all__ = ["DEFAULT_FILE", "ExitCode", "main"]

DEFAULT_FILE = "/etc/ktlsgate/ktlsgate.toml"
_FILE_VARIABLE = "KTLSGATE_CONFIG"

_DESCRIPTION = """\
TLS front end that gets out of the way: handshake here, keys into the kernel,
the client's socket to your backend.

  ktlsgate run                          serve what the configuration file says
  ktlsgate run --listen :8443 --cert cert.pem --backend unix:/run/app.sock
                                        serve one backend, without a file
  ktlsgate serve project:app --socket /run/app.sock
                                        run an ASGI or WSGI application as a backend
"""
_EPILOG = f"""\
The file is that of -c, else of the variable {_FILE_VARIABLE}, else none if --listen,
--cert, --key or --backend is given, else {DEFAULT_FILE}. Flags win over it.

exit codes: 0 clean end; 1 configuration, certificate or address cannot be used;
2 wrong usage; 3 connections were cut off when the drain timeout ran out.
"""


class ExitCode(enum.IntEnum):
    """What the process ends with; `main` and ``worker.run`` return these."""

    OK = 0
    FAILED = 1  # configuration, certificate or bind
    USAGE = 2  # argparse's own
    DRAIN_TIMED_OUT = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit code, see `ExitCode`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # The probe has its own parser; argparse.REMAINDER loses options in front.
        if arguments[:1] == ["probe"]:
            return _probe(arguments[1:])
        return _dispatch(_parser(), arguments)
    except SystemExit as exc:  # argparse's end: usage errors, and --help
        return exc.code if isinstance(exc.code, int) else ExitCode.USAGE


def _dispatch(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    options = parser.parse_args(arguments)
    if options.version:
        print(_versions())
        return ExitCode.OK
    if options.verb is None:
        # A unit file that forgot the verb must not look like a clean end.
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": _run,
        "check": _check,
        "serve": _serve,
    }
    try:
        return verbs[options.verb](options)
    except ConfigError as exc:
        for error in exc.errors:
            print(f"ktlsgate: {error}", file=sys.stderr)
        return ExitCode.FAILED


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ktlsgate", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=form
    )
    parser.add_argument("--version", "-V", action="store_true", help="print all versions and end")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    run = verbs.add_parser("run", help="serve", epilog=_EPILOG, formatter_class=form)
    check = verbs.add_parser(
        "check",
        help="read the configuration and the certificates, and say what is wrong with them",
        epilog=_EPILOG,
        formatter_class=form,
    )
    check.add_argument(
        "-v", "--dump", action="store_true", help="print the configuration that is in force"
    )
    add_serve(verbs)
    verbs.add_parser("probe", help="ask this kernel which kTLS it has", add_help=False)
    for verb in (run, check):
        _add_configuration(verb)
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="the configuration file")
    add(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="HOST:PORT, [V6]:PORT or :PORT; may be given again; replaces the file's listeners",
    )
    add("--cert", metavar="FILE", default="", help="PEM: chain, leaf first; may hold the key too")
    add("--key", metavar="FILE", default="", help="PEM: the private key")
    add(
        "--backend",
        metavar="ADDRESS",
        default="",
        help="unix:PATH or unix:@NAME; gets every request; replaces the file's routes",
    )
    # Checked with the rest of the configuration, not by argparse: all errors at once.
    add("--ktls", metavar="POLICY", default="", help="require, prefer or off, on all listeners")
    add("--log-level", metavar="LEVEL", default="", help="debug, info, warning or error")
    add("--log-format", metavar="FORMAT", default="", help="auto, json or text")
    add("--log-file", metavar="FILE", default="", help="stderr, stdout or a file")


def _load(options: argparse.Namespace) -> Config:
    from .config_file import config_from_flags, load_config
    from .config_flags import Flags

    flags = Flags(
        listen=tuple(options.listen),
        cert=options.cert,
        key=options.key,
        backend=options.backend,
        ktls=options.ktls,
        log_level=options.log_level,
        log_format=options.log_format,
        log_file=options.log_file,
    )
    file = options.config or os.environ.get(_FILE_VARIABLE)
    if not file and (flags.listen or flags.cert or flags.key or flags.backend):
        return config_from_flags(flags)
    return load_config(file or DEFAULT_FILE, flags=flags)


def _run(options: argparse.Namespace) -> int:
    config = _load(options)
    from .worker import run

    return run(config)


def _check(options: argparse.Namespace) -> int:
    config = _load(options)
    if options.dump:
        from .config_dump import dump_config

        print(dump_config(config))
    for warning in _check_certificates(config):
        print(f"ktlsgate: warning: {warning}", file=sys.stderr)
    print("configuration looks ok")
    return ExitCode.OK


def _check_certificates(config: Config) -> tuple[str, ...]:
    """Load all that a start would load; return the warnings."""
    from ..wire.tls_context import build_server_context
    from .certificates import load_client_ca, load_identity

    errors: list[str] = []
    identity: Identity | None = None
    authorities: tuple[x509.Certificate, ...] = ()
    if config.certificate is not None:
        try:
            identity = load_identity(config.certificate)
        except ConfigError as exc:
            errors += exc.errors
    if config.tls.client_ca:
        try:
            authorities = load_client_ca(config.tls.client_ca)
        except ConfigError as exc:
            errors += exc.errors
    if errors:
        raise ConfigError(*errors)
    if identity is None:
        return ()
    # OpenSSL has the last word, about cipher names above all.
    build_server_context(config.tls, identity.chain, identity.key, authorities)
    return identity.warnings


def _serve(options: argparse.Namespace) -> int:
    from .serve import serve

    return serve(options)


def _probe(arguments: Sequence[str]) -> int:
    from . import probe_report

    return probe_report.main(arguments)


def _versions() -> str:
    """List what a bug report needs, one program for each line (as ``haproxy -vv``)."""
    import OpenSSL
    import trio
    from cryptography.hazmat.backends.openssl import backend

    rows = {
        "ktlsgate": __version__,
        "python": platform.python_version(),
        "trio": trio.__version__,
        "pyOpenSSL": OpenSSL.__version__,
        "OpenSSL": backend.openssl_version_text().removeprefix("OpenSSL "),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    return "\n".join(f"{name} {version}" for name, version in rows.items())
