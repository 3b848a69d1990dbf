"""One request and no more: the limit on a connection of keep-alive ``single``.

A later request on such a connection could be meant for another route of the gate,
so nothing behind the body of the first may be read: reads wait there, as on an
idle connection, and end when the client ends. When it sends more although the
answer has begun, they end, too: this connection has no next request. The limit falls when the
backend accepts an upgrade, that is when the first bytes that it writes are
``HTTP/1.1 101 ``: what follows then is no request (RFC 9110 section 7.8).
"""

from __future__ import annotations

from ..wire.handoff_scgi import ReceivedHead
from ..wire.request_body import BodyLimit

__all__ = ["SingleExchange"]

_ACCEPTED = b"HTTP/1.1 101 "


class SingleExchange:
    """How much may be read, given what was read and written so far.

    Attributes:
        is_held: set by the reader while bytes behind the body are being kept back.
    """

    def __init__(self, head: ReceivedHead) -> None:
        """Begin behind the head. The gate checked its framing: one of both, well-formed."""
        length = head.environ.get("HTTP_CONTENT_LENGTH", "0")
        is_chunked = "HTTP_TRANSFER_ENCODING" in head.environ
        self._limit = BodyLimit(None if is_chunked else int(length), is_chunked=is_chunked)
        self._is_lifted = False
        self.is_held = False
        self._written: bytes | None = b""  # the first bytes; None once they are judged

    @property
    def has_answered(self) -> bool:
        """Whether the answer has begun, and accepts no upgrade (so far)."""
        return self._written != b""

    def clamp(self, size: int) -> int:
        """Cut the size of a read so that it cannot pass the body; 0 behind it."""
        return size if self._is_lifted else min(size, self._limit.wanted)

    def note_read(self, data: bytes) -> None:
        """Count what was read.

        Raises:
            RemoteProtocolError: the body's chunks are malformed.
        """
        if not self._is_lifted:
            self._limit.receive_data(data)

    def note_written(self, data: bytes | bytearray | memoryview) -> None:
        """Look at what was written; the first 13 bytes decide."""
        if self._written is None:
            return
        self._written += bytes(data[: len(_ACCEPTED) - len(self._written)])
        if not _ACCEPTED.startswith(self._written):
            self._written = None
        elif self._written == _ACCEPTED:
            self._written, self._is_lifted = None, True

    def note_file_sent(self) -> None:
        """A file was sent; no file begins with a status line of ours."""
        self._written = None
