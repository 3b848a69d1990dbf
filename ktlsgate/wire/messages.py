"""Alerts and handshake messages that travel as records of their own after a handoff.

Rule: parse and build only; what follows from a message is its reader's business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "CLOSE_NOTIFY",
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


def parse_alert(data: bytes) -> Alert:
    """Read the two bytes of an alert record.

    Raises:
        ValueError: it has another length.
    """
    if len(data) != 2:
        raise ValueError(f"expected an alert of 2 bytes, got {len(data)}")
    # TLS 1.3: the level is to be ignored; all but these two are fatal (section 6).
    harmless = (AlertDescription.CLOSE_NOTIFY, AlertDescription.USER_CANCELED)
    is_fatal = data[0] == 2 and data[1] not in harmless
    return Alert(is_fatal=is_fatal, description=data[1])


def build_alert(description: AlertDescription, *, is_fatal: bool) -> bytes:
    """Build the two bytes of an alert."""
    return bytes((2 if is_fatal else 1, description))


CLOSE_NOTIFY = build_alert(AlertDescription.CLOSE_NOTIFY, is_fatal=False)
NO_RENEGOTIATION = build_alert(AlertDescription.NO_RENEGOTIATION, is_fatal=False)
