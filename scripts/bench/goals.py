"""The figures that the gate is to reach, as a table, and whether it does."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from .idle import Held
from .loads import LOADS
from .results import Results
from .stats import Spread

__all__ = ["GOALS", "Goal", "Verdict", "judge"]

_KIB = 1024
_FEW, _MANY, _COMMON = 1_000, 15_000, 5_000  # idle connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure and its bound.

    Attributes:
        title: in words.
        bound: that it must not pass.
        measure: finds the figure; None if this run did not measure it.
        is_least: whether more is better.
    """

    title: str
    bound: float
    measure: Callable[[Results], float | None]
    is_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A goal and what came out."""

    goal: Goal
    figure: float

    @property
    def is_met(self) -> bool:
        """Whether the figure, to two digits, is within the bound."""
        within = operator.ge if self.goal.is_least else operator.le
        return bool(within(round(self.figure, 2), self.goal.bound))

    @property
    def line(self) -> str:
        """The verdict for people."""
        sign = ">=" if self.goal.is_least else "<="
        word = "met   " if self.is_met else "MISSED"
        return f"{word} {self.figure:7.2f}  {sign} {self.goal.bound:<5g} {self.goal.title}"

    def to_dict(self) -> dict[str, object]:
        """Return what goes into JSON."""
        goal = self.goal
        values = {"title": goal.title, "bound": goal.bound, "is_least": goal.is_least}
        return {**values, "figure": self.figure, "is_met": self.is_met}


def _median(found: Spread | None) -> float | None:
    return found.median if found else None


def _cost(load: str, server: str, reference: str) -> Callable[[Results], float | None]:
    return lambda results: _median(results.ratio(LOADS[load], server, reference))


def _rate(load: str, server: str, reference: str) -> Callable[[Results], float | None]:
    return lambda results: _median(results.rate_ratio(LOADS[load], server, reference))


def _growth(results: Results) -> float | None:
    few, many = results.held("gate", _FEW), results.held("gate", _MANY)
    return (many.rss - few.rss) / _KIB if few and many else None


def _entries(results: Results) -> float | None:
    many = results.held("gate", _MANY)
    return float(many.epoll_entries - many.epoll_entries_before) if many else None


def _each(held: Held | None) -> float:
    return held.bytes_each if held else 0.0


def _memory(reference: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        ours, theirs = (_each(results.held(name, _COMMON)) for name in ("relay", reference))
        return ours / theirs if ours and theirs else None

    return measure


def _calls(results: Results) -> float | None:
    calls = results.called("gate")
    # Elsewhere the same calls are made, but how often one waits depends on the machine.
    return calls.total if calls and not results.is_keyless else None


def _leak(results: Results) -> float | None:
    leak = results.leak("gate")
    return leak.grown / _KIB if leak else None


GOALS = (
    Goal(
        title="CPU of a connection handed over / of one through nginx",
        bound=1.10,
        measure=_cost("conn", "gate", "nginx"),
    ),
    Goal(
        title="CPU of a connection handed over / of the same path in C",
        bound=1.30,
        measure=_cost("conn", "gate", "floor"),
    ),
    Goal(
        title="CPU of a connection handed over / of one through nginx with kTLS",
        bound=1.10,
        measure=_cost("conn", "gate", "nginx-ktls"),
    ),
    Goal(
        title="new connections a second, handed over / through nginx with kTLS",
        bound=0.91,
        measure=_rate("conn", "gate", "nginx-ktls"),
        is_least=True,
    ),
    Goal(title="system calls of a connection handed over with kTLS", bound=30, measure=_calls),
    Goal(
        title="CPU of a connection handed over / of one through nginx, resumed",
        bound=1.10,
        measure=_cost("resumed", "gate", "nginx"),
    ),
    Goal(
        title="CPU of a connection handed over / of one through nginx, RSA-2048",
        bound=1.05,
        measure=_cost("rsa", "gate", "nginx"),
    ),
    Goal(
        title="CPU of a request after the handoff / of one through nginx",
        bound=0.01,
        measure=_cost("keep", "gate", "nginx"),
    ),
    Goal(
        title="requests a second after the handoff / through nginx",
        bound=1.5,
        measure=_rate("keep", "gate", "nginx"),
        is_least=True,
    ),
    Goal(
        title="median time of a new connection, 1 at once / nginx",
        bound=1.05,
        measure=_cost("latency-1", "gate", "nginx"),
    ),
    Goal(
        title="median time of a new connection, 64 at once / nginx",
        bound=1.05,
        measure=_cost("latency-64", "gate", "nginx"),
    ),
    Goal(
        title="MB of growth from 1,000 to 15,000 connections handed over",
        bound=0.5,
        measure=_growth,
    ),
    Goal(
        title="epoll entries more than before, 15,000 connections handed over",
        bound=0,
        measure=_entries,
    ),
    Goal(
        title="MB of growth behind the first fifth of 50,000 connections", bound=0.1, measure=_leak
    ),
    Goal(
        title="memory of an idle relayed connection / nginx",
        bound=0.5,
        measure=_memory("nginx"),
    ),
    Goal(
        title="memory of an idle relayed connection / haproxy tcp",
        bound=1.0,
        measure=_memory("haproxy-tcp"),
    ),
    Goal(
        title="CPU of a relayed request / haproxy tcp",
        bound=1.3,
        measure=_cost("keep", "relay", "haproxy-tcp"),
    ),
    Goal(
        title="CPU of a relayed download / haproxy http",
        bound=1.0,
        measure=_cost("down", "relay", "haproxy"),
    ),
    Goal(
        title="CPU of a relayed upload / haproxy http",
        bound=1.0,
        measure=_cost("up", "relay", "haproxy"),
    ),
)


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on each goal that this run measured."""
    found = ((goal, goal.measure(results)) for goal in GOALS)
    return [Verdict(goal=goal, figure=figure) for goal, figure in found if figure is not None]
