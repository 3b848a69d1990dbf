"""Bytes through us, for connections that the kernel does not hold in full.

`relay_input` (mode TX): the backend writes to the client's socket itself; what
the client sends is decrypted here and goes on over the Unix connection.
`relay_both` (mode RELAY): the backend has one end of a socketpair, we have the
other. `ktlsgate.wire.handoff` defines the verdict on how each stream ended.

Back-pressure: nothing is read before what was read last has been taken by the
other side. Idle limit: a relay in which no byte moved for so long ends; in mode
TX the client's acknowledgements of what the backend sends count as movement,
or a long download would look idle.

Cancellation ends a relay at once, as a cut in both directions.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from ..kernel.sockets import bytes_acked, is_hung_up
from ..wire.handoff import FINISHED, RECEIVED
from .client import ClientGone, RelayedClient
from .stream import recv, send_all

__all__ = ["RelayEnd", "relay_both", "relay_input"]

_Job = Callable[[], Awaitable[None]]

_CHUNK = 65_536
# How long an end waits for the RECEIVED of a receiver that just read its head.
_VERDICT_SECONDS = 1.0


@dataclass(slots=True)
class RelayEnd:
    """How a relay went.

    Attributes:
        reason: empty when both sides ended on purpose, else one word for counters.
        detail: the same in words.
        bytes_in: from the client to the backend.
        bytes_out: from the backend to the client, in mode RELAY.
    """

    reason: str = ""
    detail: str = ""
    bytes_in: int = 0
    bytes_out: int = 0

    def blame(self, reason: str, detail: str) -> None:
        """Keep the first fault; later ones follow from it."""
        if not self.reason:
            self.reason, self.detail = reason, detail


class _Verdict:
    """Our end of the Unix connection on which verdicts travel."""

    def __init__(self, sock: socket.socket, *, is_spoken: bool) -> None:
        """Watch a Unix connection; ``is_spoken`` if the dialect has verdicts."""
        self.sock = sock
        self._is_spoken = is_spoken
        self._is_understood = False

    def _said(self) -> bytes:
        """What the receiver said and we have not read away: RECEIVED, FINISHED, both."""
        with contextlib.suppress(OSError):
            return self.sock.recv(2, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return b""

    async def tell(self, *, is_clean: bool) -> None:
        """Tell the receiver how its input ended, before that end itself is sent."""
        if not self._is_spoken:
            return
        if not self._said():  # a receiver that is only just reading its head?
            with trio.move_on_after(_VERDICT_SECONDS), contextlib.suppress(OSError):
                await trio.lowlevel.wait_readable(self.sock)
        if self._said()[:1] != RECEIVED:
            return
        self._is_understood = True
        if is_clean:
            with contextlib.suppress(OSError):
                self.sock.recv(1, socket.MSG_DONTWAIT)
        else:
            self.close()  # with RECEIVED unread: the receiver is reset

    def is_output_finished(self) -> bool:
        """Whether the receiver ended its output on purpose; yes if it has no way to say."""
        said = self._said() if self.sock.fileno() >= 0 else b""
        self._is_understood |= said[:1] == RECEIVED
        return FINISHED in said or not self._is_understood

    def close(self) -> None:
        """Close our end; once is enough."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


class _Activity:
    """When a byte moved last."""

    def __init__(self) -> None:
        self.last = trio.current_time()

    def touch(self) -> None:
        self.last = trio.current_time()


async def _watch_idle(
    activity: _Activity, limit: float, client: socket.socket, end: RelayEnd
) -> None:
    """Return when nothing moved for ``limit`` seconds."""
    acked = bytes_acked(client)
    while True:
        await trio.sleep_until(activity.last + limit)
        if bytes_acked(client) != acked:
            acked = bytes_acked(client)
            activity.touch()
        if trio.current_time() - activity.last >= limit:
            end.blame("idle_timeout", f"no byte moved for {limit:g} seconds")
            return


async def relay_input(
    client: RelayedClient,
    unix: socket.socket,
    trailing: bytes,
    *,
    idle_timeout: float,
    has_verdicts: bool,
) -> RelayEnd:
    """Relay what the client sends until either side ends.

    Args:
        client: the kernel encrypts what the backend sends on its socket.
        unix: the handoff's Unix connection, acknowledged; closed by this call.
        trailing: decrypted behind the head already; goes first.
        idle_timeout: seconds.
        has_verdicts: whether the dialect has them.
    """
    end = RelayEnd()
    verdict = _Verdict(unix, is_spoken=has_verdicts)
    activity = _Activity()

    async def pump() -> None:
        try:
            data = trailing or await client.receive()
            while data:
                await send_all(unix, data)
                end.bytes_in += len(data)
                activity.touch()
                data = await client.receive()
        except ClientGone as exc:
            end.blame(f"client_{exc.reason}", str(exc))
            await verdict.tell(is_clean=False)
        except OSError:
            return  # the backend closed its end: it wants no more input
        else:
            await verdict.tell(is_clean=True)

    try:
        async with trio.open_nursery() as nursery:
            for job in (
                pump,
                lambda: _watch_backend(unix, client, end),
                lambda: _watch_idle(activity, idle_timeout, client.sock, end),
            ):
                nursery.start_soon(_first_one_ends, job, nursery.cancel_scope)
    finally:
        verdict.close()
    return end


