"""Accept connections and start a session for each, within limits.

Errors of accept() fall into two kinds. Those that concern one connection that
is gone already (ECONNABORTED and kin) are skipped. Those that concern the
process or the machine (EMFILE, ENFILE, ENOBUFS, ENOMEM) pass only when other
connections end: pause, and try again; the connection waits in the queue. Trio
and tokio do the same; nginx closes its accept mutex for half a second.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
from collections.abc import Iterator

import trio

from ..kernel.sockets import unmap_address
from .session import SessionContext, run_session

__all__ = ["Gatekeeper", "serve_listener"]

_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_PAUSE = 0.1
_BATCH = 64  # accepts in a row before other tasks get their turn

_log = logging.getLogger("ktlsgate")


class Gatekeeper:
    """Counts what the gate holds, over all listeners, and says when it is full."""

    def __init__(self, max_connections: int) -> None:
        """Let at most so many connections in at once."""
        self._max = max_connections
        self._room = trio.Event()
        self._is_full = False
        self.held = 0
        self.numbers: Iterator[int] = itertools.count(1)

    async def wait_for_room(self) -> None:
        """Return at once, or when a connection has ended. A full gate is said once."""
        while self.held >= self._max:
            if not self._is_full:
                self._is_full = True
                _log.warning("full: %d connections held, the next ones wait", self.held)
            self._room = trio.Event()
            await self._room.wait()
        self._is_full = False

    async def wait_empty(self) -> None:
        """Return when nothing is held any more."""
        while self.held:
            self._room = trio.Event()
            await self._room.wait()

    def leave(self) -> None:
        """One connection less."""
        self.held -= 1
        self._room.set()


async def serve_listener(
    listener: socket.socket,
    context: SessionContext,
    gatekeeper: Gatekeeper,
    nursery: trio.Nursery,
) -> None:
    """Accept until cancelled; sessions run in ``nursery`` and outlive the accepting."""

    async def session(sock: socket.socket, remote: tuple[str, int]) -> None:
        try:
            await run_session(context, sock, remote, next(gatekeeper.numbers))
        finally:
            gatekeeper.leave()
            context.metrics.held -= 1

    is_short = False
    while True:
        await trio.lowlevel.wait_readable(listener)
        for _ in range(_BATCH):
            await gatekeeper.wait_for_room()
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno in _SHORTAGES:
                    if not is_short:
                        is_short = True
                        _log.warning("cannot accept: %s; trying again", exc.strerror)
                    await trio.sleep(_PAUSE)
                break
            is_short = False
            sock.setblocking(False)
            gatekeeper.held += 1
            context.metrics.accepted += 1
            context.metrics.held += 1
            nursery.start_soon(session, sock, unmap_address(address))
