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
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import trio

from ..kernel.sockets import bytes_acked, has_only_sent_end, is_hung_up
from ..wire.handoff import RECEIVED
from .client import ClientGone, RelayedClient, linger
from .stream import recv, send_all
from .verdict import Verdict

__all__ = ["RelayEnd", "relay_both", "relay_input"]

_Job = Callable[[], Awaitable[None]]

_CHUNK = 65_536


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


async def _first_one_ends(job: _Job, scope: trio.CancelScope) -> None:
    """Run one of several jobs that all end when one does."""
    await job()
    scope.cancel()


async def _pump_input(
    client: RelayedClient, sink: socket.socket, trailing: bytes, end: RelayEnd, activity: _Activity
) -> None:
    """Move what the client sends until it ends cleanly.

    Raises:
        ClientGone: it ended in another way.
        OSError: the backend closed its end.
    """
    data = trailing or await client.receive()
    while data:
        await send_all(sink, data)
        end.bytes_in += len(data)
        activity.touch()
        await trio.lowlevel.checkpoint()  # busy ends must not keep others waiting
        data = await client.receive()


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
    relay = _InputOnly(client, unix, has_verdicts=has_verdicts)
    try:
        async with trio.open_nursery() as nursery:
            for job in (
                lambda: relay.pump(trailing),
                relay.watch_backend,
                lambda: _watch_idle(relay.activity, idle_timeout, client.sock, relay.end),
            ):
                nursery.start_soon(_first_one_ends, job, nursery.cancel_scope)
        if relay.has_answered:
            await linger(client.sock)
    finally:
        relay.verdict.close()
    return relay.end


class _InputOnly:
    """The client's input on its way, and the other end of the Unix connection."""

    def __init__(self, client: RelayedClient, unix: socket.socket, *, has_verdicts: bool) -> None:
        self.client = client
        self.unix = unix
        self.end = RelayEnd()
        self.activity = _Activity()
        self.has_answered = False
        self._has_spoken = trio.Event()
        # Only one task may wait for input of a socket, and that is `watch_backend`.
        self.verdict = Verdict(unix, self._has_spoken.wait, is_spoken=has_verdicts)

    async def pump(self, trailing: bytes) -> None:
        """Client to backend; ends when the backend needs no more of us."""
        is_clean = True
        try:
            await _pump_input(self.client, self.unix, trailing, self.end, self.activity)
        except ClientGone as exc:
            if self._is_backend_done():
                return
            self.end.blame(f"client_{exc.reason}", str(exc))
            is_clean = False
        except OSError:
            return  # the backend closed its end: it wants no more input
        if not await self.verdict.tell(is_clean=is_clean):
            # All that this backend knows is an end, and it may still answer here.
            with contextlib.suppress(OSError):
                self.unix.shutdown(socket.SHUT_WR)
            await trio.sleep_forever()

    def _is_backend_done(self) -> bool:
        """A backend that shut the shared socket down looks like a client that did."""
        return is_hung_up(self.unix) or has_only_sent_end(self.client.sock)

    async def watch_backend(self) -> None:
        """Return when the backend closes the Unix connection, or after answering on it.

        fd_pass lets a backend that cannot use the descriptor answer on the Unix
        connection: those bytes go to the client. RECEIVED must stay unread, so the
        socket is always readable; an edge-triggered epoll of its own tells news.
        """
        if self.unix.fileno() < 0:  # the client was gone before this task's first step
            return
        async with _news(self.unix, select.EPOLLIN | select.EPOLLET) as news:
            while True:
                await trio.lowlevel.wait_readable(news.fileno())
                events = dict(news.poll(0)).get(self.unix.fileno(), 0)
                said = b""
                with contextlib.suppress(OSError):
                    said = self.unix.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                if said and said != RECEIVED:
                    await self._relay_answer()
                    return
                if said:
                    self._has_spoken.set()
                if events & (select.EPOLLHUP | select.EPOLLERR):
                    return

    async def _relay_answer(self) -> None:
        self.has_answered = True
        try:
            while data := await _receive(self.unix):
                await self.client.send_all(data)
                self.end.bytes_out += len(data)
                self.activity.touch()
        except OSError as exc:
            self.end.blame("client_reset", f"the client is gone: {exc.strerror}")
            return
        await self.client.send_close_notify()