async def _first_one_ends(job: _Job, scope: trio.CancelScope) -> None:
    """Run one of several jobs that all end when one does."""
    await job()
    scope.cancel()


async def _watch_backend(unix: socket.socket, client: RelayedClient, end: RelayEnd) -> None:
    """Return when the backend closes the Unix connection, or after answering on it.

    fd_pass lets a backend that cannot use the descriptor answer on the Unix
    connection: those bytes go to the client. RECEIVED must stay unread, so the
    socket is always readable; an edge-triggered epoll of its own tells news.
    """
    with select.epoll(1) as news:
        news.register(unix, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        try:
            while True:
                await trio.lowlevel.wait_readable(news.fileno())
                events = dict(news.poll(0)).get(unix.fileno(), 0)
                said = b""
                with contextlib.suppress(OSError):
                    said = unix.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                if said and said != RECEIVED:
                    await _relay_answer(unix, client, end)
                    return
                if events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                    return
        finally:
            trio.lowlevel.notify_closing(news.fileno())


async def _relay_answer(unix: socket.socket, client: RelayedClient, end: RelayEnd) -> None:
    with contextlib.suppress(OSError):
        while data := await recv(unix, _CHUNK):
            await client.send_all(data)
            end.bytes_out += len(data)
        await client.send_close_notify()
        client.sock.shutdown(socket.SHUT_WR)


async def relay_both(
    client: RelayedClient,
    ours: socket.socket,
    unix: socket.socket,
    trailing: bytes,
    *,
    idle_timeout: float,
    has_verdicts: bool,
) -> RelayEnd:
    """Relay both directions until both have ended, or one side is gone.

    Args:
        client: decrypted and encrypted by OpenSSL.
        ours: our end of the socketpair; closed by this call.
        unix: the handoff's Unix connection, acknowledged; closed by this call.
        trailing: decrypted behind the head already; goes first.
        idle_timeout: seconds.
        has_verdicts: whether the dialect has them.
    """
    relay = _BothWays(client, ours, _Verdict(unix, is_spoken=has_verdicts))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                _first_one_ends,
                lambda: _watch_idle(relay.activity, idle_timeout, client.sock, relay.end),
                nursery.cancel_scope,
            )
            async with trio.open_nursery() as pumps:
                pumps.start_soon(relay.pump_in, trailing)
                pumps.start_soon(relay.pump_out, nursery.cancel_scope)
            nursery.cancel_scope.cancel()
    finally:
        relay.close()
    return relay.end


class _BothWays:
    """The two directions of a relay and what they share."""

    def __init__(self, client: RelayedClient, ours: socket.socket, verdict: _Verdict) -> None:
        self.client = client
        self.ours = ours
        self.verdict = verdict
        self.end = RelayEnd()
        self.activity = _Activity()

    async def pump_in(self, trailing: bytes) -> None:
        """Client to backend; ends with a verdict and an end of stream."""
        try:
            data = trailing or await self.client.receive()
            while data:
                await send_all(self.ours, data)
                self.end.bytes_in += len(data)
                self.activity.touch()
                data = await self.client.receive()
        except ClientGone as exc:
            self.end.blame(f"client_{exc.reason}", str(exc))
            await self.verdict.tell(is_clean=False)
        except OSError:
            return  # the backend reads no more; its output goes on
        else:
            await self.verdict.tell(is_clean=True)
        with contextlib.suppress(OSError):
            self.ours.shutdown(socket.SHUT_WR)

    async def pump_out(self, scope: trio.CancelScope) -> None:
        """Backend to client; ends with close_notify if the backend meant to end."""
        try:
            while data := await recv(self.ours, _CHUNK):
                await self.client.send_all(data)
                self.end.bytes_out += len(data)
                self.activity.touch()
        except ConnectionResetError as exc:
            self.end.blame("backend_reset", f"the backend is gone: {exc.strerror}")
        except OSError as exc:
            self.end.blame("client_reset", f"the client is gone: {exc.strerror}")
            scope.cancel()
            return
        if self.verdict.is_output_finished():
            await self.client.send_close_notify()
        else:
            self.end.blame("backend_cut", "the backend ended without saying that it was done")
        with contextlib.suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_WR)
        if is_hung_up(self.ours):  # nobody is left to read what the client may still send
            scope.cancel()

    def close(self) -> None:
        self.verdict.close()
        trio.lowlevel.notify_closing(self.ours)
        self.ours.close()
