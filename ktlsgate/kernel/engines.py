"""The engines, each tried by one real handshake on loopback sockets.

Engines (who puts the keys into the kernel)::

    direct   OpenSSL shakes hands over memory BIOs, we derive the keys and install them
    openssl  OpenSSL does it itself: SSL_OP_ENABLE_KTLS on a socket-bound connection

After the handshake getsockopt says what came of it, and data goes through the bare
descriptor, one way or both. One thread plays both sides; every wait is bounded.
pyOpenSSL is imported inside functions, so that its absence is the caller's value.
"""

from __future__ import annotations

import enum
import functools
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..config import Offload, Tls
from ..errors import HandshakeFailed
from ..wire.ciphers import Version
from .ktls import KEY_REASONS, ULP_REASONS, attach_ulp, has_rx, has_tx, install_rx, install_tx
from .trials import DONE, NOT_TRIED, TIMEOUT, Outcome, attempt, on_pair, recv_exactly

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from OpenSSL import SSL

__all__ = ["Engine", "EngineTrial", "Identity", "try_engine"]

_HANDSHAKE_TIMEOUT = 5.0  # seconds; one takes 1 ms natively, 4 in user-mode Linux
_PING = b"through the kernel"

_NO_TX = Outcome(ok=False, reason="OpenSSL did not give the sending key to the kernel")
_NO_RX = Outcome(ok=False, reason="OpenSSL did not give the receiving key to the kernel")


