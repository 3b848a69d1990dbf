"""The client's connection as a `socket.socket`: for servers that know nothing of handoffs.

Theory of operation
-------------------
The gate has read the request head, so a server that parses HTTP finds nothing of it in
the kernel. `ClientSocket` gives it back first (`ktlsgate.backend.raw_head`), then what
the client sends, by way of `HandedConnection`: a close_notify is the end of file, a cut
is a ConnectionResetError, `shutdown` and `close` say close_notify.

A server that waits for a readable descriptor sees one until the head was read
(`ktlsgate.backend.stand_in`); only a server on epoll that leaves it registered meanwhile
needs help: for asyncio there is `ktlsgate.backend.aio`.

Rules:

- O_NONBLOCK stays as it came (`ktlsgate.backend.timed_socket`). Options (`getsockopt`,
  `setsockopt`) are those of the client's socket at any time.
- In mode RELAY the descriptor is a Unix socket. Servers set TCP options and ask for
  addresses, so family and addresses are the client's, and options of TCP and IP do nothing.
- A server may end as soon as all was sent (`ktlsgate.backend.admitted_output`).
- Any thread may call: servers read in one and write in another.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import select
import socket
import stat
import threading  # noqa: TID251 - servers that block have threads
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..errors import LocalProtocolError, RemoteProtocolError
from ..wire.handoff import Mode
from .admitted_output import AdmittedOutput
from .arrival import ReceivedHandoff
from .blocking_connection import wait_for
from .connection import HandedConnection, SpinGuard
from .raw_head import rebuild_head
from .stand_in import StandIn
from .timed_socket import TimedSocket, seconds_left

if TYPE_CHECKING:
    from socket import _SendableFile

    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["ClientSocket", "InetAddress", "inet_address", "inet_family"]

_Result = TypeVar("_Result")
InetAddress = tuple[str, int] | tuple[str, int, int, int]

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_PEEK | socket.MSG_WAITALL | socket.MSG_NOSIGNAL
_OF_TCP = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6})
_COPY_STEP = 1 << 16


def inet_address(host: str, port: int) -> InetAddress:
    """Write an address as sockets of its family do."""
    return (host, port, 0, 0) if ":" in host else (host, port)


def inet_family(address: InetAddress) -> socket.AddressFamily:
    """Say which family an address is of."""
    return socket.AF_INET6 if len(address) == 4 else socket.AF_INET


@contextlib.contextmanager
def _as_os_error(closed: int) -> Iterator[None]:
    """Say our errors in the only words that servers know; ``closed`` is a LocalProtocolError's."""
    try:
        yield
    except RemoteProtocolError as exc:
        raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
    except LocalProtocolError as exc:
        raise OSError(closed, str(exc)) from exc


