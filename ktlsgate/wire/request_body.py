"""How many bytes of a request body are still to come: never one too many.

A connection that was handed over may carry only one request. Its receiver must be able
to stop exactly behind the body, because what follows belongs to somebody else.
`BodyLimit` watches the raw bytes pass and says how many may be taken next.

Invariant: ``wanted`` is the length of the shortest rest that could complete what was
received so far. No well-formed body is shorter, so a read of ``wanted`` bytes cannot
pass the end. With a Content-Length this is what is left; inside a chunk it is the
rest of the chunk, its CRLF and ``0 CRLF CRLF``; inside a framing line a few bytes.

The bytes are passed on undecoded; only their framing is checked, as strictly as h11 and
llhttp together would: no whitespace in chunk lines, no bare LF, no empty
extensions, no folded trailers, no Content-Length or Transfer-Encoding in trailers.

Source: RFC 9112 sections 6.3, 7.1, 7.1.1, 7.1.2; RFC 9110 section 6.5.1.
"""

from __future__ import annotations

import enum
import re

from ..errors import LocalProtocolError, RemoteProtocolError
from .http_syntax import QUOTED_PIECE, TCHAR, find_field_fault

__all__ = ["MAX_CHUNK_LINE", "MAX_TRAILER", "BodyLimit"]

# Bytes with CRLF. Nobody uses chunk extensions but tests and attacks (CVE-2023-39326
# made Go count them); the size itself takes 16.
MAX_CHUNK_LINE = 1024
# Bytes of all trailer lines together, with the final CRLF; Apache allows 8190 per line.
MAX_TRAILER = 8192

_MAX_CHUNK = 2**63 - 1  # off_t, as for Content-Length
_LAST_CHUNK = len(b"0\r\n\r\n")

# Any beginning of: size *( ";" name [ "=" value ] ) CRLF. RFC 9112 7.1.1 also has "BWS",
# which llhttp refuses. \Z: what is open may be open only where the bytes end.
_OPEN_VALUE = rb"(?:\"%b*\\?+)?\Z" % QUOTED_PIECE
_VALUE = rb"(?:%b++|\"%b*\"|%b)" % (TCHAR, QUOTED_PIECE, _OPEN_VALUE)
_EXTENSION = rb"(?:;(?:%b++(?:=%b)?|\Z))" % (TCHAR, _VALUE)
_CHUNK_LINE_PREFIX = re.compile(rb"(?:([0-9A-Fa-f]{1,16}+)%b*(?:\r\n?+)?)?" % _EXTENSION)
_FORBIDDEN_TRAILERS = (b"content-length", b"transfer-encoding")


class _State(enum.Enum):
    """What comes next; a state is named for what it waits for."""

    EXPECT_CONTENT = enum.auto()  # counted by Content-Length
    EXPECT_CHUNK_LINE = enum.auto()
    EXPECT_CHUNK_DATA = enum.auto()
    EXPECT_CHUNK_END = enum.auto()  # the CRLF behind the data
    EXPECT_TRAILER_LINE = enum.auto()
    COMPLETE = enum.auto()


