"""What the first record says before OpenSSL sees it.

Three questions: is it a TLS ClientHello at all (so that plain HTTP gets its 400
at once instead of being read as a record of 8 kB), which host does the client
want, and does the hello ask for ``max_fragment_length``, which the kernel's
sender does not honour.
Structure: RFC 8446 section 4.1.2; extensions 0 and 1: RFC 6066 sections 3, 4.
"""

from __future__ import annotations

import enum
import re
import struct

from .records import HEADER_SIZE, MAX_CIPHERTEXT, ContentType

__all__ = ["FirstBytes", "HelloReader", "classify_first_bytes"]

_SERVER_NAME = 0
_MAX_FRAGMENT_LENGTH = 1
_WATCHED = (_SERVER_NAME, _MAX_FRAGMENT_LENGTH)
_read_extension_header = struct.Struct(">HH").unpack_from  # kind and size
# What DNS host names are made of, and "_", which is in use. No byte that could
# mean something in a head or a log line.
_HOST_NAME = re.compile(rb"[A-Za-z0-9._-]{1,255}")
_HTTP_METHODS = (
    b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ",
    b"PATCH ", b"PRI ",
)  # fmt: skip


class FirstBytes(enum.Enum):
    """What the first 5 bytes of a connection look like."""

    HANDSHAKE = "handshake"
    PLAIN_HTTP = "plain_http"
    NOT_TLS = "not_tls"


def classify_first_bytes(data: bytes) -> FirstBytes | None:
    """Say what a connection starts with, as soon as that is certain.

    Args:
        data: the first 1 to 5 bytes. SSLv2 hellos, which RFC 6176 forbids, are NOT_TLS.

    Returns:
        None while more bytes are needed to tell.
    """
    if data[0] == ContentType.HANDSHAKE:
        if data[1:2] not in (b"", b"\x03"):
            return FirstBytes.NOT_TLS
        if len(data) < HEADER_SIZE:
            return None
        length = data[3] << 8 | data[4]
        return FirstBytes.HANDSHAKE if 0 < length <= MAX_CIPHERTEXT else FirstBytes.NOT_TLS
    if any(method.startswith(data[: len(method)]) for method in _HTTP_METHODS):
        return None if len(data) < 4 else FirstBytes.PLAIN_HTTP
    return FirstBytes.NOT_TLS


class HelloReader:
    """Watch handshake records until the ClientHello is whole, then look at its extensions.

    A hello that cannot be parsed has none of them: OpenSSL refuses it anyway.

    Attributes:
        is_complete: whether there is nothing more to watch for.
        has_max_fragment_length: whether the hello carries extension 1.
        server_name: the host name of extension 0 in lower case, empty for none.
            OpenSSL itself forgets it when a TLS 1.2 session is resumed.
    """

    __slots__ = ("_message", "has_max_fragment_length", "is_complete", "server_name")

    def __init__(self) -> None:
        self._message = b""
        self.has_max_fragment_length = False
        self.server_name = ""
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
        extensions = _extensions(message)
        self.has_max_fragment_length = _MAX_FRAGMENT_LENGTH in extensions
        self.server_name = _host_name(extensions.get(_SERVER_NAME, b""))
        self._message = b""


def _extensions(hello: bytes) -> dict[int, bytes]:
    """Collect the watched extensions of a ClientHello; stops where it is malformed."""
    position = 4 + 2 + 32  # header of the message, version, random
    try:
        position += 1 + hello[position]  # session id
        position += 2 + (hello[position] << 8 | hello[position + 1])  # cipher suites
        position += 1 + hello[position]  # compression methods
    except IndexError:
        return {}
    position += 2  # length of the extensions
    found = {}
    while position + 4 <= len(hello):
        kind, size = _read_extension_header(hello, position)
        end = position + 4 + size
        if kind in _WATCHED:
            found[kind] = hello[position + 4 : end]
        position = end
    return found


def _host_name(extension: bytes) -> str:
    """The one host_name of a server_name extension (RFC 6066 section 3)."""
    name = extension[5 : 5 + int.from_bytes(extension[3:5], "big")]
    if extension[2:3] != b"\0" or not _HOST_NAME.fullmatch(name):
        return ""
    return name.decode("ascii").lower()
