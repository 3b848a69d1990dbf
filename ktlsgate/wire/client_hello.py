"""What the first record says before OpenSSL sees it.

Two questions: is it a TLS ClientHello at all (so that plain HTTP gets its 400
at once instead of being read as a record of 8 kB), and does the hello ask for
``max_fragment_length``, which the kernel's sender does not honour.
Structure: RFC 8446 section 4.1.2; extension 1: RFC 6066 section 4.
"""

from __future__ import annotations

import enum

from .records import HEADER_SIZE, MAX_CIPHERTEXT, ContentType

__all__ = ["FirstBytes", "HelloReader", "classify_first_bytes"]

_MAX_FRAGMENT_LENGTH = 1
_HTTP_METHODS = (
    b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ",
    b"PATCH ", b"PRI ",
)  # fmt: skip


class FirstBytes(enum.Enum):
    """What the first 5 bytes of a connection look like."""

    HANDSHAKE = "handshake"
    PLAIN_HTTP = "plain_http"
    NOT_TLS = "not_tls"


def classify_first_bytes(header: bytes) -> FirstBytes:
    """Say what the first record header of a connection is.

    Args:
        header: the first 5 bytes (SSLv2 hellos, which TLS 1.2 forbids, are NOT_TLS).
    """
    length = header[3] << 8 | header[4]
    if header[0] == ContentType.HANDSHAKE and header[1] == 3 and 0 < length <= MAX_CIPHERTEXT:
        return FirstBytes.HANDSHAKE
    if any(method.startswith(header) or header.startswith(method) for method in _HTTP_METHODS):
        return FirstBytes.PLAIN_HTTP
    return FirstBytes.NOT_TLS


class HelloReader:
    """Watch handshake records until the ClientHello is whole, then look at its extensions.

    Attributes:
        has_max_fragment_length: whether the hello carries extension 1. A hello
            that cannot be parsed counts as not having it: OpenSSL refuses it anyway.
    """

    __slots__ = ("_message", "has_max_fragment_length", "is_complete")

    def __init__(self) -> None:
        self._message = b""
        self.has_max_fragment_length = False
        self.is_complete = False

    def receive_record(self, record: bytes) -> None:
        """Take the next record of the client, while `is_complete` is false."""
        if record[0] != ContentType.HANDSHAKE:
            self.is_complete = True
            return
        message = self._message = self._message + record[HEADER_SIZE:]
        if len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
            return
        self.is_complete = True
        self.has_max_fragment_length = _MAX_FRAGMENT_LENGTH in _extension_types(message[4:])
        self._message = b""


def _extension_types(hello: bytes) -> set[int]:
    """Collect extension numbers of a ClientHello body; stops where it is malformed."""
    position = 2 + 32
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        size = int.from_bytes(hello[position : position + width], "big")
        position += width + size
    position += 2  # length of the extensions
    found = set()
    while position + 4 <= len(hello):
        found.add(int.from_bytes(hello[position : position + 2], "big"))
        position += 4 + int.from_bytes(hello[position + 2 : position + 4], "big")
    return found
