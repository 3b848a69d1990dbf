"""The client's connection for code that waits: the calls of a blocking socket.

The descriptor itself stays as it came, which is usually non-blocking: that flag is
shared with every other holder. This class waits by poll() and never blocks in a
read or write of the descriptor.
"""

from __future__ import annotations

import math
import select
import time
import warnings
from types import TracebackType
from typing import Protocol, Self

from .arrival import ReceivedHandoff
from .connection import HandedConnection, SpinGuard
from .timed_socket import seconds_left

__all__ = ["BlockingClientConnection", "wait_for"]


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


def wait_for(fd: HasFileno | int, event: int, seconds: float) -> bool:
    """Wait until a descriptor is ready; False when ``seconds`` (math.inf: for ever) ran out."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(None if seconds == math.inf else math.ceil(max(seconds, 0) * 1000)))


class BlockingClientConnection:
    """A client's connection, handed over: the same in all four modes.

    Every error of the connection is one of `ktlsgate.errors.RemoteProtocolError`;
    a client that is gone while we write (EPIPE, ECONNRESET) is a `ConnectionCut`.
    Using it after close, or writing after `shutdown_write`, is a LocalProtocolError.
    One thread at a time: a read may have to send (a KeyUpdate's answer), and nothing may
    come between its two steps.

    Attributes:
        head: everything the gate said about connection and request.
        environ: the same as names and values, SCGI's and CGI's.
        mode: who does the crypto.
        remote: the client's address and port.
        keepalive: ``own``, or ``single``: then nothing behind this request's body is read,
            until the first bytes written are ``HTTP/1.1 101 ``.
    """

    def __init__(self, received: ReceivedHandoff, *, record_limit: int | None = None) -> None:
        """Own what a `Receiver` took.

        ``record_limit``: see `ktlsgate.backend.blocking_listener.BlockingHandoffListener`.
        """
        self._core = HandedConnection(received, record_limit=record_limit)
        self.head = self._core.head
        self.environ = self.head.environ
        self.mode = self.head.mode
        self.remote = self.head.remote
        self.keepalive = self._core.keepalive
        self._timeout: float | None = None

    def __repr__(self) -> str:
        state = "closed" if self._core.is_closed else self.mode.value
        return f"<BlockingClientConnection {self.remote[0]} port {self.remote[1]}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an exception the data is not called complete."""
        self._core.close(is_complete=kind is None)

    def __del__(self) -> None:
        if not self._core.is_closed:
            text = f"unclosed {self!r}"
            self._core.close(is_complete=False)
            warnings.warn(text, ResourceWarning, source=self, stacklevel=1)

    @property
    def is_ktls_tx(self) -> bool:
        """Whether the kernel encrypts what is sent, as the kernel says."""
        return self._core.is_ktls_tx

    @property
    def is_ktls_rx(self) -> bool:
        """Whether the kernel decrypts what is received, as the kernel says."""
        return self._core.is_ktls_rx

    @property
    def generations(self) -> tuple[int, int] | None:
        """KeyUpdates so far, ours and the client's; None where they cannot be followed."""
        return self._core.generations

    def fileno(self) -> int:
        """The descriptor that is written to; -1 once closed."""
        return self._core.write_socket.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """Bound every later call as a whole, None for no bound."""
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        """The bound that `settimeout` set, in seconds."""
        return self._timeout

    def recv(self, size: int) -> bytes:
        """Receive 1 to ``size`` bytes; none at the clean end, then always.

        Raises:
            TimeoutError: nothing came in time; the connection is as before.
            ConnectionCut: the data ended without a clean end, or the connection broke.
            FatalAlert: the client sent one.
            BadRecord: the kernel refused a record; nothing behind it can be read.
            RemoteProtocolError: a KeyUpdate that cannot be followed (`generations`), too many
                of them, or control records that make no sense.
        """
        deadline = self._deadline()
        guard = SpinGuard()
        while True:
            try:
                return self._core.receive(size, time.monotonic())
            except BlockingIOError:
                self._wait_readable(guard, deadline)

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """Receive into ``buffer``; returns how many bytes came, see `recv`."""
        with memoryview(buffer) as view, view.cast("B") as room:
            data = self.recv(len(room))
            room[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``.

        Raises:
            TimeoutError: the client did not take it in time. Some or all may have gone,
                and closing will not call the data complete.
            ConnectionCut: the client or the gate is gone.
        """
        deadline = self._deadline()
        self._core.check_writable()
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            self._core.is_midway = len(rest) > 0
            while sent < len(rest):
                try:
                    sent += self._core.send(rest[sent:])
                except BlockingIOError:
                    self._wait_writable(deadline)
        self._flush(deadline)

    def sendfile(self, file: HasFileno | int, offset: int = 0, count: int | None = None) -> int:
        """Send a file's contents from the page cache, without copying them through here.

        Args:
            file: a regular file, open for reading; its position is not used.
            offset: where to begin, in bytes.
            count: how many bytes, None for all up to the end.

        Returns:
            How many bytes went: less than ``count`` when the file is shorter.

        Raises:
            OSError: the file cannot be read.
            Exception: as `sendall`.
        """
        fd = file if isinstance(file, int) else file.fileno()
        deadline = self._deadline()
        start = offset
        self._core.check_writable()
        self._core.is_midway = True
        while count is None or offset < start + count:
            try:
                left = None if count is None else start + count - offset
                sent = self._core.send_file(fd, offset, left)
            except BlockingIOError:
                self._wait_writable(deadline)
                continue
            if not sent:
                break
            offset += sent
        self._flush(deadline)
        return offset - start

    def shutdown_write(self) -> None:
        """Say that our data is complete (close_notify), and shut the sending side down.

        Raises:
            TimeoutError: the send buffer stayed full; nothing was said.
            ConnectionCut: the client or the gate is gone.
        """
        deadline = self._deadline()
        while True:
            try:
                return self._core.end_output()
            except BlockingIOError:
                self._wait_writable(deadline)

    def close(self) -> None:
        """Say that our data is complete, and close; never waits for the client.

        After a `sendall` or `sendfile` that did not finish the client sees a cut. At most
        64 KiB of what it has sent already are read away first: closing over unread bytes
        sends a reset, which can destroy the last answer.
        """
        self._core.close(is_complete=True)

    def abort(self) -> None:
        """Close at once and let the client see a cut: for an answer that broke off."""
        self._core.close(is_complete=False)

    def _deadline(self) -> float:
        return math.inf if self._timeout is None else time.monotonic() + self._timeout

    def _flush(self, deadline: float) -> None:
        while True:
            try:
                self._core.flush()
            except BlockingIOError:
                self._wait_writable(deadline)
            else:
                self._core.is_midway = False
                return

    def _wait_readable(self, guard: SpinGuard, deadline: float) -> None:
        left = seconds_left(deadline)
        is_ready = wait_for(self._core.read_socket, select.POLLIN, min(left, self._core.look_again))
        time.sleep(min(guard.pause_after(was_readable=is_ready), seconds_left(deadline)))

    def _wait_writable(self, deadline: float) -> None:
        wait_for(self._core.write_socket, select.POLLOUT, seconds_left(deadline))
