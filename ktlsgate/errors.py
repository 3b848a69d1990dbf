"""Every exception of ktlsgate, sorted by whose fault it is.

::

    KtlsgateError
    ├── RemoteProtocolError        the client (or a backend's peer) broke the protocol
    │   ├── HandshakeFailed        no TLS connection came of it
    │   ├── HeadRejected           the request head was refused, with an HTTP status
    │   ├── FatalAlert             the peer ended the connection with an alert
    │   ├── ConnectionCut          the stream ended without close_notify
    │   └── BadRecord              the kernel refused a record (bad tag, length, version)
    ├── LocalProtocolError         our caller used an object in a way it forbids
    ├── KtlsUnavailable            this kernel, or this socket, has no kTLS
    │   └── CipherUnsupported      it has kTLS, but not for this cipher and version
    ├── ResourceShortage           this machine has no room for one more of something
    ├── HandoffError               a handoff did not come about
    │   ├── BackendUnavailable     nobody took the connection (absent, full, slow)
    │   ├── BackendFailed          somebody took it and broke the protocol, or died
    │   └── HandoffMalformed       what a receiver read is no handoff
    └── ConfigError                the operator's file, flags or certificates

An error carries values, not only text: an alert, an errno, an HTTP status. No
message holds key bytes; what a peer sent is escaped and cut before it gets here.
"""

from __future__ import annotations

__all__ = [
    "BackendFailed",
    "BackendUnavailable",
    "BadRecord",
    "CipherUnsupported",
    "ConfigError",
    "ConnectionCut",
    "FatalAlert",
    "HandoffError",
    "HandoffMalformed",
    "HandshakeFailed",
    "HeadRejected",
    "KtlsUnavailable",
    "KtlsgateError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "ResourceShortage",
]


class KtlsgateError(Exception):
    """Root of the tree; never raised itself."""


class RemoteProtocolError(KtlsgateError):
    """The peer sent what the protocol does not allow."""


class HandshakeFailed(RemoteProtocolError):
    """The TLS handshake ended without a connection.

    Attributes:
        reason: a class for logs and counters, one lower-case word with underscores.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason class beside the text."""
        super().__init__(message)
        self.reason = reason


class HeadRejected(RemoteProtocolError):
    """A request head that the gate refuses.

    Attributes:
        status: the HTTP status to answer with (400, 414, 431, 501, 505).
        reason: what was expected and what came, without line breaks.
    """

    def __init__(self, status: int, reason: str) -> None:
        """Keep the status beside the text."""
        super().__init__(reason)
        self.status = status
        self.reason = reason


class FatalAlert(RemoteProtocolError):
    """The peer sent a TLS alert that ends the connection (RFC 8446 section 6).

    Attributes:
        description: the alert number, 0 to 255.
    """

    def __init__(self, description: int, message: str) -> None:
        """Keep the alert number beside the text."""
        super().__init__(message)
        self.description = description


class ConnectionCut(RemoteProtocolError):
    """The stream ended without close_notify: data may be missing (RFC 8446 section 6.1)."""


class BadRecord(RemoteProtocolError):
    """The kernel refused a TLS record; nothing after it can be read.

    Attributes:
        errno: EBADMSG (tag), EMSGSIZE (length) or EINVAL (version).
    """

    def __init__(self, errno: int, message: str) -> None:
        """Keep the errno beside the text."""
        super().__init__(message)
        self.errno = errno


class LocalProtocolError(KtlsgateError):
    """The caller broke the contract of one of our objects."""


class KtlsUnavailable(KtlsgateError):
    """The kernel does not do TLS on this socket.

    Attributes:
        errno: what the system call answered.
    """

    def __init__(self, errno: int, message: str) -> None:
        """Keep the errno beside the text."""
        super().__init__(message)
        self.errno = errno


class CipherUnsupported(KtlsUnavailable):
    """The kernel has kTLS but refused this cipher in this version and direction."""


class ResourceShortage(KtlsgateError):
    """A limit of this machine's is reached: no peer's fault, and no bug.

    Attributes:
        reason: a class for logs and counters, one lower-case word with underscores.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason class beside the text."""
        super().__init__(message)
        self.reason = reason


class HandoffError(KtlsgateError):
    """The client's connection could not be given away; the gate still owns it.

    Attributes:
        status: the HTTP status for the client (502 or 503).
        reason: a class for logs and counters, one lower-case word with underscores.
    """

    status = 502

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason class beside the text."""
        super().__init__(message)
        self.reason = reason


class BackendUnavailable(HandoffError):
    """No backend took the connection: absent, its queue full, or too slow."""

    status = 503


class BackendFailed(HandoffError):
    """The backend is the wrong process, broke the protocol, or died during the handoff."""

    status = 502


class HandoffMalformed(HandoffError):
    """Bytes or descriptors on the Unix socket that are no handoff (receiving side)."""

    def __init__(self, message: str) -> None:
        """All of them are one class."""
        super().__init__("malformed", message)


class ConfigError(KtlsgateError):
    """The operator's file, flags or certificates cannot be used.

    Attributes:
        errors: every complaint, each ``file:line: key: what was expected, what came``.
    """

    def __init__(self, *errors: str) -> None:
        """Take one complaint or many; the text is one per line."""
        super().__init__("\n".join(errors))
        self.errors = errors
