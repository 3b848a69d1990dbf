"""The command: options, and the order in which things are measured."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktlsgate.config import Offload
from ktlsgate.kernel.probe import probe_offload

from . import __doc__ as description
from .chart import draw
from .goals import judge
from .idle import Held, hold_idle
from .leak import Leak, count_leaks
from .loads import LOADS, Generator, Load
from .machine import (
    BenchError,
    Cpus,
    build_programs,
    choose_cpus,
    describe_machine,
    find_programs,
    install_peers,
)
from .peers import NGINX, PEERS, Peer, absent_packages, is_installed
from .readme import replace_table
from .report import markdown, terminal
from .results import Results
from .rounds import Plan, Series, run_rounds
from .servers import KEYS, Server, free_port, make_certificates, run_backend, run_server
from .syscalls import Calls, count_calls

__all__ = ["Options", "main", "parse_options"]

ROOT = Path(__file__).resolve().parents[2]
_IDLE, _LEAK, _CALLS = "idle", "leak", "calls"
KINDS = (*LOADS, _IDLE, _LEAK, _CALLS)
_QUICK_KINDS = ("conn", "resumed", "rsa", "keep", "latency-1", "down", "up", _IDLE)
_LEAKING = ("gate", "relay")  # others' leaks are others' business
_COUNTED = 300  # connections while system calls are counted
_WARM_UP = ["conn", "-c", "16", "-d", "0.5"]

_FULL = Plan(rounds=15, seconds=0.4, bulk=200_000_000)
_QUICK = Plan(rounds=1, seconds=0.15, bulk=30_000_000)
_IDLE_COUNTS = {False: (1_000, 5_000, 9_000, 15_000), True: (1_000,)}  # by whether it is quick
_LEAK_COUNTS = {False: 50_000, True: 1_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes:
        kinds: of measurement: loads, ``idle``, ``leak``, ``calls``.
        servers: by name, nginx always among them.
        plan: how long.
        idle: connections to hold.
        leak: connections to make.
        record: where the JSON goes.
        readme: the README whose table is to be replaced, if any.
        gate_python: the interpreter that runs the gate; empty for this one.
        programs: a folder with load generator and backend, if they need not be compiled.
        command: that repeats this run.
    """

    kinds: tuple[str, ...]
    servers: tuple[str, ...]
    plan: Plan
    idle: tuple[int, ...]
    leak: int
    record: Path
    readme: Path | None
    gate_python: str
    programs: Path | None
    command: str

    @property
    def loads(self) -> list[Load]:
        """The loads among the kinds."""
        return [LOADS[kind] for kind in self.kinds if kind in LOADS]


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
    add("--quick", action="store_true", help="under a minute: one short round of most things")
    kinds, servers = _some_of(KINDS, "measurement"), _some_of(list(PEERS), "server")
    add("--only", type=kinds, metavar="KIND,...", help=", ".join(KINDS))
    add("--servers", type=servers, default=tuple(PEERS), metavar="NAME,...", help=", ".join(PEERS))
    add("--rounds", type=int, help="slices of each load for each server")
    add("--seconds", type=float, help="of a slice")
    add("--idle", type=_counts, metavar="N,...", help="connections to hold")
    add("--leak", type=int, metavar="N", help="connections to make when looking for leaks")
    add("--record", type=Path, metavar="FILE", help="JSON; the picture goes beside it")
    add("--readme", action="store_true", help="put the table into README.md")
    add("--gate-python", default="", metavar="FILE", help="the interpreter that runs the gate")
    add("--programs", type=Path, metavar="FOLDER", help="with tlsload and backend, compiled")
    return parser


_NOT_OF_THE_COMMAND = {"--record": True, "--readme": False}  # whether a value follows


