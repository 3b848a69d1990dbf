"""``ktlsgate probe``: what this machine can do, for people and for programs.

Exit codes::

    probe           0 TLS 1.2 and 1.3 are handed off, 1 only one of them, 3 neither
    --require       0 all that is named is there, 1 something is missing
    all             4 the probe itself failed; 2 wrong usage

The JSON is described where it is built: `ktlsgate.service.probe_json`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

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
    " there, 1 when something is missing."
)


def main(argv: Sequence[str], prog: str = "ktlsgate probe") -> int:
    """Probe, print, and say how it went in the exit code.

    Args:
        argv: arguments without the program's name.
        prog: the program's name in usage lines.

    Raises:
        SystemExit: with 2, by argparse, for arguments that it does not know.
    """
    arguments = _parser(prog).parse_args(argv)
    try:
        return _probe(arguments.require, is_json=arguments.json)
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
        "--require",
        metavar="NAMES",
        type=_requirements,
        help="what must be there, as rx,1.3,AES_256_GCM,rekey: directions, versions, ciphers,"
        " features, engines",
    )
    return parser


def _requirements(text: str) -> Requirements:
    try:
        return parse_requirements(text)
    except UnknownRequirement as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _probe(wanted: Requirements | None, *, is_json: bool) -> int:
    findings = collect_findings()
    if is_json:
        _write(render_json(findings, wanted) + "\n")
    else:
        _write(_encodable(render_text(findings, _look(), wanted)))
    return exit_code_for(findings, wanted)


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
