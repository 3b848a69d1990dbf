"""Many connections that come and go: what of them is left in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .generator import Generator
from .measure import count_descriptors, read_memory
from .servers import Server

__all__ = ["Leak", "count_leaks"]

_SECONDS = 60.0  # bound of one portion
_PORTIONS = 5
_SETTLE = 1.0  # seconds until the last ones are closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """RSS in KiB after each fifth of the connections.

    Attributes:
        server: its name.
        connections: in all.
        errors: that failed.
        rss: after each portion.
        descriptors_before: open before.
        descriptors: open after.
    """

    server: str
    connections: int
    errors: int
    rss: tuple[int, ...]
    descriptors_before: int
    descriptors: int

    @property
    def grown(self) -> int:
        """KiB between the first fifth, when all caches are filled, and the last."""
        return self.rss[-1] - self.rss[0]


def count_leaks(
    servers: Sequence[Server],
    count: int,
    generator: Generator,
    progress: Callable[[str], None],
    settle: float = _SETTLE,
) -> list[Leak]:
    """Make so many connections with each server."""
    found = []
    portion = count // _PORTIONS
    for server in servers:
        pids = server.pids
        before, sizes, errors, done = count_descriptors(pids), [], 0, 0
        for number in range(_PORTIONS):
            progress(f"{portion * (number + 1)} connections: {server.peer.title}")
            slice_ = generator.make(server, portion, _SECONDS)
            errors, done = errors + slice_.errors, done + slice_.operations
            sizes.append(read_memory(pids).rss)
        time.sleep(settle)
        found.append(
            Leak(
                server=server.peer.name,
                connections=done,
                errors=errors,
                rss=tuple(sizes),
                descriptors_before=before,
                descriptors=count_descriptors(pids),
            )
        )
    return found