def _command(arguments: Sequence[str]) -> str:
    """Return what repeats a run."""
    words = list(arguments)
    for name, has_value in _NOT_OF_THE_COMMAND.items():
        if name in words:
            at = words.index(name)
            del words[at : at + 1 + has_value]
    return f"make bench ARGS={shlex.quote(' '.join(words))}" if words else "make bench"


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        SystemExit: as argparse does.
    """
    given = _parser().parse_args(arguments)
    usual = _QUICK if given.quick else _FULL
    started = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    return Options(
        kinds=given.only or (_QUICK_KINDS if given.quick else KINDS),
        # Ratios are to nginx: without it there is nothing to say.
        servers=tuple(name for name in PEERS if name in {NGINX, *given.servers}),
        plan=Plan(
            rounds=given.rounds or usual.rounds,
            seconds=given.seconds or usual.seconds,
            bulk=usual.bulk,
        ),
        idle=given.idle or _IDLE_COUNTS[given.quick],
        leak=given.leak or _LEAK_COUNTS[given.quick],
        record=given.record or ROOT / "bench-results" / f"{started}.json",
        readme=ROOT / "README.md" if given.readme else None,
        gate_python=given.gate_python,
        programs=given.programs,
        command=_command(arguments),
    )


def _progress(text: str) -> None:
    """Say what is going on, to somebody who watches."""
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class _Bench:
    """One run: where things are, and what was found."""

    def __init__(self, options: Options, folder: Path, cpus: Cpus, generator: Generator) -> None:
        self._options = options
        self._folder = folder
        self._cpus = cpus
        self._generator = generator
        self._ports: set[int] = set()
        self.notes: list[str] = []

    @contextlib.contextmanager
    def _started(self, peers: Sequence[Peer], keys: Sequence[str]) -> Iterator[list[Server]]:
        """Start servers; one that does not start is left out, with a note."""
        with contextlib.ExitStack() as stack:
            servers = []
            for peer in peers:
                for key in keys:
                    try:
                        servers.append(stack.enter_context(self._server(peer, key)))
                    except BenchError as exc:
                        self.notes.append(f"left out: {peer.title} ({key}): {exc}")
            yield servers

    def _server(self, peer: Peer, key: str) -> contextlib.AbstractContextManager[Server]:
        return run_server(
            peer,
            key,
            self._folder,
            port=free_port(self._ports),
            cpu=self._cpus.server,
            python=self._options.gate_python,
            is_keyless=self._generator.is_keyless,
        )

    def rounds(self, peers: Sequence[Peer]) -> list[Series]:
        """Let all loads take turns."""
        loads = self._options.loads
        if not loads:
            return []
        keys = [key for key in KEYS if any(load.key == key for load in loads)]
        with self._started(peers, keys) as servers:
            return run_rounds(servers, loads, self._generator, self._options.plan, _progress)

    def _fresh(self, peer: Peer) -> contextlib.AbstractContextManager[list[Server]]:
        """Start one server alone: what it held before would be in its memory."""
        return self._started([peer], KEYS[:1])

    def _warm_up(self, servers: Sequence[Server]) -> None:
        for server in servers:
            clear = ["-k"] if self._generator.is_clear(server) else []
            self._generator.run(server, [_WARM_UP[0], str(server.port), *_WARM_UP[1:], *clear])

    def idle(self, peers: Sequence[Peer]) -> list[Held]:
        """Hold idle connections, one server after the other."""
        found: list[Held] = []
        for peer in peers if _IDLE in self._options.kinds else ():
            with self._fresh(peer) as servers:
                self._warm_up(servers)
                found += hold_idle(servers, self._options.idle, self._generator, _progress)
        return found

    def leaks(self, peers: Sequence[Peer]) -> list[Leak]:
        """Make many connections with each of ours."""
        found: list[Leak] = []
        for peer in peers if _LEAK in self._options.kinds else ():
            if peer.name in _LEAKING:
                with self._fresh(peer) as servers:
                    found += count_leaks(servers, self._options.leak, self._generator, _progress)
        return found

    def calls(self, peers: Sequence[Peer]) -> list[Calls]:
        """Count system calls, of one server after the other."""
        found: list[Calls] = []
        for peer in peers if _CALLS in self._options.kinds else ():
            with self._fresh(peer) as servers:
                self._warm_up(servers)
                try:
                    found += count_calls(servers, _COUNTED, self._generator, _progress)
                except BenchError as exc:
                    self.notes.append(str(exc))
        return found


def choose_peers(options: Options, *, has_ktls: bool) -> tuple[list[Peer], list[str]]:
    """Return who is measured, and a line for each who cannot be."""
    wanted = [PEERS[name] for name in options.servers]
    wanted = [peer for peer in wanted if has_ktls or not peer.needs_ktls]
    install_peers(absent_packages(wanted))
    notes = [
        f"left out: {peer.title}: not installed (Debian: apt-get install {peer.package})"
        for peer in wanted
        if not is_installed(peer)
    ]
    return [peer for peer in wanted if is_installed(peer)], notes


def measure(options: Options, folder: Path) -> Results:
    """Do all that was asked for, in a folder for everybody's files."""
    programs = options.programs.resolve() if options.programs else folder
    if options.programs:
        find_programs(programs)
    else:
        build_programs(programs)
    is_keyless = probe_offload().best is not Offload.BOTH
    peers, notes = choose_peers(options, has_ktls=not is_keyless)
    cpus = choose_cpus(os.sched_getaffinity(0))
    if cpus.are_shared:
        notes.append("one CPU for servers and clients: rates and times say little")
    make_certificates(folder)
    with run_backend(folder, programs, cpus.client) as backend:
        generator = Generator(
            program=programs / "tlsload", cpu=cpus.client, backend=backend, is_keyless=is_keyless
        )
        bench = _Bench(options, folder, cpus, generator)
        series, idle, leaks = bench.rounds(peers), bench.idle(peers), bench.leaks(peers)
        calls = bench.calls(peers)
    return Results(
        machine=describe_machine(peers, options.gate_python or sys.executable),
        command=options.command,
        is_keyless=is_keyless,
        servers=[peer.name for peer in peers],
        notes=[*notes, *dict.fromkeys(bench.notes)],
        series=series,
        idle=idle,
        leaks=leaks,
        calls=calls,
    )


def _write(results: Results, options: Options) -> None:
    record = options.record
    record.parent.mkdir(parents=True, exist_ok=True)
    summary = [verdict.to_dict() for verdict in judge(results)]
    record.write_text(results.to_json(summary), encoding="utf-8")
    record.with_suffix(".svg").write_text(draw(results), encoding="utf-8")
    print(f"\n{record} and {record.with_suffix('.svg').name}")
    if options.readme:
        text = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(replace_table(text, markdown(results)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program."""
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # some servers change their user
            results = measure(options, folder)
        _progress("")
        print(terminal(results), end="")
        _write(results, options)
    except (BenchError, OSError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
