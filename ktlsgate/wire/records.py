"""TLS record headers, and a reader that never takes a byte too many.

Invariant I2: when keys go into the kernel, no byte behind the last handshake
record may have left the socket buffer. So `RecordReader` takes no piece that goes
beyond a record's end. Who has more in sight than that (bytes that were only looked
at, MSG_PEEK) gives it what `cut` cuts off, piece by piece, and then takes from the
socket exactly what was used. Who would rather read than look reads at most `wanted`
bytes: first the 5 of the header, then exactly the body. When to stop is for the
caller to know; content types cannot say (TLS 1.3 handshake records look like
application data from outside).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from ..errors import RemoteProtocolError

__all__ = ["HEADER_SIZE", "MAX_CIPHERTEXT", "ContentType", "RecordReader", "split_records"]

HEADER_SIZE = 5
# RFC 8446 section 5.2 allows 2^14 + 256, RFC 5246 section 6.2.3 allows 2^14 + 2048.
MAX_CIPHERTEXT = 16_384 + 2_048


class ContentType(enum.IntEnum):
    """Record types (RFC 8446 section 5.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


class RecordReader:
    """Cut exact records out of a stream.

    Attributes:
        wanted: how many bytes are missing of the header, or else of the body; never 0.
        taken: bytes received so far, in all records together.
    """

    __slots__ = ("_buffer", "taken", "wanted")

    def __init__(self) -> None:
        self._buffer = b""
        self.wanted = HEADER_SIZE
        self.taken = 0

    def peek(self) -> bytes:
        """The part of the next record that is here."""
        return self._buffer

    def cut(self, data: bytes, start: int) -> int:
        """Say where the piece of ``data`` ends that may be taken next, from ``start`` on.

        That is `wanted` bytes on, but a whole record at a border where its length is
        there to be seen; perhaps behind the end of ``data``.
        """
        if self._buffer or len(data) < start + HEADER_SIZE:
            return start + self.wanted
        return start + HEADER_SIZE + (data[start + 3] << 8 | data[start + 4])

    def receive_data(self, data: bytes) -> bytes | None:
        """Take at most `wanted` bytes, or as many as `cut` says.

        Returns:
            A whole record, header and all, once its last byte is here.

        Raises:
            RemoteProtocolError: the header announces an empty or oversized record.
        """
        self.taken += len(data)
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if len(buffer) < HEADER_SIZE:
            self.wanted = HEADER_SIZE - len(buffer)
            return None
        length = buffer[3] << 8 | buffer[4]
        if not 0 < length <= MAX_CIPHERTEXT:
            raise RemoteProtocolError(
                f"expected a record of 1 to {MAX_CIPHERTEXT} bytes, got one of {length}"
            )
        self.wanted = HEADER_SIZE + length - len(buffer)
        if self.wanted:
            return None
        self._buffer, self.wanted = b"", HEADER_SIZE
        return buffer


def split_records(data: bytes) -> Iterator[bytes]:
    """Cut what OpenSSL wants to send into its records; it writes whole ones only."""
    start = 0
    while start < len(data):
        end = start + HEADER_SIZE + (data[start + 3] << 8 | data[start + 4])
        yield data[start:end]
        start = end
