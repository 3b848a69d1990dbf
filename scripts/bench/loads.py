"""The loads as a table, and one slice of one of them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .machine import pinned
from .measure import cpu_seconds
from .servers import Server

__all__ = ["LOADS", "Generator", "Load", "Slice", "parse_slice", "slice_arguments"]

READY = "ready\n"
_MICRO = 1e6
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients do.

    Attributes:
        name: in options and results.
        title: in tables.
        key: the server's certificate.
        words: the load generator's mode and options.
        is_bulk: whether what counts are bytes, and not operations.
        is_latency: whether what counts is how long one operation takes.
        is_new: whether an operation is a whole connection; else requests on kept ones.
        resumes: whether sessions must have been resumed.
    """

    name: str
    title: str
    words: tuple[str, ...]
    key: str = "ec"
    is_bulk: bool = False
    is_latency: bool = False
    is_new: bool = False
    resumes: bool = False

    @property
    def unit(self) -> str:
        """Of the figure that counts."""
        return "us" if self.is_latency else "CPU s/GB" if self.is_bulk else "CPU us"


LOADS = {
    load.name: load
    for load in (
        Load(
            name="conn",
            title="new connection, ECDSA P-256",
            words=("conn", "-c", "16"),
            is_new=True,
        ),
        Load(
            name="resumed",
            title="new connection, resumed",
            words=("conn", "-c", "16", "-r"),
            is_new=True,
            resumes=True,
        ),
        Load(
            name="rsa",
            title="new connection, RSA-2048",
            words=("conn", "-c", "16"),
            key="rsa",
            is_new=True,
        ),
        Load(
            name="rsa-resumed",
            title="new connection, RSA-2048, resumed",
            words=("conn", "-c", "16", "-r"),
            key="rsa",
            is_new=True,
            resumes=True,
        ),
        Load(name="keep", title="request on a kept connection", words=("keep", "-c", "16")),
        Load(
            name="latency-1",
            title="time of a new connection, 1 at once",
            words=("conn", "-c", "1"),
            is_new=True,
            is_latency=True,
        ),
        Load(
            name="latency-64",
            title="time of a new connection, 64 at once",
            words=("conn", "-c", "64"),
            is_new=True,
            is_latency=True,
        ),
        Load(name="down", title="download", words=("down", "-c", "2"), is_bulk=True),
        Load(name="up", title="upload", words=("up", "-c", "2"), is_bulk=True),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What came of a fraction of a second.

    Attributes:
        operations: that succeeded.
        errors: that did not.
        resumed: handshakes that continued a session.
        bytes: of bodies, in bulk loads.
        wall: seconds.
        p50_us: the median operation.
        p99_us: the slowest but one in a hundred.
        first_error: what went wrong first.
        server_cpu: seconds of the server's processes.
        backend_cpu: seconds of the backend.
    """

    operations: int
    errors: int
    resumed: int
    bytes: int
    wall: float
    p50_us: float
    p99_us: float
    first_error: str
    server_cpu: float
    backend_cpu: float

    def figure(self, load: Load) -> float:
        """Return what counts, in the load's unit; 0 if nothing succeeded."""
        return self.p50_us if load.is_latency else self._per(load, self.server_cpu)

    def backend_figure(self, load: Load) -> float:
        """Return the backend's CPU time per operation or GB, in the load's unit."""
        return self._per(load, self.backend_cpu)

    def rate(self, load: Load) -> float:
        """Return operations a second, or GB a second."""
        if self.wall <= 0:
            return 0.0
        return (self.bytes / _GB if load.is_bulk else self.operations) / self.wall

    def _per(self, load: Load, cpu: float) -> float:
        if load.is_bulk:
            return cpu / (self.bytes / _GB) if self.bytes else 0.0
        return cpu / self.operations * _MICRO if self.operations else 0.0


def parse_slice(text: str, *, server_cpu: float, backend_cpu: float) -> Slice:
    """Read the load generator's line; anything else counts as an error, and says what it was."""
    try:
        return Slice(**json.loads(text), server_cpu=server_cpu, backend_cpu=backend_cpu)
    except (ValueError, TypeError):
        return Slice(
            operations=0,
            errors=1,
            resumed=0,
            bytes=0,
            wall=0.0,
            p50_us=0.0,
            p99_us=0.0,
            first_error=text.strip()[-200:] or "the load generator said nothing",
            server_cpu=server_cpu,
            backend_cpu=backend_cpu,
        )


def slice_arguments(
    load: Load, port: int, *, seconds: float, bulk: int, is_clear: bool
) -> list[str]:
    """Return the load generator's arguments."""
    mode, *options = load.words
    limits = ["-b", str(bulk)] if load.is_bulk else ["-d", f"{seconds:g}"]
    return [mode, str(port), *options, *limits, *(["-k"] if is_clear else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """The load generator.

    Attributes:
        program: compiled.
        cpu: where it runs.
        backend: process id of the backend, whose time is taken too.
        is_keyless: whether servers that hand over leave clear text on the connection.
    """

    program: Path
    cpu: int
    backend: int
    is_keyless: bool

    def is_clear(self, server: Server) -> bool:
        """Whether its clients speak in clear behind the handshake."""
        return self.is_keyless and server.peer.hands_over

    def run(self, server: Server, arguments: list[str]) -> Slice:
        """Put a load on a server, and charge it with what it used from when the load is ready."""
        pids, backend = server.pids, [self.backend]
        with (
            pinned(self.cpu),
            subprocess.Popen(
                [str(self.program), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            if process.stdin is None or process.stdout is None:
                raise AssertionError("PIPE gives streams")
            before, backend_before = cpu_seconds(pids), cpu_seconds(backend)
            said = process.stdout.readline()
            if said == READY:
                before, backend_before = cpu_seconds(pids), cpu_seconds(backend)
                process.stdin.write("begin\n")
                process.stdin.flush()
                said = process.stdout.readline()
        return parse_slice(
            said,
            server_cpu=cpu_seconds(pids) - before,
            backend_cpu=cpu_seconds(backend) - backend_before,
        )
