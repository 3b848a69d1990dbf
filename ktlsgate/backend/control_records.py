"""What control records mean after a handoff: alerts, and handshake messages.

Rule: no socket here. The kernel delivers a control record by itself, in pieces
when the read buffer is small, so both kinds are put together again first.

What each means (RFC 8446 sections 4.6, 6; RFC 5246 sections 7.2, 7.4.1.1):

===================== ====================================================
close_notify          the end of the client's data
fatal alert           `FatalAlert`
other warning         nothing
NewSessionTicket,     nothing (no client should send them; a server that
HelloRequest          ignores them loses nothing)
KeyUpdate             the client's next record has a new key: followed where the
                      gate shared its secrets (`ktlsgate.backend.rekeying`),
                      else an error
ClientHello, TLS 1.2  renegotiation: answered with no_renegotiation, which a
                      client may accept and go on, or take as the end
anything else         an error
===================== ====================================================

A KeyUpdate has to be alone in its record or records (RFC 8446 section 5.1: what
precedes a key change ends with a record), and the kernel sees it only there: it
looks at the first byte of each record.
"""

from __future__ import annotations

import enum

from ..errors import FatalAlert, RemoteProtocolError
from ..wire.messages import AlertDescription, HandshakeType, parse_alert
from ..wire.records import ContentType

__all__ = ["ControlRecords", "Meaning"]

# In a row without data between; OpenSSL stops at 5 warnings and 32 empty records.
_MAX_IGNORED = 32
_MAX_RENEGOTIATIONS = 3
_HANDSHAKE_HEADER = 4  # type, and length in 3 bytes


class Meaning(enum.Enum):
    """What the reader of a control record has to do."""

    IGNORE = "read on"
    END = "the client has ended its data"
    REFUSE_RENEGOTIATION = "send the warning no_renegotiation, then read on"
    KEY_UPDATE = "install the next receiving key, then read on"
    KEY_UPDATE_REQUESTED = "the same, and update our sending key before we send data"


class ControlRecords:
    """Tell what control records mean, one piece after the other.

    Args (of the constructor):
        is_tls13: whether a ClientHello is out of place even as a wish.
        can_rekey: whether a KeyUpdate can be followed.
    """

    def __init__(self, *, is_tls13: bool, can_rekey: bool = False) -> None:
        self._is_tls13 = is_tls13
        self._can_rekey = can_rekey
        self._is_key_update = False  # whether ``_rest`` is one's
        self._is_behind = False  # whether the message began behind another in its record
        self._alert = b""
        self._header = b""
        self._rest = 0  # bytes of the current handshake message that are still to come
        self._ignored = 0
        self._renegotiations = 0

    @property
    def is_inside_key_update(self) -> bool:
        """Whether a KeyUpdate came in part: its next byte is in another record."""
        return self._is_key_update or self._header[:1] == bytes((HandshakeType.KEY_UPDATE,))

    def note_data(self) -> None:
        """Application data came: what was ignored before no longer counts."""
        self._ignored = 0

    def receive_piece(self, content_type: int, data: bytes) -> Meaning:
        """Take a control record, or the next piece of one.

        Raises:
            FatalAlert: it was one.
            RemoteProtocolError: a KeyUpdate that cannot be followed, a record that has
                no place here, or too many records without data.
        """
        self._ignored += 1
        if self._ignored > _MAX_IGNORED:
            raise RemoteProtocolError(
                f"expected data, got {self._ignored} control records in a row"
            )
        if content_type == ContentType.ALERT:
            return self._receive_alert(data)
        if content_type == ContentType.HANDSHAKE:
            return self._receive_handshake(data)
        raise RemoteProtocolError(f"expected application data, got content type {content_type}")

    def _receive_alert(self, data: bytes) -> Meaning:
        self._alert += data
        if len(self._alert) < 2:
            return Meaning.IGNORE
        try:
            alert = parse_alert(self._alert)
        except ValueError as exc:
            raise RemoteProtocolError(str(exc)) from exc
        self._alert = b""
        if alert.is_fatal:
            raise FatalAlert(alert.description, f"the peer sent the fatal alert {alert.name}")
        if alert.description == AlertDescription.CLOSE_NOTIFY:
            return Meaning.END
        return Meaning.IGNORE

    def _receive_handshake(self, data: bytes) -> Meaning:
        meaning, size = Meaning.IGNORE, len(data)
        while data:
            if self._is_key_update:
                return self._end_key_update(data)
            if self._rest:
                skipped, self._rest = min(len(data), self._rest), max(self._rest - len(data), 0)
                data = data[skipped:]
                continue
            if not self._header:
                self._is_behind = len(data) < size
            needed = _HANDSHAKE_HEADER - len(self._header)
            self._header, data = self._header + data[:needed], data[needed:]
            if len(self._header) < _HANDSHAKE_HEADER:
                break
            kind, self._rest = self._header[0], int.from_bytes(self._header[1:], "big")
            self._header = b""
            if self._begin_message(kind) is not Meaning.IGNORE:
                meaning = Meaning.REFUSE_RENEGOTIATION
        return meaning

    def _begin_message(self, kind: int) -> Meaning:
        if kind in (HandshakeType.NEW_SESSION_TICKET, HandshakeType.HELLO_REQUEST):
            return Meaning.IGNORE
        if kind == HandshakeType.KEY_UPDATE:
            return self._begin_key_update()
        if kind != HandshakeType.CLIENT_HELLO or self._is_tls13:
            raise RemoteProtocolError(f"expected application data, got handshake message {kind}")
        self._renegotiations += 1
        if self._renegotiations > _MAX_RENEGOTIATIONS:
            raise RemoteProtocolError(
                f"expected application data, got {self._renegotiations} wishes to renegotiate"
            )
        return Meaning.REFUSE_RENEGOTIATION

    def _begin_key_update(self) -> Meaning:
        if not self._can_rekey:
            raise key_update_error()
        if self._is_behind:
            raise RemoteProtocolError(
                "expected a KeyUpdate alone in its record, got one behind another message"
            )
        if self._rest != 1:
            raise RemoteProtocolError(f"expected a KeyUpdate of 1 byte, got one of {self._rest}")
        self._is_key_update = True
        return Meaning.IGNORE

    def _end_key_update(self, data: bytes) -> Meaning:
        self._is_key_update, self._rest = False, 0
        self._ignored = 0  # it has a bound of its own
        if len(data) > 1:
            raise RemoteProtocolError(
                f"expected a KeyUpdate alone in its record, got {len(data) - 1} bytes behind it"
            )
        if data[0] not in _REQUESTS:
            raise RemoteProtocolError(
                f"expected 0 or 1 as the request of a KeyUpdate, got {data[0]}"
            )
        return _REQUESTS[data[0]]


# KeyUpdateRequest (RFC 8446 section 4.6.3).
_REQUESTS = {0: Meaning.KEY_UPDATE, 1: Meaning.KEY_UPDATE_REQUESTED}


def key_update_error() -> RemoteProtocolError:
    """The error for a client that changed its key, however it was noticed."""
    return RemoteProtocolError(
        "the client sent a KeyUpdate, and this backend cannot install the next receiving key"
    )