@contextlib.asynccontextmanager
async def _news(sock: socket.socket, events: int) -> AsyncIterator[select.epoll]:
    """Give an epoll of its own that watches one socket; HUP and ERR are always among it."""
    with select.epoll(1) as news:
        news.register(sock, events)
        try:
            yield news
        finally:
            trio.lowlevel.notify_closing(news.fileno())


async def _receive(sock: socket.socket) -> bytes:
    """Receive; a backend that closes with input unread ended what it said all the same."""
    try:
        return await recv(sock, _CHUNK)
    except OSError:
        return b""


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
    relay = _BothWays(client, ours, unix, has_verdicts=has_verdicts)
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope

            async def watch_idle() -> None:
                await _watch_idle(relay.activity, idle_timeout, client.sock, relay.end)

            nursery.start_soon(_first_one_ends, watch_idle, scope)
            async with trio.open_nursery() as pumps:
                pumps.start_soon(relay.pump_in, trailing, scope)
                if not await relay.pump_out():
                    scope.cancel()
                nursery.start_soon(_first_one_ends, relay.wait_hung_up, scope)
            scope.cancel()
        if relay.has_output_ended and not relay.has_input_ended:
            await linger(client.sock)
    finally:
        relay.close()
    return relay.end


class _BothWays:
    """The two directions of a relay and what they share."""

    def __init__(
        self,
        client: RelayedClient,
        ours: socket.socket,
        unix: socket.socket,
        *,
        has_verdicts: bool,
    ) -> None:
        self.client = client
        self.ours = ours
        self.verdict = Verdict(unix, self._wait_said, is_spoken=has_verdicts)
        self.end = RelayEnd()
        self.activity = _Activity()
        self.has_input_ended = False
        self.has_output_ended = False

    async def _wait_said(self) -> None:
        await trio.lowlevel.wait_readable(self.verdict.sock)

    async def pump_in(self, trailing: bytes, scope: trio.CancelScope) -> None:
        """Client to backend; ends with a verdict and an end of stream."""
        fault = ""
        try:
            await _pump_input(self.client, self.ours, trailing, self.end, self.activity)
        except ClientGone as exc:
            fault = exc.reason
            self.end.blame(f"client_{exc.reason}", str(exc))
        except OSError:
            return  # the backend reads no more; its output goes on
        self.has_input_ended = True
        await self.verdict.tell(is_clean=not fault)
        with contextlib.suppress(OSError):
            self.ours.shutdown(socket.SHUT_WR)
        if fault and fault != "cut":  # a client that half closed may still read
            scope.cancel()

    async def pump_out(self) -> bool:
        """Backend to client; ends with close_notify if the backend meant to end.

        Returns:
            Whether the client is still there.
        """
        try:
            while data := await self._receive():
                await self.client.send_all(data)
                self.end.bytes_out += len(data)
                self.activity.touch()
        except OSError as exc:
            self.end.blame("client_reset", f"the client is gone: {exc.strerror}")
            return False
        if self.verdict.is_output_finished():
            await self.client.send_close_notify()
        else:
            self.end.blame("backend_cut", "the backend ended without saying that it was done")
        with contextlib.suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_WR)
        self.has_output_ended = True
        return True

    async def _receive(self) -> bytes:
        try:
            return await recv(self.ours, _CHUNK)
        except OSError as exc:
            self.end.blame("backend_reset", f"the backend is gone: {exc.strerror}")
            return b""

    async def wait_hung_up(self) -> None:
        """Return when nobody is left to read what the client may still send."""
        async with _news(self.ours, 0) as news:
            await trio.lowlevel.wait_readable(news.fileno())

    def close(self) -> None:
        """Close both of our ends; the verdict must be there when the data ends."""
        self.verdict.close()
        trio.lowlevel.notify_closing(self.ours)
        self.ours.close()
