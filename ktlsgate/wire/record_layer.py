"""OpenSSL's record layer over memory BIOs, for connections that the kernel does not hold.

Rule: ciphertext in, plaintext out, and the reverse; nothing here reads or writes
a socket. After the sending key went into the kernel (mode TX) whatever OpenSSL
still wants to send must be thrown away by the caller (invariant I4): its
sequence numbers are stale. It wants to when a client tries to renegotiate or
breaks the protocol; after the former decryption goes on.
"""

from __future__ import annotations

from OpenSSL import SSL

from ..errors import LocalProtocolError, RemoteProtocolError
from .openssl_extra import can_rebind_to_memory, rebind_to_memory
from .records import HEADER_SIZE, ContentType

__all__ = ["BOTH_ENDS", "RecordLayer", "drain_output", "openssl_reason"]

_CHUNK = 65_536
BOTH_ENDS = SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN
_FLIGHT = 81_920  # a chunk in records, so that one call takes all of it


def drain_output(connection: SSL.Connection) -> bytes:
    """Take everything that OpenSSL wants to send."""
    output = b""
    try:
        while True:
            piece = connection.bio_read(_FLIGHT)
            output = output + piece if output else piece
            if len(piece) < _FLIGHT:  # all there was; asking again costs an exception
                return output
    except SSL.WantReadError:
        return output


def openssl_reason(error: SSL.Error) -> str:
    """The last reason in an OpenSSL error queue that says something, or ``unexpected end``."""
    queue = error.args[0] if error.args and isinstance(error.args[0], (list, tuple)) else ()
    # OpenSSL 3.2 and newer put this one behind the reason itself.
    reasons = [str(entry[-1]) for entry in queue if entry[-1] != "record layer failure"]
    return reasons[-1] if reasons else "unexpected end"


class RecordLayer:
    """An established connection in user space.

    Attributes:
        wanted: how many bytes to read next, at most.
        is_closed: whether the peer's close_notify came: nothing more will.
    """

    __slots__ = ("_connection", "_error", "_header", "_may_owe", "_missing", "is_closed")
    wanted = _CHUNK

    def __init__(self, connection: SSL.Connection, *, is_between_records: bool = False) -> None:
        """Go on with an established connection.

        Args:
            connection: OpenSSL's object.
            is_between_records: whether it surely holds no part of a record. Then records
                that come one by one cost less.
        """
        self._connection = connection
        self._missing = 0 if is_between_records else -1  # of the last record; -1: unknown
        self._header = b""  # the part that is here of a header that was cut
        self._may_owe = True  # whether OpenSSL may want to send something
        self._error: RemoteProtocolError | None = None
        self.is_closed = False

    def receive_data(self, data: bytes) -> bytes:
        """Decrypt what came from the peer; partial records wait inside.

        Returns:
            All plaintext that is whole, ``b""`` for none.

        Raises:
            RemoteProtocolError: a bad record or a fatal alert. Plaintext in front of
                it is returned first; the call after that raises.
        """
        self.raise_failure()
        if data:
            self._connection.bio_write(data)
        is_alone = self._is_alone(data)
        if not is_alone:  # behind a record that comes alone there is a border again
            self._follow_borders(data)
        chunks = []
        try:
            while not self.is_closed:
                chunks.append(self._connection.recv(_CHUNK))
                if is_alone:  # there is no more, and data is never answered
                    return chunks[0]
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.is_closed = True
        except SSL.Error as exc:
            self._error = RemoteProtocolError(f"expected a TLS record, got {openssl_reason(exc)}")
            if not chunks:
                raise self._error from exc
        finally:
            self._may_owe |= not (is_alone and chunks)
        return b"".join(chunks)

    def _is_alone(self, data: bytes) -> bool:
        """Whether this is exactly one record of type application data."""
        if self._missing or self._header or len(data) <= HEADER_SIZE:
            return False
        length = data[3] << 8 | data[4]
        return len(data) == HEADER_SIZE + length and data[0] == ContentType.APPLICATION_DATA

    def _follow_borders(self, data: bytes) -> None:
        """Note where in the next data a record ends, unless that was never known."""
        at = self._missing
        if at < 0:
            return
        data, self._header = self._header + data, b""
        while at + HEADER_SIZE <= len(data):
            at += HEADER_SIZE + (data[at + 3] << 8 | data[at + 4])
        if at < len(data):
            self._header, at = data[at:], len(data)
        self._missing = at - len(data)

    def send_data(self, data: bytes) -> bytes:
        """Encrypt: plaintext of any size in, whole records out.

        Raises:
            RemoteProtocolError: the connection failed before.
            LocalProtocolError: close_notify was sent already.
        """
        try:
            self._connection.sendall(data)
        except SSL.Error as exc:
            if self._error:
                raise self._error from exc
            raise LocalProtocolError("expected no more data after close_notify") from exc
        return drain_output(self._connection)

    @property
    def failure(self) -> RemoteProtocolError | None:
        """What `receive_data` kept back, if anything: nothing good will follow."""
        return self._error

    def raise_failure(self) -> None:
        """Raise what `receive_data` kept back, if anything.

        Raises:
            RemoteProtocolError: nothing good will follow what was returned last.
        """
        if self._error:
            raise self._error

    def data_to_send(self) -> bytes:
        """What OpenSSL wants to send by itself: alerts.

        Its answer to a KeyUpdate goes out in front of its next data.
        """
        if not self._may_owe:
            return b""
        self._may_owe = False
        return drain_output(self._connection)

    def shrink(self) -> None:
        """Part from buffers of the size that was needed most; their bytes are all used."""
        if can_rebind_to_memory():
            rebind_to_memory(self._connection)

    def send_close_notify(self) -> bytes:
        """Say goodbye; nothing may be sent after it."""
        try:
            self._connection.shutdown()
        except SSL.Error:  # a connection that failed cannot say goodbye
            return b""
        return drain_output(self._connection)

    def forget(self) -> None:
        """Drop OpenSSL's object; a connection that did not fail can be resumed.

        OpenSSL takes a session out of its cache when its connection ends without
        being marked shut down; a cut of the transport is no reason for that.
        """
        if not self._error:
            self._connection.set_shutdown(BOTH_ENDS)
        del self._connection
