"""What a connection handed over costs, by how much of something else there is.

Each ladder has a gate for each of its steps. All of them are up at once and take turns, so that a
step can be compared with the smallest one in the same round; flat is what is hoped for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from .configs import Site, gate_config
from .generator import Generator
from .loads import LOADS, Slice
from .peers import PEERS, Peer
from .rounds import Plan, run_rounds
from .servers import Server

__all__ = ["LADDERS", "Ladder", "Step", "climb"]

_LOAD = LOADS["conn"]


def _with_routes(count: int) -> Callable[[Site], str]:
    """Return what configures a gate whose last route is the one that is taken."""
    return lambda site: gate_config(site, other_hosts=count - 1)


def _patient(_: int) -> Callable[[Site], str]:
    """Return what configures a gate that waits for a handshake longer than a run takes."""
    return lambda site: gate_config(site, handshake_timeout=3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Something of which there may be more and more.

    Attributes:
        name: in options and results.
        title: in tables.
        sizes: how many there are of it, step by step.
        configure: for a size, what configures the gate.
        mode: of the load generator that holds so many; empty if none are to be held.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    configure: Callable[[int], Callable[[Site], str]] = _patient
    mode: str = ""

    def up_to(self, most: int) -> Ladder:
        """Return the lower part of it."""
        return dataclasses.replace(self, sizes=tuple(size for size in self.sizes if size <= most))

    def peer(self, size: int) -> Peer:
        """Return the gate of a step."""
        name = f"{self.name}-{size}"
        return dataclasses.replace(PEERS["gate"], name=name, configure=self.configure(size))


LADDERS = {
    ladder.name: ladder
    for ladder in (
        Ladder(
            name="routes",
            title="routes",
            sizes=(1, 10, 100, 1_000),
            configure=_with_routes,
        ),
        Ladder(
            name="shaking",
            title="handshakes half done",
            sizes=(1, 10, 100, 1_000),
            mode="half",
        ),
        Ladder(
            name="held",
            title="connections held, handed over",
            sizes=(0, 1_000, 15_000),
            mode="idle",
        ),
    )
}


@dataclass(slots=True, kw_only=True)
class Step:
    """New connections to the gate of one step of a ladder.

    Attributes:
        ladder: its name.
        size: that was asked for.
        held: connections that were there, where some are to be held.
        first_error: why it were not more.
        slices: by round.
    """

    ladder: str
    size: int
    held: int = 0
    first_error: str = ""
    slices: dict[int, Slice] = field(default_factory=dict)

    @property
    def is_short(self) -> bool:
        """Whether there were fewer than its size says."""
        return bool(LADDERS[self.ladder].mode) and self.held < self.size

    @property
    def costs(self) -> dict[int, float]:
        """CPU microseconds of a connection, by round."""
        return {n: s.figure(_LOAD) for n, s in self.slices.items() if s.operations}


_Start = Callable[[Peer], AbstractContextManager[list[Server]]]


def climb(
    ladder: Ladder,
    start: _Start,
    generator: Generator,
    plan: Plan,
    progress: Callable[[str], None],
) -> list[Step]:
    """Measure the steps of a ladder, in turn."""
    steps, servers = {}, []
    with contextlib.ExitStack() as stack:
        for size in ladder.sizes:
            progress(f"{size} {ladder.title}")
            step = Step(ladder=ladder.name, size=size)
            for server in stack.enter_context(start(ladder.peer(size))):
                if ladder.mode and size:
                    holding = stack.enter_context(generator.holding(server, ladder.mode, size))
                    step.held, step.first_error = holding.held, holding.first_error
                servers.append(server)
                steps[server.peer.name] = step
        for series in run_rounds(servers, [_LOAD], generator, plan, progress):
            steps[series.server].slices = series.slices
    return list(steps.values())
