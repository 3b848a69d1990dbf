"""Takes handoffs from a Unix listener, as many at a time as there are senders.

Theory of operation: one epoll descriptor holds the listening socket, every
connection whose handoff is not whole yet, and those that a gate keeps for further
handoffs. Whoever drives a `Receiver` waits until
`fileno()` is readable or `next_deadline` has come, and calls `advance`, which
never waits. So a slow sender holds up nobody, in the Trio flavour and in the
blocking one alike, and neither contains a line about handoffs.

What is refused is told to ``on_refused``; the receiver lives on. Of accept()'s
errors those of one connection (ECONNABORTED) are passed over; those of the
process or machine (EMFILE, ENFILE, ENOBUFS, ENOMEM) pause accepting for 0.1 s,
as asyncio (1 s) and Trio (0.1 s) do: the queue waits in the kernel meanwhile, and
when it is full the gate answers 503.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Collection

from ..errors import HandoffError, HandoffMalformed
from ..kernel.ancillary import peer_credentials
from .arrival import Arrival, ReceivedHandoff
from .unix_listener import UnixListener

__all__ = ["DEFAULT_DEADLINE", "Receiver", "RefusedCallback", "log_refusal"]

DEFAULT_DEADLINE = 5.0  # seconds; the gate's own handoff_timeout
RefusedCallback = Callable[[HandoffError], None]

_MAX_PENDING = 1024  # half-received handoffs; more wait in the kernel's queue
_MAX_KEPT = 1024  # connections without a handoff on its way; a gate finds others closed
_ACCEPTS_PER_TURN = 64  # so that a flood of connections cannot hold up those half received
_PAUSE = 0.1
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


_log = logging.getLogger("ktlsgate.backend")


def log_refusal(exc: HandoffError) -> None:
    """Say it to the log ``ktlsgate.backend``; what receivers do by default."""
    _log.warning("refused a handoff: %s", exc)


class Receiver:
    """Accept Unix connections and receive a handoff from each.

    Args (of the constructor):
        listener: ours to close from now on.
        allowed_uids: users that may hand off (SO_PEERCRED), None for all whom the
            file's permissions admit.
        deadline: seconds from accept to the last byte of a head.
        keeps: whether a connection whose sender keeps it stays open for other handoffs. For
            a receiver that is driven all the time: a handoff on a kept connection is for
            this process, and waits while it does something else.
        on_refused: told of each handoff that was refused, and why; logged by default.
    """

    def __init__(
        self,
        listener: UnixListener,
        *,
        allowed_uids: Collection[int] | None = None,
        deadline: float = DEFAULT_DEADLINE,
        on_refused: RefusedCallback | None = None,
        keeps: bool = True,
    ) -> None:
        self.listener = listener
        self._most_kept = _MAX_KEPT if keeps else 0
        self._allowed_uids = allowed_uids
        self._allowance = deadline
        self._on_refused = on_refused or log_refusal
        # In the order of their deadlines, since all get the same time.
        self._arrivals: dict[int, Arrival] = {}
        self._kept: dict[int, socket.socket] = {}
        self._ready: deque[ReceivedHandoff] = deque()
        self._paused_until = 0.0
        self._is_listening = False
        self._epoll = select.epoll()
        self._listen()

    def fileno(self) -> int:
        """The descriptor that is readable when `advance` has something to do; -1 once closed."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._epoll.closed

    @property
    def next_deadline(self) -> float | None:
        """When `advance` is due at the latest, by the clock that it is given."""
        deadlines = [arrival.deadline for arrival in list(self._arrivals.values())[:1]]
        if self._paused_until:
            deadlines.append(self._paused_until)
        return min(deadlines, default=None)

    def advance(self, now: float) -> ReceivedHandoff | None:
        """Do what can be done without waiting.

        Args:
            now: seconds on any clock that only goes forward, always the same one.

        Returns:
            A handoff, the caller's from now on, or None: then wait, and come again.

        Raises:
            OSError: accept() failed in a way that will not pass.
        """
        if not self._ready:
            self._drop_late(now)
            self._resume(now)
            for fd, _ in self._epoll.poll(0):
                arrival = self._arrivals.get(fd)
                if arrival:
                    self._continue(fd, arrival)
                elif fd in self._kept:
                    self._reopen(fd, now)
                else:
                    self._accept(now)
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Stop listening; drop every handoff that nobody has taken. Idempotent."""
        for arrival in self._arrivals.values():
            arrival.discard()
        self._arrivals.clear()
        for unix in self._kept.values():
            unix.close()
        self._kept.clear()
        while self._ready:
            self._ready.popleft().close()
        self._epoll.close()
        self.listener.close()

    def _listen(self) -> None:
        if not self._is_listening:
            # Exclusive: with several processes on one listener only one is woken.
            self._epoll.register(self.listener.socket, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            self._is_listening = True

    def _pause(self, until: float = 0.0) -> None:
        self._epoll.unregister(self.listener.socket)
        self._is_listening = False
        self._paused_until = until

    def _resume(self, now: float) -> None:
        if now >= self._paused_until and len(self._arrivals) < _MAX_PENDING:
            self._paused_until = 0.0
            self._listen()

    def _drop_late(self, now: float) -> None:
        for fd, arrival in list(self._arrivals.items()):
            if now < arrival.deadline:
                return
            self._forget(fd, arrival)
            arrival.discard()
            self._on_refused(arrival.describe_lateness())

    def _accept(self, now: float) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self._arrivals) >= _MAX_PENDING:
                self._pause()
                return
            try:
                unix, _ = self.listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in _OVERLOADED:
                    raise
                self._pause(now + _PAUSE)
                self._on_refused(_overloaded(exc))
                return
            self._admit(unix, now)

    def _admit(self, unix: socket.socket, now: float) -> None:
        uid = peer_credentials(unix).uid
        if self._allowed_uids is not None and uid not in self._allowed_uids:
            unix.close()
            self._on_refused(HandoffMalformed(f"expected an allowed sender, got user id {uid}"))
            return
        fd = unix.fileno()
        arrival = self._arrivals[fd] = Arrival(unix, now + self._allowance)
        self._epoll.register(fd, select.EPOLLIN)
        # Nearly always the whole handoff is here already.
        self._continue(fd, arrival)

    def _continue(self, fd: int, arrival: Arrival) -> None:
        try:
            received = arrival.advance()
        except HandoffMalformed as exc:
            self._forget(fd, arrival)
            self._on_refused(exc)
            return
        if received is not None:
            self._ready.append(received)
            if arrival.is_kept:
                self._keep(fd, arrival)
            else:
                self._forget(fd, arrival)

    def _keep(self, fd: int, arrival: Arrival) -> None:
        """Wait for the next handoff on a connection; it has no time limit before its first byte."""
        del self._arrivals[fd]
        if len(self._kept) < self._most_kept:
            self._kept[fd] = arrival.unix
        else:
            arrival.unix.close()

    def _reopen(self, fd: int, now: float) -> None:
        """Begin with the next handoff on a kept connection, or see that it has ended."""
        unix = self._kept.pop(fd)
        try:
            is_over = not unix.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # EAGAIN, too: no gate sends what is readable and cannot be read
            is_over = True
        if is_over:
            unix.close()
            return
        arrival = self._arrivals[fd] = Arrival(unix, now + self._allowance)
        self._continue(fd, arrival)

    def _forget(self, fd: int, arrival: Arrival) -> None:
        del self._arrivals[fd]
        # A closed one has left the epoll set by itself.
        if arrival.unix.fileno() != -1:
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(fd)


def _overloaded(exc: OSError) -> HandoffError:
    reason = os.strerror(exc.errno or 0)
    return HandoffError("overloaded", f"cannot accept for {_PAUSE} s: {reason}")
