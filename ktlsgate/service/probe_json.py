"""The probe's report for programs: one JSON object on one line.

It is stable under ``"schema": 1``: fields may be added, none is renamed, removed or
given another type; `tests/service/test_probe_json.py` pins the tree. An OUTCOME is
``{"ok": bool, "errno": NAME or null, "reason": text}``, and null where nothing was
tried::

    schema      1
    exit_code   what the process ends with
    failure     why the probe itself failed, or ""
    summary     the line that a gate logs when it starts, or one more exact
    system      kernel, build, machine, uid, net_admin, first_user_namespace, seccomp,
                available_ulps, tls_module_loaded, tls_stat, container; capabilities: the
                effective ones in hexadecimal; tls_module_file: modprobe could find one;
                module_rules: list of lines that keep modprobe from loading what kTLS
                needs, each with its file; null is unknown
    ulp         OUTCOME
    ciphers     list of: version, cipher, offload ("both", "tx", "none"); tx, rx, data: OUTCOME
    features    name → OUTCOME; empty when no cipher works both ways
    counters    moved: name → by how much /proc/net/tls_stat rose meanwhile, null where that
                file is absent; proof: OUTCOME, whether it rose with each key
    openssl     library, pyopenssl, cryptography (versions or ""), has_ktls (null: unknown),
                problem ("" when the engines were tried)
    engines     list of: engine, version, suite, offload; handshake, tx, rx, data: OUTCOME
    modes       list of: version, mode ("handoff", "relay"), offload, engine or null, reason;
                the most that any engine gives
    comparisons list of: version, better (the engine that gives more, null: both the same),
                reason (what keeps the other back); empty where no engine was tried
    advice      list of lines
    python      version, trio (version or "")
    required    null without --require; names: list as given; missing: list of: name, reason
"""

from __future__ import annotations

import json
import platform

from ..kernel.engines import EngineTrial
from ..kernel.openssl_probe import OpenSslReport
from ..kernel.probe import Cell
from ..kernel.system import SystemFacts
from ..kernel.tls_stat import CounterChange, CounterCheck
from ..kernel.trials import NOT_TRIED, Outcome
from .probe_advice import advise
from .probe_findings import Comparison, Findings, Mode
from .probe_require import Requirements, exit_code_for, missing_from

__all__ = ["json_moved", "json_outcome", "render_json"]

_SCHEMA = 1


def render_json(findings: Findings, wanted: Requirements | None = None) -> str:
    """Build the documented object on one line."""
    capabilities, openssl = findings.capabilities, findings.openssl
    report = {
        "schema": _SCHEMA,
        "exit_code": exit_code_for(findings, wanted),
        "failure": findings.failure,
        "summary": findings.summary,
        "system": _system(capabilities.system),
        "ulp": json_outcome(capabilities.offload.ulp) | {"reason": capabilities.ulp_reason},
        "ciphers": [_cell(cell) for cell in capabilities.offload.cells],
        "features": {f.name.value: _or_null(f.outcome) for f in capabilities.features},
        "counters": _counters(capabilities.counters),
        "openssl": _openssl(openssl),
        "engines": [_trial(trial) for trial in openssl.trials],
        "modes": [_mode(mode) for mode in findings.modes],
        "comparisons": [_comparison(each) for each in findings.comparisons],
        "advice": list(advise(findings)),
        "python": {"version": platform.python_version(), "trio": openssl.libraries.trio},
        "required": None if wanted is None else _required(findings, wanted),
    }
    return json.dumps(report, ensure_ascii=True)


def json_outcome(outcome: Outcome) -> dict[str, object]:
    """Build an OUTCOME."""
    name = outcome.label if outcome.errno else None
    return {"ok": outcome.ok, "errno": name, "reason": outcome.reason}


def _or_null(outcome: Outcome) -> dict[str, object] | None:
    return None if outcome is NOT_TRIED else json_outcome(outcome)


def json_moved(moved: tuple[CounterChange, ...] | None) -> dict[str, int] | None:
    """Build the counters that moved."""
    return None if moved is None else {change.name: change.by for change in moved}


def _counters(counters: CounterCheck) -> dict[str, object]:
    return {"moved": json_moved(counters.moved), "proof": _or_null(counters.proof)}


def _openssl(report: OpenSslReport) -> dict[str, object]:
    return {
        "library": report.libraries.openssl,
        "pyopenssl": report.libraries.pyopenssl,
        "cryptography": report.libraries.cryptography,
        "has_ktls": report.has_ktls,
        "problem": report.problem,
    }


def _required(findings: Findings, wanted: Requirements) -> dict[str, object]:
    missing = missing_from(findings, wanted)
    return {
        "names": list(wanted.names),
        "missing": [{"name": each.name, "reason": each.reason} for each in missing],
    }


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
        "capabilities": None if system.capabilities is None else f"{system.capabilities:016x}",
        "tls_module_file": system.has_module_file,
        "module_rules": list(map(str, system.module_rules)),
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


def _comparison(each: Comparison) -> dict[str, object]:
    return {
        "version": each.version.label,
        "better": None if each.better is None else each.better.value,
        "reason": each.reason,
    }


def _mode(mode: Mode) -> dict[str, object]:
    return {
        "version": mode.version.label,
        "mode": mode.name,
        "offload": mode.offload.value,
        "engine": None if mode.engine is None else mode.engine.value,
        "reason": mode.reason,
    }