class BodyLimit:
    """Where the body of one request ends.

    Feed it every byte taken from the connection behind the head, in order. After a
    RemoteProtocolError it must not be used again: there is no telling where the
    request ends, so the connection must be closed.
    """

    def __init__(self, content_length: int | None, *, is_chunked: bool = False) -> None:
        """Begin in front of the body's first byte.

        Args:
            content_length: in bytes, as in `RequestHead`; None when not given.
            is_chunked: the body comes in chunks.

        Raises:
            LocalProtocolError: when both are given, or the length is negative.
        """
        if content_length is not None and (is_chunked or content_length < 0):
            raise LocalProtocolError("expected a content length of 0 or more, or chunks")
        # Without either, a request has no body (RFC 9112 section 6.3, rule 7).
        self._left = content_length or 0
        self._state = _State.EXPECT_CONTENT if self._left else _State.COMPLETE
        self._line = bytearray()
        self._size_so_far = 0
        self._trailer_bytes = 0
        if is_chunked:
            self._state = _State.EXPECT_CHUNK_LINE

    @property
    def is_complete(self) -> bool:
        """True when the last byte of the body was received."""
        return self._state is _State.COMPLETE

    @property
    def wanted(self) -> int:
        """How many bytes may be taken next without passing the end; 0 when complete."""
        match self._state:
            case _State.EXPECT_CHUNK_LINE:
                return self._shortest_chunk_line_rest()
            case _State.EXPECT_CHUNK_DATA:
                return self._left + 2 + _LAST_CHUNK
            case _State.EXPECT_CHUNK_END:
                return self._left + _LAST_CHUNK
            case _State.EXPECT_TRAILER_LINE:
                return self._shortest_trailer_rest()
            case _:
                return self._left

    def receive_data(self, data: bytes) -> bytes:
        """Take note of bytes that came from the connection.

        Args:
            data: any number of bytes; more than ``wanted`` is allowed here, but
                then some may lie behind the end.

        Returns:
            Those of ``data`` that belong to this request, framing included, unchanged;
            the others are ``data[len(returned):]``.

        Raises:
            RemoteProtocolError: when the chunk framing is malformed.
        """
        taken = 0
        while taken < len(data) and self._state is not _State.COMPLETE:
            match self._state:
                case _State.EXPECT_CHUNK_LINE:
                    taken += self._receive_chunk_line(data, taken)
                case _State.EXPECT_TRAILER_LINE:
                    taken += self._receive_trailer_line(data, taken)
                case _:
                    taken += self._receive_counted(data, taken)
        return data[:taken]

    def _receive_counted(self, data: bytes, start: int) -> int:
        """Take content, chunk data or the CRLF behind it; return how many bytes."""
        size = min(self._left, len(data) - start)
        if self._state is _State.EXPECT_CHUNK_END:
            expected = b"\r\n"[2 - self._left :][:size]
            if data[start : start + size] != expected:
                raise RemoteProtocolError("expected CRLF behind the chunk data")
        self._left -= size
        if self._left == 0:
            self._leave_counted()
        return size

    def _leave_counted(self) -> None:
        """Go on to what follows a finished run of counted bytes."""
        if self._state is _State.EXPECT_CONTENT:
            self._state = _State.COMPLETE
        elif self._state is _State.EXPECT_CHUNK_DATA:
            self._left = 2
            self._state = _State.EXPECT_CHUNK_END
        else:
            self._size_so_far = 0
            self._state = _State.EXPECT_CHUNK_LINE

    def _receive_chunk_line(self, data: bytes, start: int) -> int:
        """Take a piece of the line in front of a chunk; return how many bytes."""
        size = self._extend_line(data, start)
        prefix = _CHUNK_LINE_PREFIX.match(self._line)
        if prefix is None or prefix.end() < len(self._line):
            raise RemoteProtocolError("malformed chunk size or extension")
        if len(self._line) > MAX_CHUNK_LINE:
            raise RemoteProtocolError(f"chunk line longer than {MAX_CHUNK_LINE} bytes")
        self._size_so_far = int(prefix[1], 16)
        if self._size_so_far > _MAX_CHUNK:
            raise RemoteProtocolError("chunk size over 2**63 - 1")
        if self._line.endswith(b"\n"):
            self._line.clear()
            self._left = self._size_so_far
            is_last = self._left == 0
            self._state = _State.EXPECT_TRAILER_LINE if is_last else _State.EXPECT_CHUNK_DATA
        return size

    def _receive_trailer_line(self, data: bytes, start: int) -> int:
        """Take a piece of a trailer line or of the last CRLF; return how many bytes."""
        checked = len(self._line)
        size = self._extend_line(data, start)
        self._trailer_bytes += size
        if self._line == b"\r\n":
            self._state = _State.COMPLETE
            return size
        fault = find_field_fault(self._line, 0, len(self._line), checked)
        if fault is not None:
            raise RemoteProtocolError(f"malformed trailer: {fault}")
        if self._trailer_bytes > MAX_TRAILER:
            raise RemoteProtocolError(f"trailers larger than {MAX_TRAILER} bytes")
        if self._line.endswith(b"\n"):
            name = bytes(self._line.partition(b":")[0]).lower()
            if name in _FORBIDDEN_TRAILERS:
                raise RemoteProtocolError(f"{name.decode('ascii')} in the trailers")
            self._line.clear()
        return size

    def _extend_line(self, data: bytes, start: int) -> int:
        """Append what ``data`` has of the current line; return how many bytes."""
        end = data.find(b"\n", start) + 1 or len(data)
        self._line += data[start:end]
        return end - start

    def _shortest_chunk_line_rest(self) -> int:
        """Count the rest of the line and of the shortest body that follows it."""
        if not self._line:
            return _LAST_CHUNK
        end_of_line = 1 if self._line.endswith(b"\r") else 2
        if self._size_so_far == 0:
            return end_of_line + 2
        # More digits could only make the chunk larger.
        return end_of_line + self._size_so_far + 2 + _LAST_CHUNK

    def _shortest_trailer_rest(self) -> int:
        """Count the rest of the line and of the CRLF that ends the trailers."""
        if not self._line:
            return 2
        if self._line == b"\r":
            return 1
        return 3 if self._line.endswith(b"\r") else 4
