"""``ktlsgate probe``: what this machine can do, for people and for programs.

Exit codes::

    probe           0 TLS 1.2 and 1.3 are handed off, 1 only one of them, 3 neither
    --require       0 all that is named is there, 1 something is missing
    --listen-check  0 handed over in both directions, 1 sending only, 3 relayed
    all             4 the probe itself failed, or there is no answer; 2 wrong usage

The JSON is described where it is built: `ktlsgate.service.probe_json`, and
`ktlsgate.service.listen_check_report` for ``--listen-check``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..kernel.features import ON_REQUEST, FeatureName
from ..kernel.sockets import parse_address
from .listen_check import Target, check_listener
from .listen_check_report import render_check_json, render_check_text
from .probe_findings import EXIT_BROKEN, collect_findings
from .probe_json import render_json
from .probe_require import (
    Requirements,
    UnknownRequirement,
    exit_code_for,
    parse_requirements,
)
from .probe_text import Look, render_text

__all__ = ["main"]

_EPILOG = (
    "Exit status: 0 when TLS 1.2 and 1.3 are both handed off, 1 when only one is, 3 when neither"
    " is, 4 when the probe itself failed, 2 for a usage error. With --require: 0 when all is"
    " there, 1 when something is missing. With --listen-check: 0 when both directions are handed"
    " over, 1 when only sending is, 3 when it relays, 4 when that cannot be told."
)


def main(argv: Sequence[str], prog: str = "ktlsgate probe") -> int:
    """Probe, print, and say how it went in the exit code.

    Args:
        argv: arguments without the program's name.
        prog: the program's name in usage lines.

    Raises:
        SystemExit: with 2, by argparse, for arguments that it does not know.
    """
    parser = _parser(prog)
    arguments = parser.parse_args(argv)
    target = _target(parser, arguments)
    try:
        if target is not None:
            return _check(target, is_json=arguments.json)
        asked = ON_REQUEST if arguments.signals else ()
        return _probe(arguments.require, asked, is_json=arguments.json)
    # A traceback would end in Python's exit code 1, and here 1 is an answer.
    except Exception as exc:  # noqa: BLE001
        sys.stderr.write(f"{prog}: the probe itself failed: {type(exc).__name__}: {exc}\n")
        return EXIT_BROKEN


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Say what of kTLS works on this machine.", epilog=_EPILOG
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument(
        "--signals",
        action="store_true",
        help="also try whether a blocking send survives signals; takes a second",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--require",
        metavar="NAMES",
        type=_requirements,
        help="what must be there, as rx,1.3,AES_256_GCM,rekey: directions, versions, ciphers,"
        " features, engines",
    )
    what.add_argument(
        "--listen-check",
        metavar="HOST:PORT",
        type=_address,
        help="connect to this running gate and say whether it hands connections over; the"
        " certificate is not verified",
    )
    parser.add_argument("--servername", metavar="NAME", help="with --listen-check: SNI and Host")
    parser.add_argument("--path", metavar="PATH", help='with --listen-check: instead of "/"')
    return parser


def _requirements(text: str) -> Requirements:
    try:
        return parse_requirements(text)
    except UnknownRequirement as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _address(text: str) -> tuple[str, int]:
    try:
        host, port = parse_address(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    if not host or not port:
        raise argparse.ArgumentTypeError(f"expected a host and a port to connect to, got {text!r}")
    return host, port


def _target(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Target | None:
    given = {"--servername": arguments.servername, "--path": arguments.path}
    complaint = _complaint(given, is_check=arguments.listen_check is not None)
    if complaint:
        parser.error(complaint)
    if arguments.listen_check is None:
        return None
    host, port = arguments.listen_check
    path = arguments.path or "/"
    return Target(host=host, port=port, servername=arguments.servername or "", path=path)


def _complaint(given: Mapping[str, str | None], *, is_check: bool) -> str:
    """What is wrong with the options that go with --listen-check; empty when nothing is."""
    for name, value in given.items():
        if value is None:
            continue
        if not is_check:
            return f"argument {name}: goes with --listen-check only"
        # Both stand in the request: a space or a line break would make it another one.
        if not (value.isascii() and value.isprintable() and " " not in value):
            return f"argument {name}: expected printable ASCII without spaces"
    path = given["--path"]
    if path is not None and not path.startswith("/"):
        return f"argument --path: expected a path that begins with /, got {path!r}"
    return ""


def _probe(wanted: Requirements | None, asked: Collection[FeatureName], *, is_json: bool) -> int:
    # What is required is asked for.
    findings = collect_findings({*asked, *(wanted.features if wanted else ())})
    if is_json:
        _write(render_json(findings, wanted) + "\n")
    else:
        _write(_encodable(render_text(findings, _look(), wanted)))
    return exit_code_for(findings, wanted)


def _check(target: Target, *, is_json: bool) -> int:
    result = check_listener(target)
    if is_json:
        _write(render_check_json(result) + "\n")
    else:
        _write(_encodable(render_check_text(result, _look())))
    return result.verdict.exit_code


def _look() -> Look:
    return Look.of(sys.stdout, os.environ, shutil.get_terminal_size((100, 24)).columns)


def _encodable(text: str) -> str:
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        # Python flushes once more when it exits, and would end in its own 120.
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as sink:
            os.dup2(sink.fileno(), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):  # `| head` had enough; that is no failure
            raise
