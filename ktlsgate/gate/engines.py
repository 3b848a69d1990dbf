"""The two engines: who puts the keys of a connection into the kernel, and when.

* ``direct``: OpenSSL over memory BIOs, exact records, keys derived and installed by us
  once the handshake is done (`ktlsgate.gate.offload`). What is offloaded is decided
  per connection, and OpenSSL carries on with the rest.
* ``openssl``: OpenSSL bound to the socket moves its keys itself during the handshake
  (`ktlsgate.gate.bound_handshake`). We only ask what came of it.

Both end in the same two values, so nothing behind this module knows the difference.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from OpenSSL import SSL

from ..config import Offload
from ..kernel.engines import Engine
from ..wire.counted_records import CountedRecordLayer
from ..wire.handshake import Established, Handshake
from .bound_handshake import BoundHandshake, perform_bound_handshake
from .context import SessionContext
from .handshake import perform_handshake
from .offload import Offloaded, offload

__all__ = ["Shaken", "shake_hands"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaken:
    """An established connection.

    Attributes:
        established: what was agreed on.
        offload: moves as much into the kernel as may go by the bound given, or finds
            what is there; once.
        count_records: lets OpenSSL go on until then.
    """

    established: Established
    offload: Callable[[Offload], Offloaded]
    count_records: Callable[[], CountedRecordLayer]


async def _shake_direct(
    sock: socket.socket, tls: SSL.Context, context: SessionContext, ulp_reason: str
) -> Shaken:
    handshake = Handshake(tls, max_bytes=context.limits.max_handshake_bytes)
    await perform_handshake(sock, handshake)
    established = handshake.established()

    def do_offload(most: Offload) -> Offloaded:
        return offload(
            sock,
            handshake,
            established,
            table=context.table,
            most=most,
            ulp_reason=ulp_reason,
            keeps_secrets=context.keeps_secrets,
        )

    return Shaken(
        established=established, offload=do_offload, count_records=handshake.count_records
    )


async def _shake_openssl(
    sock: socket.socket, tls: SSL.Context, context: SessionContext, _ulp_reason: str
) -> Shaken:
    handshake = BoundHandshake(tls, sock)
    max_bytes = context.limits.max_handshake_bytes
    hello = await perform_bound_handshake(sock, handshake, max_bytes=max_bytes)
    established, held = handshake.established(hello), handshake.offload()
    return Shaken(
        established=established,
        offload=functools.partial(_take_over, handshake, established, held),
        count_records=_cannot_wait,
    )


def _cannot_wait() -> CountedRecordLayer:
    raise AssertionError("the configuration keeps this engine from routes that ask for less")


def _take_over(
    handshake: BoundHandshake, established: Established, held: Offload, _most: Offload
) -> Offloaded:
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
