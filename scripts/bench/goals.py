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
_GONE = 50_000  # connections that came and went; fewer do not show a small leak
_MOST, _LEAST = "<=", ">="

_Measure = Callable[[Results], float | None]


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
    measure: _Measure
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
        sign = _LEAST if self.goal.is_least else _MOST
        word = "met   " if self.is_met else "MISSED"
        return f"{word} {self.figure:7.2f}  {sign} {self.goal.bound:<5g} {self.goal.title}"

    def to_dict(self) -> dict[str, object]:
        """Return what goes into JSON."""
        goal = self.goal
        values = {"title": goal.title, "bound": goal.bound, "is_least": goal.is_least}
        return {**values, "figure": self.figure, "is_met": self.is_met}


def _median(found: Spread | None) -> float | None:
    return found.median if found else None


def _cost(load: str, server: str, reference: str) -> _Measure:
    return lambda results: _median(results.ratio(LOADS[load], server, reference))


def _rate(load: str, server: str, reference: str) -> _Measure:
    return lambda results: _median(results.rate_ratio(LOADS[load], server, reference))


def _growth(results: Results) -> float | None:
    few, many = results.held("gate", _FEW), results.held("gate", _MANY)
    return (many.rss - few.rss) / _KIB if few and many else None


def _entries(results: Results) -> float | None:
    few, many = results.held("gate", _FEW), results.held("gate", _MANY)
    # Both have those of the connections to the backend that are kept.
    return float(many.epoll_entries - few.epoll_entries) if few and many else None


def _each(held: Held | None) -> float:
    return held.bytes_each if held else 0.0


def _memory(server: str, reference: str) -> _Measure:
    def measure(results: Results) -> float | None:
        ours, theirs = (_each(results.held(name, _COMMON)) for name in (server, reference))
        return ours / theirs if ours and theirs else None

    return measure


def _calls(results: Results) -> float | None:
    calls = results.called("gate")
    # Elsewhere the same calls are made, but how often one waits depends on the machine.
    return calls.total if calls and not results.is_keyless else None


def _leak(results: Results) -> float | None:
    leak = results.leak("gate")
    return leak.grown / _KIB if leak and leak.connections >= _GONE else None


_ROWS: tuple[tuple[_Measure, str, float, str], ...] = (
    (_cost("conn", "gate", "nginx"), "<=", 1.10,
     "CPU of a connection handed over / of one through nginx"),
    (_cost("conn", "gate", "floor"), "<=", 1.30,
     "CPU of a connection handed over / of the same path in C"),
    (_cost("conn", "gate", "nginx-ktls"), "<=", 1.10,
     "CPU of a connection handed over / of one through nginx with kTLS"),
    (_rate("conn", "gate", "nginx-ktls"), ">=", 0.91,
     "new connections a second, handed over / through nginx with kTLS"),
    (_calls, "<=", 30,
     "system calls of a connection handed over with kTLS"),
    (_cost("resumed", "gate", "nginx"), "<=", 1.10,
     "CPU of a connection handed over / of one through nginx, resumed"),
    (_cost("rsa", "gate", "nginx"), "<=", 1.05,
     "CPU of a connection handed over / of one through nginx, RSA-2048"),
    (_cost("keep", "gate", "nginx"), "<=", 0.01,
     "CPU of a request after the handoff / of one through nginx"),
    (_rate("keep", "gate", "nginx"), ">=", 1.5,
     "requests a second after the handoff / through nginx"),
    (_cost("latency-1", "gate", "nginx"), "<=", 1.05,
     "median time of a new connection, 1 at once / nginx"),
    (_cost("latency-64", "gate", "nginx"), "<=", 1.05,
     "median time of a new connection, 64 at once / nginx"),
    (_growth, "<=", 0.5,
     f"MB of growth from {_FEW:,} to {_MANY:,} connections handed over"),
    (_entries, "<=", 0,
     f"epoll entries more with {_MANY:,} connections handed over than with {_FEW:,}"),
    (_leak, "<=", 0.1,
     f"MB of growth behind the first fifth of {_GONE:,} connections"),
    (_memory("relay", "nginx"), "<=", 0.5,
     "memory of an idle relayed connection / nginx"),
    (_memory("relay", "haproxy-tcp"), "<=", 1.0,
     "memory of an idle relayed connection / haproxy tcp"),
    (_cost("keep", "relay", "haproxy-tcp"), "<=", 1.3,
     "CPU of a relayed request / haproxy tcp"),
    (_cost("down", "relay", "haproxy"), "<=", 1.0,
     "CPU of a relayed download / haproxy http"),
    (_cost("up", "relay", "haproxy"), "<=", 1.0,
     "CPU of a relayed upload / haproxy http"),
)  # fmt: skip

GOALS = tuple(
    Goal(title=title, bound=bound, measure=measure, is_least=sign == _LEAST)
    for measure, sign, bound, title in _ROWS
)


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on each goal that this run measured."""
    found = ((goal, goal.measure(results)) for goal in GOALS)
    return [Verdict(goal=goal, figure=figure) for goal, figure in found if figure is not None]
