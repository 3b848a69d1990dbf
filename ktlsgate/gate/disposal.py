"""Give a request and its connection to a backend, in the way that its mode asks for.

Keeps invariant I1 together with `ktlsgate.gate.handoff`: no wait stands
between the acknowledgement and the return of `give_away`, so its caller knows who
the owner is, whatever is cancelled when. Keeps I5: the handoff is encoded before the
first wait, and let go of, so that its secrets are in the head alone.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TypedDict

from ..config import Backend, Dialect
from ..errors import BackendUnavailable
from ..wire.handoff import Handoff, Mode
from ..wire.handoff_scgi import encode
from .client import KernelClient, RelayedClient
from .fibers import stop_watching
from .handoff import hand_off
from .relay import Relay
from .relay_both import BothRelay
from .relay_input import InputRelay

__all__ = ["give_away"]


class _Terms(TypedDict):
    idle_timeout: float
    has_verdicts: bool


async def give_away(
    handoff: Handoff,
    backend: Backend,
    client: KernelClient | RelayedClient,
    trailing: bytes,
    *,
    idle_timeout: float,
) -> Relay | None:
    """Hand a connection over, and relay where the kernel holds less.

    Args:
        handoff: all that the backend is told; no reference to it is kept here.
        backend: where to.
        client: its socket stays the caller's to close.
        trailing: what was decrypted behind the head.
        idle_timeout: of a relay, in seconds.

    Returns:
        None when the backend has the client's own socket and all that belongs to it;
        else what the caller has to start, now that the backend has its part.

    Raises:
        HandoffError: the connection is still ours.

    Cancellation: see `ktlsgate.gate.handoff.hand_off`.
    """
    mode, head = handoff.mode, encode(handoff, backend.dialect)
    del handoff
    if mode in (Mode.PLAIN, Mode.BOTH):
        await _pass_client(backend, head, client.sock)
        return None
    if not isinstance(client, RelayedClient):
        raise AssertionError("only OpenSSL receives what the kernel does not")
    terms: _Terms = {
        "idle_timeout": idle_timeout,
        "has_verdicts": backend.dialect is Dialect.KTLSGATE,
    }
    if mode is Mode.TX:
        unix = await hand_off(backend, head, client.sock, keeps_open=True)
        return InputRelay(client, unix, trailing, **terms)
    ours, unix = await _pass_pair(backend, head)
    return BothRelay(client, ours, unix, trailing, **terms)


async def _pass_client(backend: Backend, head: bytes, sock: socket.socket) -> None:
    """The kernel holds all: the client's socket leaves the gate."""
    # While the file description lives on in the backend, epoll would keep a dead
    # entry of ours and wake on every packet.
    stop_watching(sock)
    unix = await hand_off(backend, head, sock, keeps_open=True)
    stop_watching(unix)
    unix.close()


async def _pass_pair(backend: Backend, head: bytes) -> tuple[socket.socket, socket.socket]:
    """The kernel holds nothing: the backend has one end of a socketpair, we the other."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as exc:
        raise BackendUnavailable(
            "no_descriptors", f"expected two descriptors for a relay, got: {exc.strerror}"
        ) from exc
    with theirs, contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        ours.setblocking(False)
        theirs.setblocking(False)
        unix = await hand_off(backend, head, theirs, keeps_open=False)
        undo.pop_all()
    return ours, unix
