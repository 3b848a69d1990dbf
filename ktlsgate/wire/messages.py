"""Alerts and handshake messages that travel as records of their own after a handoff.

Rule: parse and build only; what follows from a message is its reader's business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "CLOSE_NOTIFY",
    "KEY_UPDATE",
    "KEY_UPDATE_REQUESTED",
    "NO_RENEGOTIATION",
    "Alert",
    "AlertDescription",
    "HandshakeType",
    "build_alert",
    "parse_alert",
]


class AlertDescription(enum.IntEnum):
    """Alert numbers that we name (RFC 8446 section 6, RFC 5246 section 7.2)."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    USER_CANCELED = 90
    NO_RENEGOTIATION = 100
    UNRECOGNIZED_NAME = 112
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class HandshakeType(enum.IntEnum):
    """Handshake messages that can come after the handshake, and ClientHello."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    NEW_SESSION_TICKET = 4
    KEY_UPDATE = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert: whether it is fatal, and its number."""

    is_fatal: bool
    description: int

    @property
    def name(self) -> str:
        """The RFC's name in lower case, or ``alert N``."""
        try:
            return AlertDescription(self.description).name.lower()
        except ValueError:
            return f"alert {self.description}"


# RFC 8446 section 6: the level is to be ignored, all but these are fatal. TLS 1.2 leaves it
# to us which warnings end a connection (RFC 5246 section 7.2.2); the second two change
# nothing (RFC 6066 section 3 about names).
_NEVER_FATAL = (AlertDescription.CLOSE_NOTIFY, AlertDescription.USER_CANCELED)
_TLS12_WARNINGS = (AlertDescription.NO_RENEGOTIATION, AlertDescription.UNRECOGNIZED_NAME)


def parse_alert(data: bytes) -> Alert:
    """Read the two bytes of an alert record.

    Raises:
        ValueError: it has another length.
    """
    if len(data) != 2:
        raise ValueError(f"expected an alert of 2 bytes, got {len(data)}")
    level, description = data
    is_warning = level == 1 and description in _TLS12_WARNINGS
    is_fatal = not is_warning and description not in _NEVER_FATAL
    return Alert(is_fatal=is_fatal, description=description)


def build_alert(description: AlertDescription, *, is_fatal: bool) -> bytes:
    """Build the two bytes of an alert."""
    return bytes((2 if is_fatal else 1, description))


CLOSE_NOTIFY = build_alert(AlertDescription.CLOSE_NOTIFY, is_fatal=False)
NO_RENEGOTIATION = build_alert(AlertDescription.NO_RENEGOTIATION, is_fatal=False)

# RFC 8446 section 4.6.3: update_not_requested, and update_requested.
KEY_UPDATE = bytes((HandshakeType.KEY_UPDATE, 0, 0, 1, 0))
KEY_UPDATE_REQUESTED = bytes((HandshakeType.KEY_UPDATE, 0, 0, 1, 1))
