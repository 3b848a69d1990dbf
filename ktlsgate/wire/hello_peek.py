"""The ClientHello of a connection whose bytes are looked at and left where they are.

Rule: a pure function of the bytes so far. It is for handshakes in which OpenSSL
reads the socket itself, so that nobody else may take a byte of it.
"""

from __future__ import annotations

from ..errors import HandshakeFailed, RemoteProtocolError
from .client_hello import HelloReader
from .handshake import check_first_bytes
from .records import HEADER_SIZE, RecordReader

__all__ = ["MAX_HELLO", "look_at_hello"]

# Real ones have 200 to 2,000 bytes. What is only looked at fills the receive buffer
# (64 kB at first), and a full one would wait for ever.
MAX_HELLO = 32_768


def look_at_hello(data: bytes) -> HelloReader | None:
    """Read the ClientHello at the start of a connection.

    Args:
        data: the first bytes, at most `MAX_HELLO`; one or more.

    Returns:
        What it says; None while more bytes are needed.

    Raises:
        HandshakeFailed: ``not_tls``, ``plain_http``, ``bad_record`` or
            ``handshake_too_long``.
    """
    check_first_bytes(data[:HEADER_SIZE])
    hello, records, position = HelloReader(), RecordReader(), 0
    try:
        while not hello.is_complete and position < len(data):
            end = position + records.wanted
            if (record := records.receive_data(data[position:end])) is not None:
                hello.receive_record(record)
            position = end
    except RemoteProtocolError as exc:
        raise HandshakeFailed("bad_record", str(exc)) from exc
    if hello.is_complete:
        return hello
    if len(data) >= MAX_HELLO:
        raise HandshakeFailed(
            "handshake_too_long", f"expected a ClientHello of less than {MAX_HELLO} bytes"
        )
    return None
