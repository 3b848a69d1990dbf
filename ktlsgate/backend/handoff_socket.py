"""A listening socket for servers that know nothing of handoffs: it accepts clients.

A server that is given a listening socket waits until its descriptor is readable and
calls `accept`. Here the descriptor is the `Receiver`'s epoll set, which holds the Unix
listener and every handoff that is not whole yet, and `accept` gives the client's own
connection (`ClientSocket`) and the client's own address.

The receiver is made at the first use in each process, so a listener that was bound
before a fork serves in every child, and no child sees another's epoll set.

Mode TX (``KTLS_RX=0``) is refused with 502 and one line in the log: the client's input is on
another descriptor there, and a server that reads the client's socket would read
records that the gate waits for. A head that cannot be written as HTTP/1 is refused, too.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import sys
import threading  # noqa: TID251 - servers accept in several threads
import time
from collections.abc import Collection
from typing import Any, Self, overload

from ..errors import HandoffError, HandoffMalformed, LocalProtocolError
from ..wire.handoff import Mode
from .arrival import ReceivedHandoff
from .blocking_connection import BlockingClientConnection, wait_for
from .client_socket import ClientSocket, InetAddress, inet_address, inet_family
from .known_clients import KnownClients
from .receiver import DEFAULT_DEADLINE, Receiver, RefusedCallback, log_refusal
from .timed_socket import TimedSocket, seconds_left
from .unix_listener import UnixListener, bind_unix_listener

__all__ = ["HandoffSocket"]

_APOLOGY = b"This server cannot take a connection in mode tx.\n"
_REFUSAL = (
    b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_APOLOGY), _APOLOGY)
)


class HandoffSocket(TimedSocket):
    """Listen for handoffs; `accept` gives clients.

    Args (of the constructor):
        listener: from `bind_unix_listener`; ours to close from now on.
        allowed_uids: users that may hand off, None for all that can connect.
        deadline: seconds that a sender has for one handoff.
        on_refused: told of each handoff that was refused; logged by default.
        record_limit: as in `BlockingHandoffListener`.
        shown_as: host and port that servers are told when they ask for the address, for
            those that do not give clients' addresses of a Unix socket on, or want a port
            for their own URLs. None: the Unix socket's path.

    Attributes:
        clients: the open connections.
        gives_head_by_protocol: set by `ktlsgate.backend.aio`, without which no
            asyncio loop may accept.
    """

    def __init__(
        self,
        listener: UnixListener,
        *,
        allowed_uids: Collection[int] | None = None,
        deadline: float = DEFAULT_DEADLINE,
        on_refused: RefusedCallback | None = None,
        record_limit: int | None = None,
        shown_as: tuple[str, int] | None = None,
    ) -> None:
        self._shown_as = inet_address(*shown_as) if shown_as else None
        family = inet_family(self._shown_as) if self._shown_as else socket.AF_UNIX
        super().__init__(family, socket.SOCK_STREAM, 0, fileno=os.dup(listener.socket.fileno()))
        self._listener = listener
        self._allowed_uids = allowed_uids
        self._allowance = deadline
        self._on_refused = on_refused or log_refusal
        self._record_limit = record_limit
        self._receiver: Receiver | None = None
        self._pid = 0
        self._lock = threading.RLock()
        self.clients = KnownClients()
        self.gives_head_by_protocol = False

    @classmethod
    def bound(
        cls,
        path: str,
        *,
        owner: str | int | None = None,
        group: str | int | None = None,
        mode: int = 0o660,
        shown_as: tuple[str, int] | None = None,
    ) -> Self:
        """Bind and listen at ``path``; the other arguments are those of `bind_unix_listener`."""
        listener = bind_unix_listener(path, owner=owner, group=group, mode=mode)
        return cls(listener, shown_as=shown_as)

    @classmethod
    def adopting(cls, sock: socket.socket) -> Self:
        """Take a Unix socket that listens already: a server's own, or a service manager's.

        ``sock`` stays open, and its owner's; its file is not removed here.
        """
        return cls(UnixListener(socket.socket.dup(sock)))

    def __repr__(self) -> str:
        return f"<HandoffSocket {self.address}>"

    @property
    def address(self) -> str:
        """Where handoffs are taken: a path, or ``@NAME``."""
        return self._listener.address

    def getsockname(self) -> InetAddress | str:
        """The address: ``shown_as``, or the Unix socket's."""
        return self._shown_as or self.address

    def fileno(self) -> int:
        """The descriptor that is readable when `accept` may have something; -1 once closed."""
        if self._is_closed:
            return -1
        with self._lock:
            return self._own_receiver().fileno()

    def accept(self) -> tuple[ClientSocket, InetAddress]:
        """Take the next client, and say its address; slow senders hold up nobody.

        Raises:
            BlockingIOError: none is there, and the timeout is 0.
            TimeoutError: none came in time.
            OSError: EBADF when closed; accept() failed in a way that will not pass.
            LocalProtocolError: an asyncio loop accepts, and would wait for the head in vain.
        """
        if not self.gives_head_by_protocol and _runs_asyncio():
            raise LocalProtocolError(
                "expected the event loop ktlsgate.backend.aio.HandoffEventLoop (or its"
                " create_server) around this listener, got another"
            )
        deadline = self.deadline()
        while True:
            with self._lock:
                if self._is_closed:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                receiver = self._own_receiver()
                now = time.monotonic()
                received = receiver.advance(now)
                due = receiver.next_deadline
            if received is None:
                _wait(receiver, deadline, math.inf if due is None else due - now)
            elif client := self._welcome(received):
                self.clients.add(client)
                return client, client.getpeername()

    def listen(self, _backlog: int = 0, /) -> None:
        """Listen, which it does already: the queue's length is `bind_unix_listener`'s."""

    @overload
    def getsockopt(self, level: int, optname: int, /) -> int: ...

    @overload
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def getsockopt(self, level: int, optname: int, *buflen: int) -> int | bytes:
        """Ask the Unix listener; 0 for what a Unix socket does not know."""
        if level == socket.SOL_SOCKET:
            return super().getsockopt(level, optname, *buflen)
        return bytes(*buflen) if buflen else 0

    def setsockopt(self, level: int, optname: int, value: Any, *optlen: int) -> None:
        """Set an option of the Unix listener; nothing for what a Unix socket does not know."""
        if level == socket.SOL_SOCKET:
            super().setsockopt(level, optname, value, *optlen)

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still ours. Idempotent."""
        with self._lock:
            if self._receiver is not None:
                self._receiver.close()
            self._listener.close()
            super().close()

    @property
    def _is_closed(self) -> bool:
        return super().fileno() == -1

    def _own_receiver(self) -> Receiver:
        if self._receiver is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._receiver = Receiver(
                self._listener,
                allowed_uids=self._allowed_uids,
                deadline=self._allowance,
                on_refused=self._on_refused,
                keeps=False,  # servers with one thread accept between requests only
            )
        return self._receiver

    def _welcome(self, received: ReceivedHandoff) -> ClientSocket | None:
        if received.head.mode is Mode.TX:
            _turn_away(received)
            self._on_refused(_no_tx())
            return None
        try:
            return ClientSocket(received, record_limit=self._record_limit)
        except HandoffMalformed as exc:
            received.close()
            self._on_refused(exc)
            return None


def _wait(receiver: Receiver, deadline: float, due: float) -> None:
    if deadline == 0:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    wait_for(receiver.fileno(), select.POLLIN, min(seconds_left(deadline), due))


def _runs_asyncio() -> bool:
    """Whether this thread is an event loop's; without asyncio it is none."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


def _turn_away(received: ReceivedHandoff) -> None:
    connection = BlockingClientConnection(received)
    connection.settimeout(0)
    with contextlib.closing(connection), contextlib.suppress(Exception):
        connection.sendall(_REFUSAL)


def _no_tx() -> HandoffError:
    return HandoffError(
        "mode_tx",
        "expected one descriptor for input and output, got mode tx (KTLS_RX=0):"
        " a backend for ktlsgate.backend.serving can take it, or the route's offload is to be none",
    )
