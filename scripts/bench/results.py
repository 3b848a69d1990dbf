"""All that was measured, and the questions that tables ask of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .growth import Step
from .idle import Held
from .leak import Leak
from .loads import LOADS, Load, Slice
from .peers import NGINX, NGINXES
from .rounds import Series
from .stats import Spread, paired_ratios, spread
from .syscalls import Calls

__all__ = ["Results"]

_Figure = Callable[[Slice], float]


@dataclass(slots=True, kw_only=True)
class Results:
    """One run.

    Attributes:
        machine: facts, by name.
        command: that repeats it.
        is_keyless: whether no kernel took the gate's keys.
        servers: that ran, in the order of tables.
        notes: who was left out, and why.
        series: slices.
        growth: what a connection costs beside more and more of something.
        idle: connections held.
        leaks: what many connections left behind.
        calls: system calls.
    """

    machine: dict[str, str]
    command: str
    is_keyless: bool
    servers: list[str]
    notes: list[str] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    growth: list[Step] = field(default_factory=list)
    idle: list[Held] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    calls: list[Calls] = field(default_factory=list)

    @property
    def loads(self) -> list[Load]:
        """Those that ran, in the order of the table of loads."""
        ran = {series.load for series in self.series}
        return [load for name, load in LOADS.items() if name in ran]

    def _slices(self, load: Load, server: str) -> dict[int, Slice]:
        for series in self.series:
            if (series.load, series.server) == (load.name, server):
                return series.slices
        return {}

    def values(self, load: Load, server: str, figure: _Figure) -> dict[int, float]:
        """Return one figure of each round in which the server did anything."""
        slices = self._slices(load, server)
        return {n: figure(s) for n, s in slices.items() if s.operations}

    def reference(self, load: Load) -> str:
        """Return whom the others are compared with: nginx, or a newer one if only that is able."""
        able = [name for name in NGINXES if self.values(load, name, lambda s: s.wall)]
        return able[0] if able else NGINX

    def cost(self, load: Load, server: str) -> Spread | None:
        """Return what counts, in the load's unit."""
        return spread(list(self.values(load, server, lambda s: s.figure(load)).values()))

    def rate(self, load: Load, server: str) -> Spread | None:
        """Return operations or GB a second."""
        return spread(list(self.values(load, server, lambda s: s.rate(load)).values()))

    def ratio(self, load: Load, server: str, reference: str = "") -> Spread | None:
        """Return what counts, divided by the reference's in the same round."""
        return self.compare(load, server, reference, lambda s: s.figure(load))

    def rate_ratio(self, load: Load, server: str, reference: str = "") -> Spread | None:
        """Return operations a second, divided by the reference's in the same round."""
        return self.compare(load, server, reference, lambda s: s.rate(load))

    def with_backend_ratio(self, load: Load, server: str, reference: str = "") -> Spread | None:
        """Return CPU time of server and backend together, divided by the reference's."""
        cpu = dataclasses.replace(load, is_latency=False)
        return self.compare(
            load, server, reference, lambda s: s.figure(cpu) + s.backend_figure(cpu)
        )

    def compare(self, load: Load, server: str, reference: str, figure: _Figure) -> Spread | None:
        """Return the ratios of any figure, to the load's own reference if none is named."""
        names = server, reference or self.reference(load)
        values, references = (self.values(load, name, figure) for name in names)
        return spread(paired_ratios(values, references))

    def errors(self, load: Load, server: str) -> tuple[int, str]:
        """Return how many operations failed, and what the first one said."""
        slices = self._slices(load, server).values()
        said = next((s.first_error for s in slices if s.first_error), "")
        return sum(s.errors for s in slices), said

    def connections_without_resumption(self, load: Load, server: str) -> int:
        """Return how many were made where each should have resumed a session and none did."""
        slices = self._slices(load, server).values()
        if not load.resumes or any(s.resumed for s in slices):
            return 0
        return sum(s.operations for s in slices)

    def held(self, server: str, count: int) -> Held | None:
        """Return a server with exactly so many idle connections, if it could hold them."""
        for held in self.idle:
            if (held.server, held.held) == (server, count):
                return held
        return None

    def climbed(self, ladder: str) -> list[Step]:
        """Return the steps of a ladder, the smallest first."""
        return [step for step in self.growth if step.ladder == ladder]

    def growth_ratio(self, step: Step) -> Spread | None:
        """Return a step's cost, divided by the smallest step's of its ladder in the same round."""
        first = self.climbed(step.ladder)[0]
        if step.is_short or step is first:
            return None
        return spread(paired_ratios(step.costs, first.costs))

    def called(self, server: str) -> Calls | None:
        """Return the system calls of a server."""
        return next((calls for calls in self.calls if calls.server == server), None)

    def leak(self, server: str) -> Leak | None:
        """Return what connections left behind in a server."""
        return next((leak for leak in self.leaks if leak.server == server), None)

    def to_json(self, summary: Sequence[dict[str, object]]) -> str:
        """Write everything, single slices included."""
        whole = {"schema": 2, **dataclasses.asdict(self), "goals": list(summary)}
        return json.dumps(whole, indent=1) + "\n"