class ClientSocket(TimedSocket):
    """A client's connection, handed over, with its request head still to be read.

    Made by `ktlsgate.backend.handoff_socket.HandoffSocket`. What needs ancillary data raises
    io.UnsupportedOperation, an OSError, as do `detach` and `dup`.

    Attributes:
        head: what the gate said about connection and request.
        mode: who does the crypto; never TX, whose input is on another descriptor.
        false_alarms: reads without waiting, in a row, that found nothing.
        on_false_alarm: called behind each of them.
    """

    def __init__(self, received: ReceivedHandoff, *, record_limit: int | None = None) -> None:
        """Own a handoff; ``record_limit`` is that of `BlockingHandoffListener`.

        Raises:
            HandoffMalformed: the head cannot be written as HTTP/1, or the mode is TX;
                ``received`` is still the caller's then.
        """
        early = rebuild_head(received.head)
        self.head = received.head
        self.mode = self.head.mode
        local = self.head.environ["SERVER_ADDR"], int(self.head.environ["SERVER_PORT"])
        self._remote, self._local = inet_address(*self.head.remote), inet_address(*local)
        descriptor = received.descriptor
        proto = (descriptor.proto if self.mode is not Mode.RELAY else 0) or socket.IPPROTO_TCP
        family = inet_family(self._remote)
        super().__init__(family, socket.SOCK_STREAM, proto, fileno=os.dup(descriptor.fileno()))
        self._early = early
        self._is_midway = False
        self._lock = threading.RLock()
        self.false_alarms = 0
        self.on_false_alarm: Callable[[], None] | None = None
        self._core = HandedConnection(received, record_limit=record_limit)
        self.head = self._core.head
        self._output = AdmittedOutput(self._core)
        self._stand_in = StandIn(self.fileno(), self._core.write_socket.fileno())

    def __repr__(self) -> str:
        state = "closed" if self._core.is_closed else self.mode.value
        return f"<ClientSocket {self._remote[0]} port {self._remote[1]}, {state}>"

    @property
    def environ(self) -> Mapping[str, str]:
        """What the gate said, as names and values, SCGI's and CGI's."""
        return self.head.environ

    @property
    def is_ktls_tx(self) -> bool:
        """Whether the kernel encrypts what is sent, as the kernel says."""
        return self._core.is_ktls_tx

    @property
    def is_ktls_rx(self) -> bool:
        """Whether the kernel decrypts what is received, as the kernel says."""
        return self._core.is_ktls_rx

    def take_early(self) -> bytes:
        """Take what is still to be read before the client's own bytes; usually the head."""
        with self._lock:
            early, self._early = self._early, b""
            self._stand_in.end()
        return early

    # Addresses and options

    def getpeername(self) -> InetAddress:
        """The client's address, in mode RELAY as well."""
        return self._remote

    def getsockname(self) -> InetAddress:
        """The address that the client connected to."""
        return self._local

    @overload
    def getsockopt(self, level: int, optname: int, /) -> int: ...

    @overload
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> int | bytes:
        """Ask the client's socket; of TCP and IP in mode RELAY: 0."""
        if self._has_no_tcp(level):
            return bytes(buflen) if buflen else 0
        sock = self._core.write_socket
        return (
            sock.getsockopt(level, optname, buflen) if buflen else sock.getsockopt(level, optname)
        )

    def setsockopt(self, level: int, optname: int, value: Any, *optlen: int) -> None:
        """Set an option of the client's socket; of TCP and IP in mode RELAY: nothing."""
        if not self._has_no_tcp(level):
            self._core.write_socket.setsockopt(level, optname, value, *optlen)

    # Receiving

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive: first the request head, then what the client sends.

        Raises:
            ConnectionResetError: the connection was cut, or broken; its text says how.
        """
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if flags & ~_FLAGS:
            raise OSError(errno.EOPNOTSUPP, f"expected no flags but known ones, got {flags:#x}")
        deadline = self.deadline(flags)
        if flags & socket.MSG_PEEK:
            return self._peek(bufsize, deadline)
        data = self._receive(bufsize, deadline)
        if flags & socket.MSG_WAITALL:
            while 0 < len(data) < bufsize and (
                more := self._receive(bufsize - len(data), deadline)
            ):
                data += more
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer; how many bytes came."""
        with memoryview(buffer) as view, view.cast("B") as room:
            data = self.recv(nbytes or len(room), flags)
            room[: len(data)] = data
        return len(data)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, InetAddress]:
        """Receive, and name the client."""
        return self.recv(bufsize, flags), self._remote

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, InetAddress]:
        """Receive into a buffer, and name the client."""
        return self.recv_into(buffer, nbytes, flags), self._remote

    def recvmsg(
        self, bufsize: int, _ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, InetAddress]:
        """Receive; ancillary data is ours to understand, and never given on."""
        return self.recv(bufsize, flags), [], 0, self._remote

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], _ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, InetAddress]:
        """Receive into the first buffer that has room."""
        for buffer in buffers:
            if memoryview(buffer).nbytes:
                return self.recv_into(buffer, 0, flags), [], 0, self._remote
        return 0, [], 0, self._remote

    # Sending

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send the beginning of ``data``; how many bytes went."""
        with memoryview(data) as raw, raw.cast("B") as view:
            return self._insist(self.deadline(flags), functools.partial(self._output.send, view))

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send all of ``data``; if that fails, closing will not call the data complete."""
        deadline = self.deadline(flags)
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            self._is_midway = len(rest) > 0
            while sent < len(rest):
                sent += self._insist(deadline, functools.partial(self._output.send, rest[sent:]))
        self._is_midway = False

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[object] = (),
        flags: int = 0,
        address: object = None,
        /,
    ) -> int:
        """Send the beginning of several buffers."""
        if list(ancdata) or address is not None:
            raise io.UnsupportedOperation("expected data alone, got ancillary data or an address")
        return self.send(b"".join(buffers), flags)

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        """Send a file from the page cache; another kind of file by copying. As the base class."""
        if self._seconds == 0:
            raise ValueError("non-blocking sockets are not supported")
        fd = _regular_fd(file)
        if offset:
            file.seek(offset)
        sent, self._is_midway = 0, True
        try:
            while count is None or sent < count:
                left = None if count is None else count - sent
                if fd is None:
                    piece = self._send_copy(file, left)
                else:
                    piece = self._insist(
                        self.deadline(),
                        functools.partial(self._core.send_file, fd, offset + sent, left),
                    )
                if not piece:
                    break
                sent += piece
        finally:
            if sent and hasattr(file, "seek"):
                file.seek(offset + sent)
        self._insist(self.deadline(), self._core.flush)
        self._is_midway = False
        return sent

    # The end

    def shutdown(self, how: int, /) -> None:
        """End a direction; that of sending with close_notify first."""
        if how in {socket.SHUT_WR, socket.SHUT_RDWR}:
            self._insist(self.deadline(), self._core.end_output)
        if how in {socket.SHUT_RD, socket.SHUT_RDWR}:
            self._core.write_socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Say that our data is complete, and close; never waits. Files made of it keep it open."""
        super().close()
        if self.fileno() == -1:
            self._close(is_complete=True)

    def abort(self) -> None:
        """Close at once and let the client see a cut: for an answer that broke off."""
        self._close(is_complete=False)
        self.close()

    # Parts

    def _receive(self, size: int, deadline: float) -> bytes:
        guard = SpinGuard()
        while True:
            try:
                with self._lock, _as_os_error(errno.EBADF):
                    if self._early:
                        return self._next_early(size)
                    data = self._core.receive(size, time.monotonic()) if size else b""
                self.false_alarms = 0
            except BlockingIOError:
                if deadline == 0:
                    self._note_false_alarm()
                    raise
                left = seconds_left(deadline)
                seconds = min(left, self._core.look_again)
                is_ready = wait_for(self._core.read_socket, select.POLLIN, seconds)
                time.sleep(min(guard.pause_after(was_readable=is_ready), seconds_left(deadline)))
            else:
                return data

    def _peek(self, size: int, deadline: float) -> bytes:
        # What is looked at is kept here: the descriptor no longer tells of it.
        if not self._early:
            data = self._receive(size, deadline)
            with self._lock:
                self._early = data + self._early
        return self._early[:size]

    def _next_early(self, size: int) -> bytes:
        data, self._early = self._early[:size], self._early[size:]
        if not self._early:
            self._stand_in.end()
        return data

    def _note_false_alarm(self) -> None:
        self.false_alarms += 1
        if self.on_false_alarm:
            self.on_false_alarm()

    def _insist(self, deadline: float, step: Callable[[], _Result]) -> _Result:
        """Do something that cannot be done before the socket is writable."""
        while True:
            try:
                with self._lock, _as_os_error(errno.EPIPE):
                    return step()
            except BlockingIOError:
                if deadline == 0:
                    raise
                wait_for(self._core.write_socket, select.POLLOUT, seconds_left(deadline))

    def _send_copy(self, file: _SendableFile, left: int | None) -> int:
        data = file.read(_COPY_STEP if left is None else min(left, _COPY_STEP))
        self.sendall(data)
        return len(data)

    def _close(self, *, is_complete: bool) -> None:
        with self._lock:
            self._early = b""
            is_partial = self._is_midway or self._output.is_owing
            self._core.close(is_complete=is_complete and not is_partial)

    def _has_no_tcp(self, level: int) -> bool:
        return self.mode is Mode.RELAY and level in _OF_TCP


def _regular_fd(file: object) -> int | None:
    """The descriptor of a file that the kernel can send by itself."""
    try:
        fd: int = file.fileno()  # type: ignore[attr-defined]
        return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except (AttributeError, io.UnsupportedOperation):
        return None