class Engine(enum.StrEnum):
    """Who puts the keys into the kernel."""

    DIRECT = "direct"
    OPENSSL = "openssl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTrial:
    """One engine and version.

    Attributes:
        engine: who puts the keys into the kernel.
        version: the only one that the client offered.
        suite: what was agreed on, by OpenSSL's name; empty without a handshake.
        handshake: how it ended.
        tx: whether the kernel encrypts.
        rx: whether the kernel decrypts.
        data: whether bytes went through the bare descriptor, each way that it can.
    """

    engine: Engine
    version: Version
    suite: str = ""
    handshake: Outcome = NOT_TRIED
    tx: Outcome = NOT_TRIED
    rx: Outcome = NOT_TRIED
    data: Outcome = NOT_TRIED

    @property
    def offload(self) -> Offload:
        """What a connection would get."""
        if not (self.tx.ok and self.data.ok):
            return Offload.NONE
        return Offload.BOTH if self.rx.ok else Offload.TX

    @property
    def reason(self) -> str:
        """Why not both, in words; empty when both work."""
        steps = (self.handshake, self.tx, self.rx, self.data)
        return next((step.reason for step in steps if not step.ok), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A server's certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


class _Server(Protocol):
    """The side whose keys go into the kernel."""

    def advance(self) -> bool:
        """Go on with the handshake without waiting; True once it is done."""

    def suite(self) -> str:
        """What was agreed on."""

    def offload(self) -> tuple[Outcome, Outcome]:
        """Put the keys into the kernel, or look whether they are there: TX, RX."""


def _is_done(connection: SSL.Connection) -> bool:
    from OpenSSL import SSL

    try:
        connection.do_handshake()
    except (SSL.WantReadError, SSL.WantWriteError):
        return False
    return True


def _server_context(identity: Identity, *, lets_openssl_offload: bool = False) -> SSL.Context:
    from ..wire.tls_context import build_server_context

    return build_server_context(
        Tls(),
        (identity.certificate,),
        identity.key,
        lets_openssl_offload=lets_openssl_offload,
    )


class _OpenSslServer:
    """Engine ``openssl``."""

    def __init__(self, identity: Identity, sock: socket.socket) -> None:
        from OpenSSL import SSL

        context = _server_context(identity, lets_openssl_offload=True)
        self._sock = sock
        self._connection = SSL.Connection(context, sock)
        self._connection.set_accept_state()

    def advance(self) -> bool:
        return _is_done(self._connection)

    def suite(self) -> str:
        return self._connection.get_cipher_name() or ""

    def offload(self) -> tuple[Outcome, Outcome]:
        from OpenSSL import SSL

        self._connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        tx, rx = has_tx(self._sock), has_rx(self._sock)
        return (DONE if tx else _NO_TX, DONE if rx else _NO_RX)


class _DirectServer:
    """Engine ``direct``: what the gate itself does with each connection."""

    def __init__(self, identity: Identity, sock: socket.socket) -> None:
        from ..wire.handshake import Handshake

        self._sock = sock
        # Right after accept, as the gate does: later the client may have sent FIN.
        self._ulp = attempt(lambda: attach_ulp(sock), ULP_REASONS)
        self._handshake = Handshake(_server_context(identity))

    def advance(self) -> bool:
        handshake = self._handshake
        try:
            while not handshake.is_established:
                handshake.receive_data(self._sock.recv(handshake.wanted))
                self._sock.sendall(handshake.data_to_send())
        except BlockingIOError:
            return False
        except HandshakeFailed:
            self._sock.sendall(handshake.data_to_send())  # the alert
            raise
        return True

    def suite(self) -> str:
        return self._handshake.established().facts.cipher

    def offload(self) -> tuple[Outcome, Outcome]:
        if not self._ulp.ok:
            return self._ulp, self._ulp
        suite = self._handshake.established().suite
        if suite is None or self._handshake.has_pending_data:
            no = Outcome(ok=False, reason="the suite cannot go to the kernel")
            return no, no
        tx_info, rx_info = self._handshake.derive_keys(suite)
        tx = attempt(lambda: install_tx(self._sock, tx_info), KEY_REASONS)
        rx = attempt(lambda: install_rx(self._sock, rx_info), KEY_REASONS) if tx.ok else NOT_TRIED
        self._handshake.forget()
        return tx, rx


_SERVERS: dict[Engine, Callable[[Identity, socket.socket], _Server]] = {
    Engine.DIRECT: _DirectServer,
    Engine.OPENSSL: _OpenSslServer,
}


class _Client:
    """An ordinary client with all of TLS in user space."""

    def __init__(self, sock: socket.socket, version: Version) -> None:
        from OpenSSL import SSL

        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        self._sock = sock
        self._connection = SSL.Connection(context, sock)
        self._connection.set_connect_state()

    def advance(self) -> bool:
        """Go on with the handshake without waiting; True once it is done."""
        return _is_done(self._connection)

    def send(self, data: bytes) -> None:
        """Send a little; loopback's buffer takes it at once."""
        self._connection.sendall(data)

    def recv(self) -> bytes:
        """Receive one record's data; session tickets come first and are not data."""
        from OpenSSL import SSL

        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return self._connection.recv(1024)
            except SSL.WantReadError:
                _wait_readable([self._sock], deadline)


def _wait_readable(socks: list[socket.socket], deadline: float) -> None:
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    seconds = deadline - time.monotonic()
    if seconds <= 0 or not poll.poll(seconds * 1000):
        raise TimeoutError


def _shake_hands(server: _Server, client: _Client, near: socket.socket, far: socket.socket) -> None:
    deadline = time.monotonic() + _HANDSHAKE_TIMEOUT
    waiting: dict[socket.socket, Callable[[], bool]] = {far: client.advance, near: server.advance}
    while True:
        waiting = {sock: advance for sock, advance in waiting.items() if not advance()}
        if not waiting:
            return
        _wait_readable(list(waiting), deadline)


def _exchange(near: socket.socket, client: _Client, *, receive: bool) -> str | None:
    """Use the descriptor as a backend would: plain calls."""
    near.settimeout(TIMEOUT)
    near.sendall(_PING)
    if client.recv() != _PING:
        return "the client did not get what was sent"
    if receive:
        client.send(_PING)
        if recv_exactly(near, len(_PING)) != _PING:
            return "what the client sent did not come out"
    return None


def _try_on(
    engine: Engine, version: Version, identity: Identity, near: socket.socket, far: socket.socket
) -> EngineTrial:
    for sock in (near, far):
        sock.settimeout(0)
    made: list[tuple[_Server, _Client]] = []

    def shake() -> None:
        made.append((_SERVERS[engine](identity, near), _Client(far, version)))
        _shake_hands(*made[0], near, far)

    trial = functools.partial(EngineTrial, engine=engine, version=version)
    handshake = attempt(shake)
    if not handshake.ok:
        return trial(handshake=handshake)
    server, client = made[0]
    found: list[tuple[str, Outcome, Outcome]] = []
    taken = attempt(lambda: found.append((server.suite(), *server.offload())))
    if not taken.ok:
        return trial(handshake=handshake, tx=taken, rx=taken)
    suite, tx, rx = found[0]
    data = attempt(lambda: _exchange(near, client, receive=rx.ok)) if tx.ok else NOT_TRIED
    return trial(suite=suite, handshake=handshake, tx=tx, rx=rx, data=data)


def try_engine(engine: Engine, version: Version, identity: Identity) -> EngineTrial:
    """Shake hands once with a client that offers one version; never raises."""
    return on_pair(
        functools.partial(_try_on, engine, version, identity),
        lambda outcome: EngineTrial(engine=engine, version=version, handshake=outcome),
    )
