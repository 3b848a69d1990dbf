"""The loads as a table, and what comes of one slice of one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["LOADS", "Load", "Slice", "parse_slice"]

_MICRO = 1e6
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients do.

    Attributes:
        name: in options and results.
        title: in tables.
        key: what servers shake hands with; one of `servers.KEYS`.
        words: the load generator's mode and options.
        is_bulk: whether what counts are bytes, and not operations.
        is_latency: whether what counts is how long one operation takes.
        resumes: whether sessions must have been resumed; a server that resumes none gets a note.
    """

    name: str
    title: str
    words: tuple[str, ...]
    key: str = "ec"
    is_bulk: bool = False
    is_latency: bool = False
    resumes: bool = False

    def words_for(self, *, seconds: float, bulk: int) -> list[str]:
        """Return the load generator's mode and options, bounded in time or in bytes."""
        return [*self.words, *(["-b", str(bulk)] if self.is_bulk else ["-d", f"{seconds:g}"])]

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
        ),
        Load(
            name="resumed",
            title="new connection, resumed",
            words=("conn", "-c", "16", "-r"),
            resumes=True,
        ),
        Load(
            name="rsa",
            title="new connection, RSA-2048",
            words=("conn", "-c", "16"),
            key="rsa",
        ),
        Load(
            name="rsa-resumed",
            title="new connection, RSA-2048, resumed",
            words=("conn", "-c", "16", "-r"),
            key="rsa",
            resumes=True,
        ),
        Load(
            name="mlkem",
            title="new connection, X25519MLKEM768",
            words=("conn", "-c", "16", "-g", "X25519MLKEM768"),
            key="mlkem",
        ),
        Load(name="keep", title="request on a kept connection", words=("keep", "-c", "16")),
        Load(
            name="latency-1",
            title="time of a new connection, 1 at once",
            words=("conn", "-c", "1"),
            is_latency=True,
        ),
        Load(
            name="latency-64",
            title="time of a new connection, 64 at once",
            words=("conn", "-c", "64"),
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
