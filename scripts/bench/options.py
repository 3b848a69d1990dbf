"""What the command line asks for."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import __doc__ as description
from .growth import LADDERS, Ladder
from .loads import LOADS, Load
from .peers import NGINX, NGINXES, PEERS
from .rounds import Plan

__all__ = ["CALLS", "IDLE", "KINDS", "LEAK", "ROOT", "Options", "parse_options"]

ROOT = Path(__file__).resolve().parents[2]
IDLE, LEAK, CALLS = "idle", "leak", "calls"
KINDS = (*LOADS, *LADDERS, IDLE, LEAK, CALLS)
_QUICK_KINDS = ("conn", "resumed", "rsa", "keep", "latency-1", "down", "up", IDLE)
_NEW_LOADS = ("mlkem",)  # which the load generator can only put with a new OpenSSL

_FULL = Plan(rounds=15, seconds=0.4, bulk=200_000_000)
_QUICK = Plan(rounds=1, seconds=0.15, bulk=30_000_000)
_IDLE_COUNTS = {False: (1_000, 5_000, 9_000, 15_000), True: (1_000,)}  # by whether it is quick
_LEAK_COUNTS = {False: 50_000, True: 1_000}
_MOST_QUICK = 1_000  # of a ladder


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes:
        kinds: of measurement: loads, ladders, ``idle``, ``leak``, ``calls``.
        servers: by name, nginx always among them.
        newest: whether programs of the newest distribution are to be had.
        plan: how long.
        idle: connections to hold.
        most: of a ladder, how high it is climbed.
        leak: connections to make.
        json: where all slices go; the pictures go beside it.
        is_recorded: whether the figures go into the history.
        compares: whether the last two of the history are shown, and nothing measured.
        readme: the README whose table is to be replaced, if any.
        gate_python: the interpreter that runs the gate; empty for this one.
        programs: a folder with load generator and backend, if they need not be compiled.
        command: that repeats this run.
    """

    kinds: tuple[str, ...]
    servers: tuple[str, ...]
    newest: bool
    plan: Plan
    idle: tuple[int, ...]
    most: int
    leak: int
    json: Path
    is_recorded: bool
    compares: bool
    readme: Path | None
    gate_python: str
    programs: Path | None
    command: str

    @property
    def loads(self) -> list[Load]:
        """The loads among the kinds."""
        return [LOADS[kind] for kind in self.kinds if kind in LOADS]

    @property
    def ladders(self) -> list[Ladder]:
        """The ladders among the kinds, as high as they are climbed."""
        return [LADDERS[kind].up_to(self.most) for kind in self.kinds if kind in LADDERS]


def _some_of(names: Sequence[str], what: str) -> Callable[[str], tuple[str, ...]]:
    """Return the reader of an argument that is a comma-separated choice."""

    def read(text: str) -> tuple[str, ...]:
        words = text.split(",")
        if unknown := [word for word in words if word not in names]:
            raise argparse.ArgumentTypeError(
                f"no {what} {', '.join(unknown)}; there are {', '.join(names)}"
            )
        return tuple(name for name in names if name in words)

    return read


def _counts(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"expected numbers of connections, got {text}")
    return tuple(sorted(map(int, words)))


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="bench", description=description, formatter_class=form)
    add = parser.add_argument
    add("--quick", action="store_true", help="about a minute: one short round of half the kinds")
    kinds, servers = _some_of(KINDS, "measurement"), _some_of(list(PEERS), "server")
    add("--only", type=kinds, metavar="KIND,...", help=", ".join(KINDS))
    add("--servers", type=servers, metavar="NAME,...", help=", ".join(PEERS))
    newest = "programs of the newest Debian, too (usual for root, unless it is to be quick)"
    add("--newest", action=argparse.BooleanOptionalAction, help=newest)
    add("--rounds", type=int, help="slices of each load for each server")
    add("--seconds", type=float, help="of a slice")
    add("--idle", type=_counts, metavar="N,...", help="connections to hold")
    add("--leak", type=int, metavar="N", help="connections to make when looking for leaks")
    add("--json", type=Path, metavar="FILE", help="every slice; the pictures go beside it")
    add("--record", action="store_true", help="keep the figures in scripts/bench/history")
    add("--compare", action="store_true", help="the last two of the history, nothing is measured")
    add("--readme", action="store_true", help="put tables and pictures into README.md")
    add("--gate-python", default="", metavar="FILE", help="the interpreter that runs the gate")
    add("--programs", type=Path, metavar="FOLDER", help="with tlsload, backend, floor, compiled")
    return parser


# What says where to and with which files, and not what is measured; whether a value follows.
_NOT_OF_THE_COMMAND = {
    "--json": True,
    "--record": False,
    "--readme": False,
    "--gate-python": True,
    "--programs": True,
}


def _command(arguments: Sequence[str]) -> str:
    """Return what repeats a run, with no path of this machine in it."""
    words, left = list(arguments), []
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if name not in _NOT_OF_THE_COMMAND:
            left.append(word)
        elif _NOT_OF_THE_COMMAND[name] and not equals:
            del words[:1]
    return f"make bench ARGS={shlex.quote(' '.join(left))}" if left else "make bench"


def _wants_newest(given: argparse.Namespace) -> bool:
    if given.newest is not None:
        return bool(given.newest)
    if given.servers:
        is_named = any(PEERS[name].is_newest for name in given.servers)
        return is_named or any(kind in _NEW_LOADS for kind in given.only or ())
    return not given.quick and os.geteuid() == 0


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        SystemExit: as argparse does.
    """
    given = _parser().parse_args(arguments)
    usual = _QUICK if given.quick else _FULL
    started = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    kinds = given.only or (_QUICK_KINDS if given.quick else KINDS)
    newest = _wants_newest(given)
    # Ratios are to nginx: without it there is nothing to say.
    references = NGINXES if any(kind in _NEW_LOADS for kind in kinds) else (NGINX,)
    names = {*references, *(given.servers or PEERS)}
    return Options(
        kinds=kinds,
        servers=tuple(n for n, peer in PEERS.items() if n in names and newest >= peer.is_newest),
        newest=newest,
        plan=Plan(
            rounds=given.rounds or usual.rounds,
            seconds=given.seconds or usual.seconds,
            bulk=usual.bulk,
        ),
        idle=given.idle or _IDLE_COUNTS[given.quick],
        most=_MOST_QUICK if given.quick else max(_IDLE_COUNTS[False]),
        leak=given.leak or _LEAK_COUNTS[given.quick],
        json=given.json or ROOT / "bench-results" / f"{started}.json",
        is_recorded=given.record,
        compares=given.compare,
        readme=ROOT / "README.md" if given.readme else None,
        gate_python=given.gate_python,
        programs=given.programs,
        command=_command(arguments),
    )
