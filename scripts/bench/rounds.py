"""Loads that take turns: each round gives every server one slice of every load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .generator import Generator
from .loads import Load, Slice
from .servers import Server

__all__ = ["Plan", "Series", "in_turn", "run_rounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: after one that warms up and does not count.
        seconds: of a slice.
        bulk: bytes of one transfer.
    """

    rounds: int
    seconds: float
    bulk: int


@dataclass(slots=True, kw_only=True)
class Series:
    """The slices of one server under one load, by round."""

    load: str
    server: str
    slices: dict[int, Slice] = field(default_factory=dict)


def in_turn(servers: Sequence[Server], number: int) -> list[Server]:
    """Begin each round with the next one: nobody always runs behind the same neighbour."""
    first = number % len(servers) if servers else 0
    return [*servers[first:], *servers[:first]]


def run_rounds(
    servers: Sequence[Server],
    loads: Sequence[Load],
    generator: Generator,
    plan: Plan,
    progress: Callable[[str], None],
) -> list[Series]:
    """Measure; a server that fails a load in the first round is left out of it from then on."""
    found: dict[tuple[str, str], Series] = {}
    broken: set[tuple[str, str]] = set()
    for number in range(-1, plan.rounds):
        for load in loads:
            progress(f"round {max(number + 1, 0)} of {plan.rounds}: {load.title}")
            able = [server for server in servers if server.key == load.key]
            for server in in_turn(able, number + 1):
                place = load.name, server.peer.name
                if place in broken:
                    continue
                slice_ = generator.run(server, load.words_for(seconds=plan.seconds, bulk=plan.bulk))
                series = found.setdefault(place, Series(load=place[0], server=place[1]))
                if number >= 0 or not slice_.operations:
                    series.slices[max(number, 0)] = slice_
                if not slice_.operations:
                    broken.add(place)
    return list(found.values())
