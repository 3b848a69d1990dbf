"""What a client can do after the handoff, and what a backend sees of it: one table.

Each row says what the client does, what a backend that only knows `read()`, `write()` and
`close()` gets (``reads``, ``writes``, ``closes``; tests/kernel/test_bare_descriptor.py),
and what one that uses `ktlsgate.backend` gets (``receives``, ``sends``;
tests/backend/test_ktls_rows.py). Observed on Linux 6.1, 6.12 and 7.2, which agree on
every row; in what they differ is in `helpers.kernel_quirks`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

from helpers.ktls import TLS12, TLS13, PlainPeer

from ktlsgate.errors import BadRecord, ConnectionCut, FatalAlert, RemoteProtocolError
from ktlsgate.wire.ciphers import CipherSuite

ALERT, HANDSHAKE, DATA = 21, 22, 23
CLOSE_NOTIFY = b"\1\0"
TICKET = b"\x04\0\0\1x"
KEY_UPDATE = b"\x18\0\0\1\0"
HELLO = b"\1\0\0\5hello"
FULL = bytes(range(256)) * 64  # the most that one record may hold
WAITS = "waits"  # for the client, instead of an end or an error

EAGAIN, EBADMSG, ECONNRESET, EIO = errno.EAGAIN, errno.EBADMSG, errno.ECONNRESET, errno.EIO
EINVAL, EMSGSIZE, EPIPE = errno.EINVAL, errno.EMSGSIZE, errno.EPIPE

Act = Callable[[PlainPeer], None]


def data(text: bytes, **how: object) -> Act:
    """Send one application data record."""
    return lambda peer: peer.send(text, DATA, **how)


def control(content_type: int, text: bytes) -> Act:
    """Send one record of another type."""
    return lambda peer: peer.send(text, content_type)


def raw(text: bytes) -> Act:
    """Send bytes that are no sealed record."""
    return lambda peer: peer.sock.sendall(text)


def half(text: bytes) -> Act:
    """Send the first half of an application data record."""

    def act(peer: PlainPeer) -> None:
        record = peer.sends.seal(DATA, text)
        peer.sock.sendall(record[: len(record) // 2])

    return act


def fin(peer: PlainPeer) -> None:
    """End the TCP stream."""
    peer.sock.shutdown(socket.SHUT_WR)


def rst(peer: PlainPeer) -> None:
    """Reset the TCP connection."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An error of the connection object, which stays.

    Attributes:
        kind: its class.
        text: its message.
    """

    kind: type[RemoteProtocolError]
    text: str


CUT = Told(kind=ConnectionCut, text="the client's stream ended without close_notify")
RESET = Told(kind=ConnectionCut, text="the connection broke: Connection reset by peer (ECONNRESET)")
BROKEN_PIPE = Told(kind=ConnectionCut, text="the connection broke: Broken pipe (EPIPE)")
NO_DECRYPT = Told(kind=BadRecord, text="a record does not decrypt (EBADMSG)")
TOO_LONG = Told(kind=BadRecord, text="a record is longer than TLS allows (EMSGSIZE)")
NO_HEADER = Told(
    kind=BadRecord, text="a record header is no TLS header of this connection (EINVAL)"
)
NO_REKEY = Told(
    kind=RemoteProtocolError,
    text="the client sent a KeyUpdate, and this backend cannot install the next receiving key",
)
FATAL = Told(kind=FatalAlert, text="the peer sent the fatal alert internal_error")


def _unexpected(what: str) -> Told:
    return Told(kind=RemoteProtocolError, text=f"expected application data, got {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that a client can do.

    Attributes:
        name: in words.
        does: the client's acts, in order.
        reads: what successive `read(65536)` give on a non-blocking descriptor: data, ``b""``
            for 0, or an errno.
        writes: what a `write` behind them gives: 0 for "all of it", or an errno.
        closes: what the client gets when the backend closes then, ``FIN`` or ``RST``;
            nothing where the client has gone itself.
        receives: what successive `recv` of a connection object give: data, ``b""`` for the
            clean end, `WAITS`, or an error.
        answers: the records that the client gets for it, before any data.
        sends: what sending behind them gives: nothing, or an error.
        suites: the versions that it is about.
    """

    name: str
    does: tuple[Act, ...]
    reads: tuple[bytes | int, ...]
    writes: int = 0
    closes: str = "FIN"
    receives: tuple[bytes | str | Told, ...]
    answers: tuple[tuple[int, bytes], ...] = ()
    sends: Told | None = None
    suites: tuple[CipherSuite, ...] = (TLS12, TLS13)


