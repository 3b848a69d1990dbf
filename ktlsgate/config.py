"""What the operator decided, as frozen values; this module reads no file.

Every duration is in seconds, every size in bytes. The defaults are those of
the peers that operators know (hitch, ghostunnel, nginx, haproxy, caddy), each
with its reason beside it. `ktlsgate.service.config_file` turns a TOML file
into these values and does all the checking that needs a file and a line.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = [
    "Backend",
    "Certificate",
    "ClientVerify",
    "Config",
    "Dialect",
    "EngineChoice",
    "Keepalive",
    "KtlsPolicy",
    "Limits",
    "Listener",
    "LogFormat",
    "Logging",
    "Offload",
    "Route",
    "RxFallback",
    "Tls",
]


class Offload(enum.Enum):
    """Which directions the kernel encrypts: who does the crypto now."""

    BOTH = "both"
    TX = "tx"
    NONE = "none"

    __hash__ = object.__hash__  # members are single; Enum's own is a Python function

    def is_within(self, bound: Offload) -> bool:
        """Whether this is no more than ``bound``."""
        return self is bound or _MORE[self] < _MORE[bound]

    def at_most(self, bound: Offload) -> Offload:
        """Return this, or ``bound`` if that is less."""
        return self if self.is_within(bound) else bound


_MORE = {Offload.NONE: 0, Offload.TX: 1, Offload.BOTH: 2}


class KtlsPolicy(enum.Enum):
    """What to do when the kernel cannot hold the keys of a connection.

    ``REQUIRE`` refuses to start without kTLS and answers 503 on a connection
    that cannot be offloaded as far as `Listener.offload` asks; ``PREFER``
    relays it; ``OFF`` relays all (one switch for a kernel one does not trust).
    """

    REQUIRE = "require"
    PREFER = "prefer"
    OFF = "off"


class EngineChoice(enum.Enum):
    """Who puts the keys of a listener's connections into the kernel.

    ``DIRECT``: OpenSSL shakes hands in memory, the gate derives the keys and
    installs them; needs no kTLS in OpenSSL. ``OPENSSL``: OpenSSL does it itself
    (SSL_OP_ENABLE_KTLS), and no key ever reaches Python. ``AUTO``: whichever gives
    more here, ``DIRECT`` if they give the same.
    """

    AUTO = "auto"
    DIRECT = "direct"
    OPENSSL = "openssl"


class Dialect(enum.Enum):
    """How a handoff is written on the Unix socket.

    ``KTLSGATE`` is nginx's fd_pass block first and our fields behind it, so a
    backend made for fd_pass reads it unchanged; ``NGINX`` is that block byte
    for byte and nothing else.
    """

    KTLSGATE = "ktlsgate"
    NGINX = "nginx"


class RxFallback(enum.Enum):
    """What a backend gets where the kernel encrypts and does not decrypt (mode TX).

    ``SPLIT``: the client's socket for writing, and the decrypted input on the Unix
    connection. ``PAIR``: one end of a socketpair for both, as where the kernel holds
    nothing: for what can read and write one socket only, and would read ciphertext.
    ``REFUSE``: nothing; the client is answered 503.
    """

    SPLIT = "split"
    PAIR = "pair"
    REFUSE = "refuse"


class Keepalive(enum.Enum):
    """Whether requests after the first on one connection belong to the backend.

    ``OWN``: they do. ``SINGLE``: the connection ends after one response (an
    upgrade aside), since a later request could name a host or path that the
    gate routes elsewhere. ``AUTO``: ``OWN`` on a route that covers its whole
    host, ``SINGLE`` on any other.
    """

    AUTO = "auto"
    OWN = "own"
    SINGLE = "single"


class ClientVerify(enum.Enum):
    """Whether clients are asked for a certificate, and must have one."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class LogFormat(enum.Enum):
    """``AUTO`` is text on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one client may cost us while the gate holds it.

    None of them reaches a connection after its handoff: it is the backend's.
    """

    max_connections: int = 10_000  # held by the gate at once; h2o 1024, haproxy from ulimit
    handshake_timeout: float = 10.0  # ghostunnel and h2o 10, hitch 30, nginx 60
    header_timeout: float = 10.0  # nginx and caddy 60: too kind to slow-loris clients
    handoff_timeout: float = 5.0  # connect, send and acknowledgement together
    relay_idle_timeout: float = 600.0  # nginx stream 10 m
    drain_timeout: float = 30.0  # ghostunnel 5 m; what lives long is handed over already
    max_header_bytes: int = 32_768  # nginx 4 buffers of 8 KiB
    max_header_count: int = 100  # Apache's LimitRequestFields
    max_handshake_bytes: int = 131_072  # a chain of 56 kB passes, nothing sane needs more


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS policy of the listeners; the names are OpenSSL's."""

    min_version: str = "TLSv1.2"
    max_version: str = "TLSv1.3"
    # Mozilla "intermediate" without DHE: every suite left is AEAD, so kTLS can take it.
    ciphers: str = (
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    )
    ciphersuites: str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    alpn: tuple[str, ...] = ("http/1.1",)  # h2 cannot be given away per request
    tickets: bool = True
    client_verify: ClientVerify = ClientVerify.NONE
    client_ca: str = ""  # PEM file; needed unless client_verify is NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A chain (leaf first) and its key; ``key`` empty means the key is in ``file``."""

    file: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address that accepts clients.

    ``address`` is ``HOST:PORT`` (``[V6]:PORT``, ``*:PORT``, ``:PORT``).
    """

    address: str
    tls: bool = True
    ktls: KtlsPolicy = KtlsPolicy.PREFER
    engine: EngineChoice = EngineChoice.AUTO
    offload: Offload = Offload.BOTH  # the most that may go to the kernel
    backlog: int = 4096  # cut down by the kernel to net.core.somaxconn


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where descriptors go: one or more Unix stream sockets.

    Each of ``addresses`` is a path, or ``@NAME`` for an abstract socket; they take turns.
    One that failed is asked after the others for ``fail_timeout``. While nobody is there
    at any of them a request waits for at most ``absence_timeout``, ``None`` for not at
    all. ``peer_uid`` is the user that must be listening there (SO_PEERCRED), ``None`` for
    any.
    ``kept_connections`` is how many idle connections to it are kept for further
    handoffs, 0 for one connection a handoff: the backend has to read on and to say
    ``RECEIVED`` each time (`ktlsgate.wire.handoff`). ``rx_fallback``: what it can take.
    """

    name: str
    addresses: tuple[str, ...]
    dialect: Dialect = Dialect.KTLSGATE
    peer_uid: int | None = None
    kept_connections: int = 0  # every reader of one handoff a connection is served
    rx_fallback: RxFallback = RxFallback.SPLIT  # fd_pass's contract
    fail_timeout: float = 10.0  # nginx's
    absence_timeout: float | None = None  # 503 at once, as peers do

    @property
    def address(self) -> str:
        """The only one, or the first."""
        return self.addresses[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which requests go to which backend; the first route that matches wins.

    ``hosts`` are lower-case names without port, ``*.example.com`` for every
    name below, ``*`` for all. ``path`` is a prefix that ends at a segment:
    ``/app`` matches ``/app`` and ``/app/x``, not ``/apple``. ``share_secrets``
    gives the backend the TLS 1.3 traffic secrets, where the kernel can rekey, so
    that it can follow KeyUpdates. Whoever has them can decrypt all that the
    connection carries, from its first request to its last byte. ``offload`` bounds
    what goes to the kernel further than the listener's does.
    """

    hosts: tuple[str, ...] = ("*",)
    path: str = "/"
    backend: Backend
    keepalive: Keepalive = Keepalive.AUTO
    offload: Offload = Offload.BOTH  # no bound beyond the listener's
    share_secrets: bool = False  # the gate gives away no more than it is asked to


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """Where log lines go: ``stderr``, ``stdout`` or a file that is appended to."""

    level: str = "info"
    format: LogFormat = LogFormat.AUTO
    file: str = "stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it."""

    listeners: tuple[Listener, ...]
    routes: tuple[Route, ...]
    certificate: Certificate | None = None
    tls: Tls = field(default_factory=Tls)
    limits: Limits = field(default_factory=Limits)
    logging: Logging = field(default_factory=Logging)
