"""The two engines: who puts the keys of a connection into the kernel, and when.

* ``direct``: OpenSSL over memory BIOs, exact records, keys derived and installed by us
  once the handshake is done (`ktlsgate.gate.offload`). What is offloaded is decided
  per connection, and OpenSSL carries on with the rest.
* ``openssl``: OpenSSL bound to the socket moves its keys itself during the handshake
  (`ktlsgate.gate.bound_handshake`). We only ask what came of it.

Both end in the same two values, so nothing behind this module knows the difference.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from OpenSSL import SSL

from ..config import Offload
from ..kernel.engines import Engine
from ..wire.client_hello import HelloReader
from ..wire.counted_records import CountedRecordLayer
from ..wire.handshake import Established, Handshake
from .bound_handshake import BoundHandshake, perform_bound_handshake
from .context import SessionContext
from .handshake import perform_handshake
from .offload import Offloaded, offload

__all__ = ["Shaken", "shake_hands"]


class Shaken(Protocol):
    """An established connection."""

    @property
    def established(self) -> Established:
        """What was agreed on."""

    def offload(self, most: Offload) -> Offloaded:
        """Move as much into the kernel as may go by the bound, or find what is there; once."""

    def count_records(self) -> CountedRecordLayer:
        """Let OpenSSL go on until then."""


class _DirectShaken:
    """Shaken by OpenSSL in memory; the keys are ours to move."""

    __slots__ = ("_context", "_handshake", "_sock", "_ulp_reason", "established")

    def __init__(
        self, sock: socket.socket, handshake: Handshake, context: SessionContext, ulp_reason: str
    ) -> None:
        self._sock = sock
        self._handshake = handshake
        self._context = context
        self._ulp_reason = ulp_reason
        self.established = handshake.established()

    def offload(self, most: Offload) -> Offloaded:
        return offload(
            self._sock,
            self._handshake,
            self.established,
            table=self._context.table,
            most=most,
            ulp_reason=self._ulp_reason,
            keeps_secrets=self._context.keeps_secrets,
        )

    def count_records(self) -> CountedRecordLayer:
        return self._handshake.count_records()


async def _shake_direct(
    sock: socket.socket, tls: SSL.Context, context: SessionContext, ulp_reason: str
) -> Shaken:
    handshake = Handshake(tls, max_bytes=context.limits.max_handshake_bytes)
    await perform_handshake(sock, handshake)
    return _DirectShaken(sock, handshake, context, ulp_reason)


class _BoundShaken:
    """Shaken by OpenSSL on the socket; it has moved what it moves."""

    __slots__ = ("_handshake", "_held", "established")

    def __init__(self, handshake: BoundHandshake, hello: HelloReader) -> None:
        self._handshake = handshake
        self.established = handshake.established(hello)
        self._held = handshake.offload()

    def offload(self, _most: Offload) -> Offloaded:
        return _take_over(self._handshake, self.established, self._held)

    def count_records(self) -> CountedRecordLayer:
        raise AssertionError("the configuration keeps this engine from routes that ask for less")


async def _shake_openssl(
    sock: socket.socket, tls: SSL.Context, context: SessionContext, _ulp_reason: str
) -> Shaken:
    handshake = BoundHandshake(tls, sock)
    max_bytes = context.limits.max_handshake_bytes
    hello = await perform_bound_handshake(sock, handshake, max_bytes=max_bytes)
    return _BoundShaken(handshake, hello)


def _take_over(handshake: BoundHandshake, established: Established, held: Offload) -> Offloaded:
    """Go on from what OpenSSL left in the kernel and in user space."""
    if held is Offload.BOTH:
        if handshake.has_pending_data:
            raise AssertionError("OpenSSL read past the handshake, which it never does")
        handshake.forget()
        return Offloaded(offload=held)
    reason, detail = _explain(established, held)
    records = handshake.into_record_layer()
    return Offloaded(offload=held, reason=reason, detail=detail, records=records)


def _explain(established: Established, held: Offload) -> tuple[str, str]:
    """Say why the kernel does not hold all: one word and more of them."""
    if held is Offload.TX:
        version = established.facts.protocol
        return "tx_only", f"this OpenSSL gives the kernel no receiving key in {version}"
    if established.suite is None:
        return "cipher", ""
    if established.has_max_fragment_length:
        return "max_fragment_length", ""
    return "openssl", f"this OpenSSL does not offload {established.facts.cipher}"


_Engine = Callable[[socket.socket, SSL.Context, SessionContext, str], Awaitable[Shaken]]
_ENGINES: dict[Engine, _Engine] = {
    Engine.DIRECT: _shake_direct,
    Engine.OPENSSL: _shake_openssl,
}


async def shake_hands(
    sock: socket.socket, tls: SSL.Context, context: SessionContext, ulp_reason: str
) -> Shaken:
    """Do the handshake of an accepted connection.

    Args:
        sock: the client's.
        tls: the context of the listener, made for its engine.
        context: what else its sessions share.
        ulp_reason: why the ULP could not be attached to this socket; empty when it was.

    Raises:
        HandshakeFailed: with the reason class.

    Cancellation: the socket is of no use to anybody else and must be closed.
    """
    return await _ENGINES[context.engine](sock, tls, context, ulp_reason)
