"""Flags of the command line, written into the raw document before it is read.

So flags win over the file (as hitch's do), one set of readers checks both, and a
complaint names the flag instead of a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config_source import Source

__all__ = ["Flags", "put_flags"]

# The name in log lines of the one backend that comes from a flag and has no table.
_BACKEND = "backend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says; empty means not given.

    ``listen`` and ``backend`` take the place of all listeners and of all routes
    and backends of the file; ``cert`` that of its certificate and key. ``ktls``
    is the switch for an emergency: it is stronger than what single listeners
    say. File names are relative to the current folder.
    """

    listen: tuple[str, ...] = ()
    cert: str = ""
    key: str = ""
    backend: str = ""
    ktls: str = ""
    log_level: str = ""
    log_format: str = ""
    log_file: str = ""


def put_flags(source: Source, flags: Flags) -> None:
    """Put every flag that was given into the document."""
    for key in ("ktls", "log_level", "log_format"):
        if value := getattr(flags, key):
            source.put((key,), value, "--" + key.replace("_", "-"))
    if flags.log_file:
        source.put(("log_file",), _log_file(flags.log_file), "--log-file")
    if flags.listen:
        source.put(("listen",), [{"address": text} for text in flags.listen], "--listen")
    if flags.ktls:
        for table in _tables(source.document.get("listen")):
            table.pop("ktls", None)
    _put_certificate(source, flags)
    if flags.backend:
        address = re.sub(r"\Aunix:(?=[^/@])", lambda _: f"unix:{Path.cwd()}/", flags.backend)
        source.put(("backend",), {_BACKEND: {"address": address}}, "--backend")
        source.put(("route",), [{"backend": _BACKEND}], "--backend")


def _put_certificate(source: Source, flags: Flags) -> None:
    if flags.cert:
        source.put(("cert",), [{"file": str(Path.cwd() / flags.cert)}], "--cert")
    if flags.key:
        if len(_tables(source.document.get("cert"))) != 1:
            source.put(("cert",), [{}], "--key")
        source.put(("cert", 0, "key"), str(Path.cwd() / flags.key), "--key")


def _log_file(name: str) -> str:
    return name if name in ("stderr", "stdout") else str(Path.cwd() / name)


def _tables(raw: object) -> list[dict[str, Any]]:
    """Return the tables of an array of tables, none if it is anything else."""
    is_sound = isinstance(raw, list) and all(isinstance(table, dict) for table in raw)
    return raw if isinstance(raw, list) and is_sound else []
