"""The client's data, by mode: where it is read, and how its end is told.

An input has one method, ``read(size, now)``: bytes, or ``b""`` for the clean end, or
an exception; it never waits. `ktlsgate.backend.connection` makes both kinds of
end stay. Every call passes MSG_DONTWAIT and leaves O_NONBLOCK alone, for that
flag is shared with every other holder of the socket.

======= ===================== ========================== =======================
mode    data is read from     clean end                  cut
======= ===================== ========================== =======================
PLAIN   the client's socket   FIN                        ECONNRESET
BOTH    the client's socket,  close_notify               FIN alone, ECONNRESET
        record by record
TX      the Unix connection   end of file                ECONNRESET
RELAY   the socketpair        end of file, RECEIVED was  end of file, verdict
                              taken by the gate          connection was reset
======= ===================== ========================== =======================

In the nginx dialect there is no verdict: an end in TX or RELAY is a plain end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Protocol

from ..errors import BadRecord, ConnectionCut, RemoteProtocolError
from ..kernel.records import recv_record, send_record
from ..wire.handoff import Mode
from ..wire.messages import NO_RENEGOTIATION
from ..wire.records import ContentType
from .arrival import ReceivedHandoff
from .control_records import ControlRecords, Meaning, key_update_error
from .rekeying import Rekeying
from .verdict import Verdict

__all__ = ["ClientInput", "make_input", "peer_error"]

_FLAGS = socket.MSG_DONTWAIT

# The kernel's verdicts on a record (observed on Linux 6.1, 6.12 and 7.2). EMSGSIZE and
# EINVAL are said once, later reads answer EAGAIN: the caller has to remember.
_BAD_RECORDS = {
    errno.EBADMSG: "a record does not decrypt",
    errno.EMSGSIZE: "a record is longer than TLS allows",
    errno.EINVAL: "a record header is no TLS header of this connection",
}


def peer_error(exc: OSError) -> RemoteProtocolError:
    """Say whose fault an errno of the client's socket is; every one of them ends the connection."""
    code = exc.errno or 0
    if code in _BAD_RECORDS:
        return BadRecord(code, f"{_BAD_RECORDS[code]} ({errno.errorcode[code]})")
    if code == errno.EKEYEXPIRED:
        return key_update_error()
    name = errno.errorcode.get(code, str(code))
    return ConnectionCut(f"the connection broke: {os.strerror(code)} ({name})")


class ClientInput(Protocol):
    """Where the client's data comes from.

    Attributes:
        socket: what becomes readable.
    """

    socket: socket.socket

    def read(self, size: int, now: float, /) -> bytes:
        """Read 1 to ``size`` bytes; none at the clean end.

        Args:
            size: in bytes.
            now: seconds on any clock that only goes forward, always the same one.

        Raises:
            BlockingIOError: nothing is there yet.
            RemoteProtocolError: the data ended in another way.
        """

    def has_data(self) -> bool:
        """Look whether data is next, and leave it; False for any end or control record.

        Raises:
            BlockingIOError: nothing is there yet.
            RemoteProtocolError: the data ended in another way. The kernel says so once,
                to a look as well, so no later read would tell.
        """


def _has_stream_data(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, _FLAGS | socket.MSG_PEEK))
    except BlockingIOError:
        raise
    except OSError as exc:
        raise peer_error(exc) from exc


class _StreamInput:
    """Bytes of a socket whose end of file is the clean end: PLAIN, and TX."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def read(self, size: int, _now: float, /) -> bytes:
        try:
            return self.socket.recv(size, _FLAGS)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise peer_error(exc) from exc

    def has_data(self) -> bool:
        return _has_stream_data(self.socket)


class _RecordInput:
    """Records that the kernel decrypts: BOTH."""

    def __init__(
        self, sock: socket.socket, *, is_tls13: bool, rekeying: Rekeying | None = None
    ) -> None:
        self.socket = sock
        self._rekeying = rekeying
        self._control = ControlRecords(is_tls13=is_tls13, can_rekey=rekeying is not None)

    def read(self, size: int, now: float, /) -> bytes:
        while True:
            try:
                content_type, data = self._receive(size)
            except BlockingIOError:
                raise
            except OSError as exc:
                raise peer_error(exc) from exc
            if content_type == ContentType.APPLICATION_DATA:
                if not data:
                    raise ConnectionCut("the client's stream ended without close_notify")
                self._control.note_data()
                return data
            meaning = self._control.receive_piece(content_type, data)
            if meaning is Meaning.END:
                return b""
            if meaning is Meaning.REFUSE_RENEGOTIATION:
                self._refuse_renegotiation()
            elif meaning is not Meaning.IGNORE:
                self._follow(meaning, now)

    def _receive(self, size: int) -> tuple[int, bytes]:
        try:
            return recv_record(self.socket, size, _FLAGS)
        except OSError as exc:
            is_split = exc.errno == errno.EKEYEXPIRED and self._control.is_inside_key_update
            if not is_split or self._rekeying is None:
                raise
        # The kernel takes the first piece of a KeyUpdate for a whole one and waits for a
        # new key; the rest of the message is still under the old one.
        self._rekeying.reopen_receiving()
        return recv_record(self.socket, size, _FLAGS)

    def _follow(self, meaning: Meaning, now: float) -> None:
        if self._rekeying is None:
            raise AssertionError("a KeyUpdate that cannot be followed is an error")
        is_requested = meaning is Meaning.KEY_UPDATE_REQUESTED
        self._rekeying.follow(is_requested=is_requested, now=now)

    def has_data(self) -> bool:
        try:
            content_type, data = recv_record(self.socket, 1, _FLAGS | socket.MSG_PEEK)
        except BlockingIOError:
            raise
        except OSError as exc:
            if exc.errno == errno.EKEYEXPIRED:  # stays, and a read knows what to do
                return False
            raise peer_error(exc) from exc
        return content_type == ContentType.APPLICATION_DATA and bool(data)

    def _refuse_renegotiation(self) -> None:
        # With a full send buffer the client goes without an answer, as with a lost wish.
        with contextlib.suppress(OSError):
            send_record(self.socket, ContentType.ALERT, NO_RENEGOTIATION, _FLAGS)


class _RelayInput:
    """Bytes that the gate relays, their end judged by the verdict connection: RELAY."""

    def __init__(self, sock: socket.socket, verdict: Verdict) -> None:
        self.socket = sock
        self._verdict = verdict

    def read(self, size: int, _now: float, /) -> bytes:
        try:
            data = self.socket.recv(size, _FLAGS)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise peer_error(exc) from exc
        if not data and not self._verdict.was_clean():
            raise ConnectionCut("the client's stream was cut, as the gate tells")
        return data

    def has_data(self) -> bool:
        return _has_stream_data(self.socket)


def make_input(
    received: ReceivedHandoff, verdict: Verdict, rekeying: Rekeying | None = None
) -> ClientInput:
    """Choose the input that a handoff's mode asks for."""
    descriptor, unix = received.descriptor, received.unix
    match received.head.mode:
        case Mode.BOTH:
            # nginx does not tell the version; then a ClientHello is taken for TLS 1.2's.
            is_tls13 = received.head.environ.get("SSL_PROTOCOL") == "TLSv1.3"
            return _RecordInput(descriptor, is_tls13=is_tls13, rekeying=rekeying)
        case Mode.TX:
            if unix is None:
                raise AssertionError("a receiver keeps the Unix connection in mode TX")
            return _StreamInput(unix)
        case Mode.RELAY:
            return _RelayInput(descriptor, verdict)
        case Mode.PLAIN:
            return _StreamInput(descriptor)
