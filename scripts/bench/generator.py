"""The load generator: a slice of a load, or connections that are held."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from .loads import Slice, parse_slice
from .machine import pinned
from .measure import cpu_seconds
from .servers import Server

__all__ = ["Generator", "Holding"]

READY = "ready\n"
_AT_ONCE = "32"  # handshakes, of connections that are to be held
_HOLD = 600.0  # seconds, whoever forgets to end it
_STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How many connections are held, and why it were not more."""

    held: int
    first_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """The load generator.

    Attributes:
        program: compiled, and what starts it.
        cpu: where it runs.
        backend: process id of the backend, whose time is taken too.
        is_keyless: whether servers that hand over leave clear text on the connection.
    """

    program: list[str]
    cpu: int
    backend: int
    is_keyless: bool

    def is_clear(self, server: Server) -> bool:
        """Whether its clients speak in clear behind the handshake."""
        return server.peer.hands_over and (self.is_keyless or server.peer.is_clear)

    def refuses(self, group: str) -> str:
        """Return why it cannot offer a group; empty if it can."""
        nowhere = ["conn", "0", "-n", "1", "-d", "0", "-g", group]
        done = subprocess.run(
            [*self.program, *nowhere], capture_output=True, text=True, check=False
        )
        return done.stderr.strip()

    def command(self, server: Server, words: list[str]) -> list[str]:
        """Return what puts a load, given by its mode and options, on a server."""
        mode, *options = words
        clear = ["-k"] if self.is_clear(server) else []
        return [*self.program, mode, str(server.port), *options, *clear]

    @contextmanager
    def _started(
        self, server: Server, words: list[str]
    ) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
        with (
            pinned(self.cpu),
            subprocess.Popen(
                self.command(server, words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            if process.stdin is None or process.stdout is None:
                raise AssertionError("PIPE gives streams")
            yield process, process.stdin, process.stdout

    def run(self, server: Server, words: list[str]) -> Slice:
        """Put a load on a server, and charge it with what it used from when the load is ready."""
        pids, backend = server.pids, [self.backend]
        with self._started(server, words) as (_, orders, answers):
            before, backend_before = cpu_seconds(pids), cpu_seconds(backend)
            said = answers.readline()
            if said == READY:
                before, backend_before = cpu_seconds(pids), cpu_seconds(backend)
                orders.write("begin\n")
                orders.flush()
                said = answers.readline()
        return parse_slice(
            said,
            server_cpu=cpu_seconds(pids) - before,
            backend_cpu=cpu_seconds(backend) - backend_before,
        )

    def make(self, server: Server, count: int, seconds: float) -> Slice:
        """Make so many new connections, unless it takes too long."""
        return self.run(server, ["conn", "-c", "16", "-n", str(count), "-d", f"{seconds:g}"])

    @contextmanager
    def holding(self, server: Server, mode: str, count: int) -> Iterator[Holding]:
        """Hold so many connections for as long as the block."""
        words = [mode, "-c", _AT_ONCE, "-n", str(count), "-d", f"{_HOLD:g}"]
        with self._started(server, words) as (process, orders, answers):
            try:
                said = json.loads(answers.readline() or "{}")
                yield Holding(
                    held=int(said.get("held", 0)),
                    first_error=str(said.get("first_error", "the load generator said nothing")),
                )
            finally:
                orders.close()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
