"""Unix connections that carry one handoff after another to the same backend.

Proxies keep connections to their backends. So does the gate, where the operator says
that the backend reads on (`ktlsgate.config.Backend.kept_connections`): then a handoff is
one message and one byte in return, without a socket, a connect and a close.

Rules:

* One handoff at a time on one connection: the next one follows the last one's `RECEIVED`.
* No `RECEIVED`, no handoff (invariant I1). A connection that ends without it took
  nothing, so the handoff goes to another one; only what ended right after it was made
  says something about the backend.
* A handoff that is late is taken back, so that it, too, may go to another one: Linux
  lets the backend write no `RECEIVED` any more, and one that came before is read. The
  other one is at another of the backend's addresses, if it has any.
* They are used in turns, so that all processes of a backend get their share.
* Nobody waits for those that are idle, but their end is seen: a handler watches each
  connection as long as it lives.

A stopped gate closes what a handoff was on its way on; see `ktlsgate.gate.handoff`.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import types
from collections.abc import Generator

from ..config import Backend
from ..errors import BackendFailed, BackendUnavailable
from ..wire.handoff import RECEIVED
from .fibers import DeadlinePassed, Fiber, Stopped, this_fiber
from .handoff import open_connection, send_first

__all__ = ["KeptConnections"]

_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_READ = select.EPOLLIN | select.EPOLLRDHUP
_BOTH = _READ | select.EPOLLOUT
_ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class KeptConnections:
    """Those of one process, by backend and address."""

    def __init__(self) -> None:
        """Begin with none."""
        self._idle: dict[tuple[str, str], collections.deque[_Kept]] = {}

    async def hand_off(self, backend: Backend, head: bytes, descriptor: socket.socket) -> None:
        """Pass a descriptor to a backend and wait until it says that it has it.

        Args:
            backend: where to, with one address; at most its ``kept_connections`` idle ones
                are kept there.
            head: the encoded handoff, which tells the backend that it is kept.
            descriptor: goes along on the first byte; stays the caller's to close.

        Raises:
            BackendUnavailable: nobody is there, or has not taken it before the fiber's
                deadline, and cannot any more (503).
            BackendFailed: the wrong user listens, the backend went away or said
                something else (502).
        """
        key = backend.name, backend.address
        idle = self._idle.setdefault(key, collections.deque())
        said = b""
        while idle and not said:  # of those, any may have ended meanwhile
            with contextlib.suppress(OSError):
                said = await _pass_on(idle.popleft(), backend, head, descriptor)
        if not said:
            try:
                kept = _Kept(await open_connection(backend), idle)
            except DeadlinePassed:  # its queue is full; nothing was sent
                raise _is_late(backend) from None
            try:
                said = await _pass_on(kept, backend, head, descriptor)
            except OSError as exc:
                raise BackendFailed(
                    "backend_died", f"backend {backend.name} went away: {exc.strerror}"
                ) from exc
        if said != RECEIVED:
            came = repr(said) if said else "its end"
            raise BackendFailed(
                "backend_not_received",
                f"backend {backend.name}: expected RECEIVED on a kept connection, got {came}",
            )

    def close(self) -> None:
        """Close the idle ones, when no epoll set watches them any more."""
        for idle in self._idle.values():
            while idle:
                idle.pop().sock.close()


async def _pass_on(kept: _Kept, backend: Backend, head: bytes, descriptor: socket.socket) -> bytes:
    """Use a connection once; it is idle or closed then. What the backend says."""
    try:
        said = await kept.pass_on(head, descriptor)
    except (DeadlinePassed, Stopped) as exc:
        said = kept.take_back()
        kept.close()
        if said:
            return said
        if isinstance(exc, Stopped):
            raise
        raise _is_late(backend) from None
    except BaseException:
        kept.close()
        raise
    if said == RECEIVED and not kept.has_ended and len(kept.idle) < backend.kept_connections:
        kept.idle.append(kept)
    else:
        kept.close()
    return said


def _is_late(backend: Backend) -> BackendUnavailable:
    where = f"backend {backend.name} at {backend.address}"
    return BackendUnavailable("handoff_timeout", f"{where} did not take the connection")


class _Kept:
    """One of them; watched from its making until `close`.

    Attributes:
        has_ended: whether the backend has closed it, be it behind what is still unread, or
            said too much: it is not used again.
    """

    __slots__ = ("_handlers", "_waits", "has_ended", "idle", "sock")

    def __init__(self, sock: socket.socket, idle: collections.deque[_Kept]) -> None:
        """Take a connection; ``idle``: where it stands while nothing is on its way."""
        self.sock, self.idle = sock, idle
        self._waits: Fiber | None = None
        self.has_ended = False
        self._handlers = this_fiber().fibers.handlers
        try:
            self._handlers.add(sock.fileno(), _READ, self._on_news)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        self._handlers.remove(self.sock.fileno())
        self.sock.close()

    def _on_news(self, events: int) -> None:
        if events & _ENDS:  # told once
            self.has_ended = True
        fiber, self._waits = self._waits, None
        if fiber:
            fiber.fibers.wake_soon(fiber)
        elif self in self.idle:  # it has ended, or says what nobody asked for
            self.idle.remove(self)
            self.close()

    @types.coroutine
    def _wait_news(self) -> Generator[None, None, None]:
        self._waits = this_fiber()
        yield

    async def pass_on(self, head: bytes, descriptor: socket.socket) -> bytes:
        """Send a handoff; what the backend says to it, ``b""`` for its end.

        Raises:
            OSError: the backend went away.
        """
        sent = await self._send_some(head, descriptor)
        while sent < len(head):
            sent += await self._send_some(head[sent:], None)
        while True:
            await self._wait_news()  # it needs some time in any case: no try before that
            try:
                said = self.sock.recv(2, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if len(said) > 1:  # the second answers nothing that was asked
                self.has_ended = True
            return said[:1]

    def take_back(self) -> bytes:
        """Let the backend say nothing any more (unix(7): EPIPE); what it said before."""
        try:
            self.sock.shutdown(socket.SHUT_RD)
            return self.sock.recv(1, socket.MSG_DONTWAIT)
        except OSError:
            return b""

    async def _send_some(self, data: bytes, descriptor: socket.socket | None) -> int:
        watched = _READ
        try:
            while True:
                try:
                    if descriptor:
                        return send_first(self.sock, data, descriptor)
                    return self.sock.send(data, _SEND)
                except BlockingIOError:
                    watched = _BOTH
                    self._handlers.change(self.sock.fileno(), _BOTH)
                    await self._wait_news()
        finally:
            if watched != _READ:
                self._handlers.change(self.sock.fileno(), _READ)
