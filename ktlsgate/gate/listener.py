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
from .context import SessionContext
from .fibers import Fibers
from .session import run_session
from .trimmer import Trimmer

__all__ = ["Gatekeeper", "serve_listener"]

_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# The listening socket itself is of no use: a bug, or somebody shut it down.
_FATAL = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK))
_PAUSE = 0.1
_BATCH = 64  # accepts in a row before other tasks get their turn

_log = logging.getLogger("ktlsgate")


class Gatekeeper:
    """Counts what the gate holds, over all listeners, and says when it is full."""

    def __init__(self, max_connections: int) -> None:
        """Let at most so many connections in at once."""
        self._max = max_connections
        self._waiting = trio.lowlevel.ParkingLot()
        self._was_full = False
        self.trimmer = Trimmer()
        self.held = 0
        self.numbers: Iterator[int] = itertools.count(1)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another one."""
        return self.held >= self._max

    async def wait_for_room(self) -> None:
        """Return at once, or when a connection has ended.

        A full gate is said once, and again only after it was half empty.
        """
        while self.is_full:
            if not self._was_full:
                self._was_full = True
                _log.warning("full: %d connections held, the next ones wait", self.held)
            await self._waiting.park()

    async def wait_empty(self) -> None:
        """Return when nothing is held any more."""
        while self.held:
            await self._waiting.park()

    def leave(self) -> None:
        """One connection less."""
        self.held -= 1
        self.trimmer.note_end(self.held)
        if 2 * self.held <= self._max:
            self._was_full = False
        if self._waiting:
            self._waiting.unpark_all()


async def serve_listener(
    listener: socket.socket,
    context: SessionContext,
    gatekeeper: Gatekeeper,
    fibers: Fibers,
) -> None:
    """Accept until cancelled; sessions are fibers and outlive the accepting.

    Raises:
        OSError: the listening socket is none any more.
    """

    def leave() -> None:
        gatekeeper.leave()
        context.metrics.held -= 1

    is_short = False
    while True:
        await trio.lowlevel.wait_readable(listener)
        for _ in range(_BATCH):
            if gatekeeper.is_full:
                await gatekeeper.wait_for_room()
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno in _FATAL:
                    raise
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
            number = next(gatekeeper.numbers)
            fibers.start(run_session(context, sock, unmap_address(address), number, leave))
