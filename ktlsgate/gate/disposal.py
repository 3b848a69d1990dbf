"""Give a request and its connection to a backend, in the way that its mode asks for.

Keeps invariant I1 together with `ktlsgate.gate.handoff`: no wait stands between the
acknowledgement and the return of `Disposal.give_away`, so its caller knows who
the owner is, whatever is cancelled when. Keeps I5: the handoff is encoded before the
first wait, and let go of, so that its secrets are in the head alone.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from typing import TypedDict

from ..config import Backend, Dialect
from ..errors import BackendUnavailable
from ..wire.handoff import Handoff, Mode
from ..wire.handoff_scgi import encode
from .client import KernelClient, RelayedClient
from .fibers import stop_watching
from .handoff import hand_off
from .kept_connections import KeptConnections
from .relay import Relay
from .relay_both import BothRelay
from .relay_input import InputRelay
from .turns import Turns

__all__ = ["Disposal"]


class _Terms(TypedDict):
    idle_timeout: float
    has_verdicts: bool


class Disposal:
    """Gives requests away; what connections have in common in that."""

    __slots__ = ("_kept", "_turns")

    def __init__(self) -> None:
        """Make one for a process."""
        self._kept = KeptConnections()
        self._turns = Turns()

    def close(self) -> None:
        """Close idle connections to backends, when no epoll set watches them any more."""
        self._kept.close()

    async def give_away(
        self,
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
        mode = handoff.mode
        is_whole = mode in (Mode.PLAIN, Mode.BOTH)  # the Unix connection carries nothing else
        is_kept = is_whole and backend.kept_connections > 0
        head = encode(handoff, backend.dialect, is_kept=is_kept)
        del handoff
        if is_whole:
            # While the file description lives on in the backend, epoll would keep a dead
            # entry of ours and wake on every packet.
            stop_watching(client.sock)
            pass_on = self._kept.hand_off if is_kept else _pass_client
            attempt = functools.partial(pass_on, head=head, descriptor=client.sock)
            await self._turns.take(backend, attempt, shares_time=is_kept)
            return None
        if not isinstance(client, RelayedClient):
            raise AssertionError("only OpenSSL receives what the kernel does not")
        terms: _Terms = {
            "idle_timeout": idle_timeout,
            "has_verdicts": backend.dialect is Dialect.KTLSGATE,
        }
        if mode is Mode.TX:
            pass_tx = functools.partial(
                hand_off, head=head, descriptor=client.sock, keeps_open=True
            )
            unix = await self._turns.take(backend, pass_tx, shares_time=False)
            return InputRelay(client, unix, trailing, **terms)
        pass_pair = functools.partial(_pass_pair, head=head)
        ours, unix = await self._turns.take(backend, pass_pair, shares_time=False)
        return BothRelay(client, ours, unix, trailing, **terms)


async def _pass_client(backend: Backend, head: bytes, descriptor: socket.socket) -> None:
    """The kernel holds all: the client's socket leaves the gate."""
    unix = await hand_off(backend, head, descriptor, keeps_open=True)
    stop_watching(unix)
    unix.close()


async def _pass_pair(backend: Backend, head: bytes) -> tuple[socket.socket, socket.socket]:
    """The backend has one end of a socketpair, we the other."""
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
