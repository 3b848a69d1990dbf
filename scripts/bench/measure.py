"""What the kernel says of a process: CPU time, memory, descriptors, epoll entries.

CPU time is the process's own CPU clock (clock_getcpuclockid(3)): nanoseconds of user and system
time of all its threads, as the sum of /proc/PID/task/*/schedstat, and of those that have ended,
which schedstat forgets (stunnel has a thread for each connection).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Memory",
    "count_descriptors",
    "count_epoll_entries",
    "cpu_seconds",
    "family",
    "parse_memory",
    "read_memory",
]

_PROC = Path("/proc")
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h; a clock's number is ~pid << 3 | kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one or more processes, in KiB: resident, and its share of what is shared."""

    rss: int
    pss: int


def family(pid: int, proc: Path = _PROC) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for children in sorted(proc.glob(f"{pid}/task/*/children")):
        with contextlib.suppress(OSError):
            for child in children.read_text(encoding="ascii").split():
                found += family(int(child), proc)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used; 0 for one that is gone."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    return total / 1e9


def parse_memory(text: str) -> Memory:
    """Read smaps_rollup.

    Raises:
        KeyError: it is not one.
    """
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return Memory(rss=int(sizes["Rss"]), pss=int(sizes["Pss"]))


def read_memory(pids: Iterable[int], proc: Path = _PROC) -> Memory:
    """Add up the memory of processes."""
    texts = [(proc / str(pid) / "smaps_rollup").read_text(encoding="ascii") for pid in pids]
    parts = [parse_memory(text) for text in texts if text]
    return Memory(rss=sum(part.rss for part in parts), pss=sum(part.pss for part in parts))


def count_descriptors(pids: Iterable[int], proc: Path = _PROC) -> int:
    """Count open descriptors."""
    return sum(1 for pid in pids for _ in (proc / str(pid) / "fd").iterdir())


def count_epoll_entries(pids: Iterable[int], proc: Path = _PROC) -> int:
    """Count what the processes' epoll sets still watch, closed descriptors included.

    A socket that was passed on and closed here stays in the set as long as anybody holds it.
    """
    count = 0
    for pid in pids:
        for info in (proc / str(pid) / "fdinfo").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                count += len(re.findall(r"^tfd:", info.read_text(encoding="ascii"), re.MULTILINE))
    return count
