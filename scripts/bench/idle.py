"""Connections that are held and silent: memory for each, and where each server stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .generator import Generator
from .measure import Memory, count_descriptors, count_epoll_entries, read_memory
from .servers import Server

__all__ = ["Held", "hold_idle"]

_SETTLE = 1.0  # seconds until nothing moves any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A server with so many connections.

    Attributes:
        server: its name.
        asked: how many were wanted.
        held: how many there were.
        rss: of the server then, in KiB.
        pss: the same, its share of what is shared.
        pss_before: before the first of them.
        descriptors: of the server then.
        descriptors_before: before.
        epoll_entries: what its epoll sets watched then.
        epoll_entries_before: before.
        first_error: why it were not more.
    """

    server: str
    asked: int
    held: int
    rss: int
    pss: int
    pss_before: int
    descriptors: int
    descriptors_before: int
    epoll_entries: int
    epoll_entries_before: int
    first_error: str

    @property
    def bytes_each(self) -> float:
        """Memory for each connection held; 0 where the server has not grown.

        A share of what others have mapped, too, changes when they come and go, by more than
        connections take that were handed over.
        """
        return max(self.pss - self.pss_before, 0) * 1024 / self.held if self.held else 0.0

    @property
    def is_short(self) -> bool:
        """Whether the server stopped before all were there."""
        return self.held < self.asked


def _sleep() -> None:
    time.sleep(_SETTLE)


def _hold(
    server: Server,
    generator: Generator,
    count: int,
    before: tuple[Memory, int, int],
    settle: Callable[[], None],
) -> Held:
    pids = server.pids
    with generator.holding(server, "idle", count) as holding:
        settle()
        memory = read_memory(pids)
        held = Held(
            server=server.peer.name,
            asked=count,
            held=holding.held,
            rss=memory.rss,
            pss=memory.pss,
            pss_before=before[0].pss,
            descriptors=count_descriptors(pids),
            descriptors_before=before[1],
            epoll_entries=count_epoll_entries(pids),
            epoll_entries_before=before[2],
            first_error=holding.first_error,
        )
    settle()
    return held


def hold_idle(
    servers: Sequence[Server],
    counts: Sequence[int],
    generator: Generator,
    progress: Callable[[str], None],
    settle: Callable[[], None] = _sleep,
) -> list[Held]:
    """Hold 1,000 and so on, in growing numbers; a server that stopped is not asked for more."""
    found = []
    for server in servers:
        pids = server.pids
        before = read_memory(pids), count_descriptors(pids), count_epoll_entries(pids)
        for count in counts:
            progress(f"{count} idle connections: {server.peer.title}")
            held = _hold(server, generator, count, before, settle)
            found.append(held)
            if held.is_short:
                break
    return found
