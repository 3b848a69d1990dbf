"""What became of one accepted connection: the values of its one log line.

Rule: every accepted connection ends in exactly one `ConnectionReport`. The gate
fills it; how it is written is the service's business.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from traceback import format_exception

__all__ = ["ConnectionReport", "Event", "Report"]


class Event(enum.Enum):
    """How a connection ended, as far as the gate is concerned."""

    HANDOFF = "handoff"  # the backend has the client's own socket
    RELAY = "relay"  # the backend had it through us; now it is over
    REFUSED = "refused"  # answered by us with an HTTP status, or not let in
    HANDSHAKE_FAILED = "handshake_failed"
    BACKEND_FAILED = "backend_failed"  # 502 or 503 went to the client
    TIMEOUT = "timeout"
    CLIENT_GONE = "client_gone"  # the client ended it before it said what it wanted
    SHUTDOWN = "shutdown"  # the gate's own end came first
    CRASHED = "crashed"  # a bug of ours, with its traceback beside it


@dataclass(slots=True, kw_only=True)
class ConnectionReport:
    """One connection's line; fields stay at their defaults where it did not get that far.

    Attributes:
        id: counts accepted connections of this process from 1.
        listener: the listener's configured address.
        client: address and port of the peer as ``ADDRESS:PORT``, ``[V6]:PORT``.
        event: how it ended.
        reason: one word with underscores for counters; empty when all went well.
        detail: the reason in words for people; may hold escaped peer bytes.
        status: the HTTP status that the gate itself answered, 0 for none.
        fallback: why the kernel does not hold all of a TLS connection, one word
            (``cipher``, ``no_ulp`` ...); empty when it does. Never overwritten: how the
            connection ended is ``reason``'s to say.
        fallback_detail: the same in words, where there are any.
        engine: who shook hands and installs keys, ``direct`` or ``openssl``; empty without TLS.
        ktls: ``tx+rx``, ``tx`` or ``none`` under TLS; empty without TLS.
        handshake_ms: from accept to the end of the handshake; None before that.
        header_ms: from there to the end of the head.
        handoff_ms: from there to the backend's acknowledgement.
        duration_ms: all the time that the gate held the connection.
        bytes_in: bytes relayed from the client to the backend.
        bytes_out: bytes relayed from the backend to the client.
    """

    id: int
    listener: str
    client: str
    event: Event = Event.CRASHED
    reason: str = ""
    detail: str = ""
    status: int = 0
    tls: str = ""
    cipher: str = ""
    sni: str = ""
    alpn: str = ""
    is_resumed: bool = False
    engine: str = ""
    ktls: str = ""
    fallback: str = ""
    fallback_detail: str = ""
    backend: str = ""
    method: str = ""
    host: str = ""
    target: str = ""
    handshake_ms: float | None = None
    header_ms: float | None = None
    handoff_ms: float | None = None
    duration_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    traceback: str = field(default="", repr=False)

    def end(self, event: Event, reason: str, detail: str = "") -> None:
        """Say how it ended."""
        self.event, self.reason, self.detail = event, reason, detail

    def crash(self, error: BaseException) -> None:
        """Keep a bug of ours."""
        self.end(Event.CRASHED, "crashed", f"{type(error).__name__}: {error}")
        self.traceback = "".join(format_exception(error))


Report = Callable[[ConnectionReport], None]
