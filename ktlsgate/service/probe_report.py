"""``ktlsgate probe``: what this machine can do, for people and for programs.

Exit codes: 0 TLS 1.2 and 1.3 are handed off, 1 only one of them, 3 neither, 4 the
probe itself failed; 2 is a usage error.

The JSON (``--json``, one object on one line) is stable under ``"schema": 1``: fields
may be added, none is renamed or removed. An OUTCOME is ``{"ok": bool, "errno": NAME or
null, "reason": text}``, and null where nothing was tried::

    schema      1
    exit_code   as above
    failure     why the probe itself failed, or ""
    summary     the line that a gate logs when it starts
    system      kernel, build, machine, uid, net_admin, first_user_namespace, seccomp,
                available_ulps, tls_module_loaded, tls_stat, container; null is unknown
    ulp         OUTCOME
    ciphers     list of: version, cipher, offload ("both", "tx", "none"); tx, rx, data: OUTCOME
    features    name → OUTCOME; empty when no cipher works both ways
    openssl     library, pyopenssl, cryptography (versions or ""), has_ktls (null: unknown),
                problem ("" when the engines were tried)
    engines     list of: engine, version, suite, offload; handshake, tx, rx, data: OUTCOME
    modes       list of: version, mode ("handoff", "relay"), offload, engine or null, reason
    advice      list of lines
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..kernel.engines import EngineTrial
from ..kernel.probe import Cell
from ..kernel.system import SystemFacts
from ..kernel.trials import NOT_TRIED, Outcome
from .probe_advice import advise
from .probe_findings import EXIT_BROKEN, Findings, Mode, collect_findings
from .probe_text import Look, render_text

__all__ = ["main", "render_json"]

_SCHEMA = 1
_EPILOG = (
    "Exit status: 0 when TLS 1.2 and 1.3 are both handed off, 1 when only one is, 3 when neither"
    " is, 4 when the probe itself failed, 2 for a usage error."
)


def main(argv: Sequence[str], prog: str = "ktlsgate probe") -> int:
    """Probe, print, and say how it went in the exit code.

    Args:
        argv: arguments without the program's name.
        prog: the program's name in usage lines.

    Raises:
        SystemExit: with 2, by argparse, for arguments that it does not know.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="Say what of kTLS works on this machine.", epilog=_EPILOG
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    arguments = parser.parse_args(argv)
    try:
        findings = collect_findings()
        text = render_json(findings) + "\n" if arguments.json else _text_for_stdout(findings)
        _write(text)
    # A traceback would end in Python's exit code 1, and here 1 is an answer.
    except Exception as exc:  # noqa: BLE001
        sys.stderr.write(f"{prog}: the probe itself failed: {type(exc).__name__}: {exc}\n")
        return EXIT_BROKEN
    return findings.exit_code


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


def _text_for_stdout(findings: Findings) -> str:
    width = shutil.get_terminal_size((100, 24)).columns
    text = render_text(findings, Look.of(sys.stdout, os.environ, width))
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def render_json(findings: Findings) -> str:
    """Build the documented object on one line."""
    capabilities, openssl = findings.capabilities, findings.openssl
    report = {
        "schema": _SCHEMA,
        "exit_code": findings.exit_code,
        "failure": findings.failure,
        "summary": capabilities.offload.summary(),
        "system": _system(capabilities.system),
        "ulp": _outcome(capabilities.offload.ulp) | {"reason": capabilities.ulp_reason},
        "ciphers": [_cell(cell) for cell in capabilities.offload.cells],
        "features": {f.name.value: _or_null(f.outcome) for f in capabilities.features},
        "openssl": {
            "library": openssl.libraries.openssl,
            "pyopenssl": openssl.libraries.pyopenssl,
            "cryptography": openssl.libraries.cryptography,
            "has_ktls": openssl.has_ktls,
            "problem": openssl.problem,
        },
        "engines": [_trial(trial) for trial in openssl.trials],
        "modes": [_mode(mode) for mode in findings.modes],
        "advice": list(advise(findings)),
    }
    return json.dumps(report, ensure_ascii=True)


def _outcome(outcome: Outcome) -> dict[str, object]:
    name = outcome.label if outcome.errno else None
    return {"ok": outcome.ok, "errno": name, "reason": outcome.reason}


def _or_null(outcome: Outcome) -> dict[str, object] | None:
    return None if outcome is NOT_TRIED else _outcome(outcome)


def _system(system: SystemFacts) -> dict[str, object]:
    return {
        "kernel": system.kernel,
        "build": system.build,
        "machine": system.machine,
        "uid": system.uid,
        "net_admin": system.has_net_admin,
        "first_user_namespace": system.is_first_user_namespace,
        "seccomp": system.seccomp,
        "available_ulps": None if system.available_ulps is None else list(system.available_ulps),
        "tls_module_loaded": system.is_module_loaded,
        "tls_stat": system.has_tls_stat,
        "container": system.is_container,
    }


def _cell(cell: Cell) -> dict[str, object]:
    return {
        "version": cell.version.label,
        "cipher": cell.cipher.name,
        "offload": cell.offload.value,
        "tx": _or_null(cell.tx),
        "rx": _or_null(cell.rx),
        "data": _or_null(cell.data),
    }


def _trial(trial: EngineTrial) -> dict[str, object]:
    return {
        "engine": trial.engine.value,
        "version": trial.version.label,
        "suite": trial.suite,
        "offload": trial.offload.value,
        "handshake": _or_null(trial.handshake),
        "tx": _or_null(trial.tx),
        "rx": _or_null(trial.rx),
        "data": _or_null(trial.data),
    }


def _mode(mode: Mode) -> dict[str, object]:
    return {
        "version": mode.version.label,
        "mode": mode.name,
        "offload": mode.offload.value,
        "engine": None if mode.engine is None else mode.engine.value,
        "reason": mode.reason,
    }
