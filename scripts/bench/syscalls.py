"""System calls for each new connection, counted by strace.

A figure that needs no calm machine: it is the same under load, and in user-mode Linux, where each
costs fifty microseconds.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .generator import Generator
from .machine import BenchError
from .servers import Server

__all__ = ["Calls", "count_calls", "parse_calls"]

_SECONDS = 60.0  # bound
_STOP_SECONDS = 20.0
_ATTACHED = " attached"
_NOT_ATTACHED = re.compile(r"ptrace\(PTRACE_(?:SEIZE|ATTACH)\b[^)]*\): (.+)$")
_FORBIDDEN = (
    "ptrace is forbidden here (strace needs CAP_SYS_PTRACE, or the servers' user and"
    " kernel.yama.ptrace_scope = 0)"
)
# They leave the process only where the kernel has no vDSO, as in user-mode Linux.
_IN_USER_SPACE = frozenset(("clock_gettime", "gettimeofday", "time", "getpid"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What a server asked the kernel for.

    Attributes:
        server: its name.
        connections: in all.
        calls: by system call, in all.
    """

    server: str
    connections: int
    calls: dict[str, int]

    @property
    def each(self) -> dict[str, float]:
        """By system call for each connection, the most frequent first."""
        counts = sorted(self.calls.items(), key=lambda item: -item[1])
        return {name: count / self.connections for name, count in counts}

    @property
    def total(self) -> float:
        """For each connection."""
        return sum(self.each.values())


def parse_calls(text: str) -> dict[str, int]:
    """Read the table of ``strace -c``."""
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", text, re.MULTILINE)
    return {name: int(count) for count, name in rows if name not in {"total", *_IN_USER_SPACE}}


def _find_refusal(lines: Iterable[str], count: int) -> str:
    """Read what strace says until it is attached to so many; why it is not, empty if it is.

    It warns of other things meanwhile, and goes on when it may look into some of them only.
    """
    said = ""
    for line in lines:
        said = line.strip()
        if failed := _NOT_ATTACHED.search(said):
            reason = failed.group(1)
            return _FORBIDDEN if reason == os.strerror(errno.EPERM) else f"strace: {reason}"
        count -= _ATTACHED in said
        if not count:
            return ""
    return f"strace ended: {said or 'it said nothing'}"


def _attach(pids: Sequence[int], table: Path) -> subprocess.Popen[str]:
    """Start to count; return when it has begun."""
    chosen = [word for pid in pids for word in ("-p", str(pid))]
    process = subprocess.Popen(
        ["strace", "-f", "-c", "-o", str(table), *chosen], stderr=subprocess.PIPE, text=True
    )
    if process.stderr is None:
        raise AssertionError("stderr=PIPE gives a stream")
    if refusal := _find_refusal(process.stderr, len(pids)):
        process.kill()
        process.communicate()
        raise BenchError(f"system calls were not counted: {refusal}")
    return process


def _detach(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def count_calls(
    servers: Sequence[Server], count: int, generator: Generator, progress: Callable[[str], None]
) -> list[Calls]:
    """Count while so many connections are made, with each server.

    Raises:
        BenchError: there is no strace, or it may not look.
    """
    if shutil.which("strace") is None:
        raise BenchError("system calls were not counted: no strace (apt-get install strace)")
    found = []
    for server in servers:
        progress(f"system calls: {server.peer.title}")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            table = Path(folder) / "table"
            process = _attach(server.pids, table)
            try:
                slice_ = generator.make(server, count, _SECONDS)
            finally:
                _detach(process)
            calls = parse_calls(table.read_text(encoding="utf-8"))
        done = max(slice_.operations, 1)
        found.append(Calls(server=server.peer.name, connections=done, calls=calls))
    return found