ROWS = (
    # Data.
    Row(
        name="data in several records, one empty",
        does=(data(b"one"), data(b""), data(b"two")),
        reads=(b"onetwo", EAGAIN),
        receives=(b"onetwo", WAITS),
    ),
    Row(name="an empty record", does=(data(b""),), reads=(EAGAIN,), receives=(WAITS,)),
    Row(
        name="a full record",
        does=(data(FULL),),
        reads=(FULL, EAGAIN),
        receives=(FULL, WAITS),
    ),
    Row(
        name="padded records, one of them empty",
        does=(data(b"one", padding=100), data(b"", padding=300), data(b"two", padding=1)),
        reads=(b"onetwo", EAGAIN),
        receives=(b"onetwo", WAITS),
        suites=(TLS13,),
    ),
    Row(
        name="half a record",
        does=(data(b"data"), half(b"more")),
        reads=(b"data", EAGAIN),
        closes="RST",
        receives=(b"data", WAITS),
    ),
    # Ends.
    Row(
        name="close_notify and FIN",
        does=(data(b"data"), control(ALERT, CLOSE_NOTIFY), fin),
        reads=(b"data", EIO, EIO, EIO),
        receives=(b"data", b"", b""),
    ),
    Row(
        name="close_notify alone",
        does=(control(ALERT, CLOSE_NOTIFY),),
        reads=(EIO, EIO),
        receives=(b"", b""),
    ),
    Row(
        name="data behind close_notify",
        does=(control(ALERT, CLOSE_NOTIFY), data(b"late")),
        reads=(EIO, EIO),
        closes="RST",
        receives=(b"", b""),
    ),
    Row(
        name="close_notify and a reset",
        does=(data(b"data"), control(ALERT, CLOSE_NOTIFY), rst),
        reads=(b"data", EIO, EIO),
        writes=ECONNRESET,
        closes="",
        receives=(b"data", b"", b""),
        sends=RESET,
    ),
    Row(
        name="FIN without close_notify",
        does=(data(b"data"), fin),
        reads=(b"data", b"", b""),
        receives=(b"data", CUT),
    ),
    Row(
        name="half a record and FIN",
        does=(data(b"data"), half(b"more"), fin),
        reads=(b"data", b"", b""),
        closes="RST",
        receives=(b"data", CUT),
    ),
    Row(
        name="a reset",
        does=(data(b"data"), rst),
        reads=(b"data", ECONNRESET, b""),  # once told, writes are taken and go nowhere
        closes="",
        receives=(b"data", RESET),
        sends=BROKEN_PIPE,
    ),
    Row(
        name="FIN and then a reset",
        does=(data(b"data"), fin, rst),
        reads=(b"data", EPIPE, b""),
        closes="",
        receives=(b"data", BROKEN_PIPE),
        sends=BROKEN_PIPE,
    ),
    Row(
        name="a fatal alert",
        does=(data(b"data"), control(ALERT, b"\2\x50"), fin),
        reads=(b"data", EIO, EIO),
        receives=(b"data", FATAL),
    ),
    Row(
        name="a warning",
        does=(control(ALERT, b"\1\x5a"), data(b"data")),
        reads=(EIO, EIO),
        closes="RST",
        receives=(b"data", WAITS),
    ),
    # Handshake messages.
    Row(
        name="a NewSessionTicket",
        does=(data(b"one"), control(HANDSHAKE, TICKET), data(b"two")),
        reads=(b"one", EIO, EIO),
        closes="RST",
        receives=(b"one", b"two"),
    ),
    Row(
        name="a KeyUpdate",
        does=(data(b"data"), control(HANDSHAKE, KEY_UPDATE)),
        reads=(b"data", EIO, EIO),
        receives=(b"data", NO_REKEY),
    ),
    Row(
        name="a KeyUpdate split over two records",
        does=(control(HANDSHAKE, KEY_UPDATE[:2]), control(HANDSHAKE, KEY_UPDATE[2:])),
        reads=(EIO, EIO),
        closes="RST",
        receives=(NO_REKEY,),
        suites=(TLS13,),
    ),
    Row(
        name="a KeyUpdate behind a ticket in one record",
        does=(control(HANDSHAKE, TICKET + KEY_UPDATE),),
        reads=(EIO, EIO),
        receives=(NO_REKEY,),
        suites=(TLS13,),
    ),
    Row(
        name="a wish to renegotiate",
        does=(control(HANDSHAKE, HELLO), data(b"data")),
        reads=(EIO, EIO),
        closes="RST",
        receives=(b"data", WAITS),
        answers=((ALERT, b"\1\x64"),),
        suites=(TLS12,),
    ),
    Row(
        name="a ClientHello",
        does=(control(HANDSHAKE, HELLO),),
        reads=(EIO, EIO),
        receives=(_unexpected("handshake message 1"),),
        suites=(TLS13,),
    ),
    Row(
        name="a sealed record of an unknown type",
        does=(data(b"data"), control(99, b"what"), data(b"more")),
        reads=(b"data", EIO, EIO),
        closes="RST",
        receives=(b"data", _unexpected("content type 99")),
    ),
    # Attacks.
    Row(
        name="a bad tag",
        does=(data(b"data"), data(b"bad", corrupt=True), data(b"more")),
        reads=(b"data", EBADMSG, EBADMSG),
        writes=EBADMSG,
        closes="RST",
        receives=(b"data", NO_DECRYPT),
        sends=NO_DECRYPT,
    ),
    Row(
        name="a record of an unknown type that is not sealed",
        does=(raw(b"\x63\3\3\0\x20" + bytes(32)),),
        reads=(EBADMSG, EBADMSG),
        writes=EBADMSG,
        closes="RST",
        receives=(NO_DECRYPT,),
        sends=NO_DECRYPT,
    ),
    Row(
        name="a record with a byte too many",
        does=(data(b"data"), data(FULL + b"x")),
        reads=(b"data", EMSGSIZE, EAGAIN),
        closes="RST",
        receives=(b"data", TOO_LONG),
    ),
    Row(
        name="a header with the greatest length",
        does=(raw(b"\x17\3\3\xff\xff" + bytes(100)),),
        reads=(EMSGSIZE, EAGAIN),
        closes="RST",
        receives=(TOO_LONG,),
    ),
    Row(
        name="a header of an older version",
        does=(data(b"data", header_version=0x0301),),
        reads=(EINVAL, EAGAIN),
        closes="RST",
        receives=(NO_HEADER,),
    ),
    Row(
        name="plain HTTP",
        does=(raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),),
        reads=(EINVAL, EAGAIN),
        closes="RST",
        receives=(NO_HEADER,),
    ),
    *(
        Row(
            name=name,
            does=(raw(text), raw(bytes(20))),
            reads=(EBADMSG, EAGAIN),
            closes="RST",
            receives=(NO_DECRYPT,),
            suites=suites,
        )
        for suites in ((TLS12,), (TLS13,))
        for name, text in {
            "a plain ChangeCipherSpec": b"\x14\3\3\0\1\1",
            "a plain alert": b"\x15\3\3\0\2\1\0",
            "a header with length 0": b"\x17\3\3\0\0",
            "a record shorter than a tag": b"\x17\3\3\0\5hello",
        }.items()
    ),
)

CASES = [(f"{row.name}, {suite.version.label}", row, suite) for row in ROWS for suite in row.suites]
