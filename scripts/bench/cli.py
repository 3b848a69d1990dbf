"""The command: the order of things."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ktlsgate.config import Offload
from ktlsgate.kernel.probe import probe_offload

from .generator import Generator
from .goals import judge
from .growth import Step, climb
from .history import HISTORY, compare_last, write_point
from .idle import Held, hold_idle
from .leak import Leak, count_leaks
from .machine import (
    PROGRAMS,
    BenchError,
    build_programs,
    choose_cpus,
    describe_machine,
    find_programs,
    install_peers,
)
from .options import CALLS, IDLE, LEAK, ROOT, Options, parse_options
from .packages import make_newest
from .peers import PEERS, Peer, absent_packages, in_newest, is_installed
from .pictures import PICTURES
from .readme import replace_table
from .report import markdown, terminal
from .results import Results
from .rounds import Series, run_rounds
from .servers import (
    KEYS,
    Server,
    Setting,
    free_port,
    make_certificates,
    run_backend,
    run_server,
)
from .syscalls import Calls, count_calls

__all__ = ["choose_peers", "main", "measure"]

_LEAKING = ("gate", "relay")  # others' leaks are others' business
_COUNTED = 300  # connections while system calls are counted
_WARM_UP = ["conn", "-c", "16", "-d", "0.5"]
_USUAL = "ec"  # keys


def _progress(text: str) -> None:
    """Say what is going on, to somebody who watches."""
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class _Bench:
    """One run: where things are, and what was found."""

    def __init__(self, options: Options, setting: Setting, generator: Generator) -> None:
        self._options = options
        self._setting = setting
        self._generator = generator
        self._ports: set[int] = set()
        self.notes: list[str] = []

    @contextlib.contextmanager
    def _started(
        self, peers: Sequence[Peer], keys: Sequence[str] = (_USUAL,)
    ) -> Iterator[list[Server]]:
        """Start servers; one that does not start is left out, with a note."""
        with contextlib.ExitStack() as stack:
            servers = []
            for peer in peers:
                for key in keys:
                    server = run_server(peer, key, self._setting, port=free_port(self._ports))
                    try:
                        servers.append(stack.enter_context(server))
                    except BenchError as exc:
                        self._leave_out(peer, key, "does not start with it", str(exc))
            yield servers

    def _leave_out(self, peer: Peer, key: str, short: str, why: str) -> None:
        """Note that a server is not there; why one does not know a new group is a long story."""
        group = KEYS[key].group
        if group == KEYS[_USUAL].group:
            self.notes.append(f"left out: {peer.title} ({key}): {' '.join(why.split())}")
        else:
            self.notes.append(f"left out of {group}: {peer.title}, which {short}")

    def _shakes(self, server: Server) -> bool:
        """Whether a server knows its group; some start whatever they are told."""
        words = [*_WARM_UP, "-n", "1", "-g", KEYS[server.key].group]
        slice_ = self._generator.run(server, words)
        if not slice_.operations:
            self._leave_out(server.peer, server.key, "shakes no hands with it", slice_.first_error)
        return slice_.operations > 0

    def _able(self) -> list[str]:
        """Return the keys of the loads that the load generator can put."""
        keys = []
        for key in dict.fromkeys(load.key for load in self._options.loads):
            said = self._generator.refuses(KEYS[key].group)
            if said:
                self.notes.append(f"left out: all loads with {KEYS[key].group}: {said}")
            else:
                keys.append(key)
        return keys

    def rounds(self, peers: Sequence[Peer]) -> list[Series]:
        """Let all loads take turns."""
        keys = self._able()
        loads = [load for load in self._options.loads if load.key in keys]
        if not loads:
            return []
        with self._started(peers, keys) as servers:
            able = [server for server in servers if self._shakes(server)]
            return run_rounds(able, loads, self._generator, self._options.plan, _progress)

    def growth(self) -> list[Step]:
        """Climb the ladders, one after the other."""
        found: list[Step] = []
        for ladder in self._options.ladders:
            found += climb(
                ladder,
                lambda peer: self._started([peer]),
                self._generator,
                self._options.plan,
                _progress,
            )
        return found

    def _warm_up(self, servers: Sequence[Server]) -> None:
        for server in servers:
            self._generator.run(server, _WARM_UP)

    def idle(self, peers: Sequence[Peer]) -> list[Held]:
        """Hold idle connections, one server after the other."""
        found: list[Held] = []
        for peer in peers if IDLE in self._options.kinds else ():
            with self._started([peer]) as servers:  # alone: what it held would be in its memory
                self._warm_up(servers)
                found += hold_idle(servers, self._options.idle, self._generator, _progress)
        return found

    def leaks(self, peers: Sequence[Peer]) -> list[Leak]:
        """Make many connections with each of ours."""
        found: list[Leak] = []
        ours = [peer for peer in peers if peer.name in _LEAKING]
        for peer in ours if LEAK in self._options.kinds else ():
            with self._started([peer]) as servers:
                found += count_leaks(servers, self._options.leak, self._generator, _progress)
        return found

    def calls(self, peers: Sequence[Peer]) -> list[Calls]:
        """Count system calls, of one server after the other."""
        found: list[Calls] = []
        for peer in peers if CALLS in self._options.kinds else ():
            with self._started([peer]) as servers:
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


def _programs(options: Options, folder: Path) -> Path:
    """Return where the programs are, compiled if they must be."""
    if options.programs:
        find_programs(options.programs.resolve())
        return options.programs.resolve()
    build_programs(folder)
    return folder


def _newest(options: Options, folder: Path, programs: Path, notes: list[str]) -> Path | None:
    """Return the folder of newer programs, if there are to be any and they can be had."""
    if not options.newest:
        return None
    _progress("fetching the newest nginx and haproxy")
    newest = folder / "newest"
    newest.mkdir()
    try:
        return make_newest(newest, [programs / name for name in PROGRAMS])
    except BenchError as exc:
        notes.append(f"left out: the newest nginx and haproxy: {exc}")
        return None


def measure(options: Options, folder: Path) -> Results:
    """Do all that was asked for, in a folder for everybody's files."""
    programs = _programs(options, folder)
    is_keyless = probe_offload().best is not Offload.BOTH
    peers, notes = choose_peers(options, has_ktls=not is_keyless)
    newest = _newest(options, folder, programs, notes)
    peers = [peer for peer in peers if newest or not peer.is_newest]
    cpus = choose_cpus(os.sched_getaffinity(0))
    if cpus.are_shared:
        notes.append("one CPU for servers and clients: rates and times say little")
    make_certificates(folder)
    setting = Setting(
        folder=folder,
        programs=programs,
        cpu=cpus.server,
        python=options.gate_python,
        is_keyless=is_keyless,
        newest=newest,
    )
    with run_backend(folder, programs, cpus.client) as backend:
        generator = Generator(
            program=in_newest(newest, "tlsload") if newest else [str(programs / "tlsload")],
            cpu=cpus.client,
            backend=backend,
            is_keyless=is_keyless,
        )
        bench = _Bench(options, setting, generator)
        results = Results(
            machine=describe_machine(peers, options.gate_python or sys.executable, newest),
            command=options.command,
            is_keyless=is_keyless,
            servers=[peer.name for peer in peers],
            series=bench.rounds(peers),
            growth=bench.growth(),
            idle=bench.idle(peers),
            leaks=bench.leaks(peers),
            calls=bench.calls(peers),
        )
    results.notes += [*notes, *dict.fromkeys(bench.notes)]
    return results


def _write_pictures(results: Results, folder: Path, prefix: str) -> list[Path]:
    """Draw what there is something to draw of; the files."""
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        if text := draw(results):
            files.append(folder / f"{prefix}{name}.svg")
            files[-1].write_text(text, encoding="utf-8")
    return files


def _write(results: Results, options: Options) -> None:
    file = options.json
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(results.to_json([v.to_dict() for v in judge(results)]), encoding="utf-8")
    written = [file, *_write_pictures(results, file.parent, f"{file.stem}-")]
    if options.is_recorded:  # before the README changes what is checked out
        written.append(write_point(results, HISTORY, ROOT))
    if options.readme:
        pictures = _write_pictures(results, ROOT / "docs", "bench-")
        table = markdown(results, [f"docs/{picture.name}" for picture in pictures])
        text = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(replace_table(text, table), encoding="utf-8")
        written += [options.readme, *pictures]
    print("", *written, sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program."""
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.compares:
            print(compare_last(HISTORY), end="")
            return 0
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
