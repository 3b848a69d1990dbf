"""What ``--listen-check`` saw, for people and for programs.

The JSON (one object on one line) is stable under ``"schema": 1``, as the probe's own::

    schema      1
    exit_code   0 both directions, 1 sending only, 3 relayed, 4 there is no answer
    verdict     "both", "tx", "relayed", "own_answer", "elsewhere", "unknown", "failed"
    reason      what the verdict rests on
    target      host, port, servername, path
    connection  client, gate (addresses or ""), is_here; certificate_verified (false)
    handshake   ok, version, cipher, reason
    socket      ulp, tx, rx ("none", "software", "hardware", "hardware_record", null: not
                told) of the gate's end; null when the kernel does not tell
    socket_reason  why it does not, or ""
    counters    name → by how much /proc/net/tls_stat rose meanwhile; null where absent
    answer      the status line, or ""
    answer_reason  why there is none, or ""
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..wire.inet_diag import Keys, SocketAnswer
from .listen_check import CheckResult, Verdict
from .probe_json import json_moved
from .probe_text import Look

__all__ = ["render_check_json", "render_check_text"]

_SCHEMA = 1
_MARKS = {Verdict.BOTH: True, Verdict.TX: False, Verdict.RELAYED: False}
_NO_FILE = "none: no /proc/net/tls_stat"


def render_check_text(result: CheckResult, look: Look) -> str:
    """Write the report, its verdict last."""
    lines = [f"{name:<18} {value}" for name, value in _rows(result, look)]
    mark = look.marks[_MARKS.get(result.verdict)]
    lines.append(f"{'verdict':<18} {mark} {result.verdict.value}: {result.reason}")
    return "\n".join(lines) + "\n"


def _rows(result: CheckResult, look: Look) -> Iterator[tuple[str, str]]:
    if result.ends[0]:
        yield "connection", f"{result.ends[0]} to {result.ends[1]}"
    if result.failure:
        yield "handshake", f"{look.marks[False]} {result.failure}"
        return
    agreed = f"{result.version} {result.cipher} (certificate not verified)"
    yield "handshake", f"{look.marks[True]} {agreed}"
    yield "the gate's socket", _socket_words(result)
    moved = result.moved
    yield "counters", _NO_FILE if moved is None else ", ".join(map(str, moved)) or "none moved"
    yield "answer", result.answer or result.answer_reason


def _socket_words(result: CheckResult) -> str:
    found = result.socket
    if found is None:
        return result.socket_reason or "not looked for on another machine"
    if not found.ulp:
        return "no upper layer protocol"
    return f"ULP {found.ulp}, sending keys {_keys(found.tx)}, receiving keys {_keys(found.rx)}"


def _keys(keys: Keys | None) -> str:
    return "not told" if keys is None else keys.name.lower().replace("_", " ")


def render_check_json(result: CheckResult) -> str:
    """Build the documented object on one line."""
    target = result.target
    report = {
        "schema": _SCHEMA,
        "exit_code": result.verdict.exit_code,
        "verdict": result.verdict.name.lower(),
        "reason": result.reason,
        "target": {
            "host": target.host,
            "port": target.port,
            "servername": target.servername,
            "path": target.path,
        },
        "connection": {
            "client": result.ends[0],
            "gate": result.ends[1],
            "is_here": result.is_here,
            "certificate_verified": False,
        },
        "handshake": {
            "ok": not result.failure,
            "version": result.version,
            "cipher": result.cipher,
            "reason": result.failure,
        },
        "socket": None if result.socket is None else _socket(result.socket),
        "socket_reason": result.socket_reason if result.socket is None else "",
        "counters": json_moved(result.moved),
        "answer": result.answer,
        "answer_reason": result.answer_reason,
    }
    return json.dumps(report, ensure_ascii=True)


def _socket(found: SocketAnswer) -> dict[str, str | None]:
    names = [None if keys is None else keys.name.lower() for keys in (found.tx, found.rx)]
    return {"ulp": found.ulp, "tx": names[0], "rx": names[1]}
