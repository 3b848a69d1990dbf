"""The client's connection for Trio: a `trio.abc.HalfCloseableStream`.

Errors: whatever breaks the connection is a `trio.BrokenResourceError`, as Trio's
contract wants, and at the same time the kind of `ktlsgate.errors` that says
what happened: a server that knows only Trio catches the one, an application that
wants to tell a cut from a bad record the other. Writing on a connection that the
client has left (EPIPE, ECONNRESET) is a `ConnectionCut`.

Every method is a checkpoint, also when it succeeds at once.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

import trio

from ..errors import (
    BadRecord,
    ConnectionCut,
    FatalAlert,
    LocalProtocolError,
    RemoteProtocolError,
)
from .arrival import ReceivedHandoff
from .connection import HandedConnection, SpinGuard

__all__ = ["ClientConnection"]

_RECEIVE_SIZE = 65536  # trio.SocketStream's; four records


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


class _BrokenByCut(ConnectionCut, trio.BrokenResourceError):
    """A cut, in Trio's terms as well."""


class _BrokenByAlert(FatalAlert, trio.BrokenResourceError):
    """A fatal alert, in Trio's terms as well."""


class _BrokenByRecord(BadRecord, trio.BrokenResourceError):
    """A bad record, in Trio's terms as well."""


class _BrokenByProtocol(RemoteProtocolError, trio.BrokenResourceError):
    """Anything else, in Trio's terms as well."""


def _broken(exc: RemoteProtocolError) -> RemoteProtocolError:
    match exc:
        case ConnectionCut():
            return _BrokenByCut(str(exc))
        case FatalAlert():
            return _BrokenByAlert(exc.description, str(exc))
        case BadRecord():
            return _BrokenByRecord(exc.errno, str(exc))
        case _:
            return _BrokenByProtocol(str(exc))


class _OneAtATime:
    """Refuse a second task in the same direction, and speak Trio's errors."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_held = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        if self._is_held:
            raise trio.BusyResourceError(f"another task is {self._what} this connection")
        self._is_held = True
        try:
            yield
        except RemoteProtocolError as exc:
            raise _broken(exc) from exc
        except LocalProtocolError as exc:
            raise trio.ClosedResourceError(str(exc)) from exc
        finally:
            self._is_held = False


class ClientConnection(trio.abc.HalfCloseableStream):
    """A client's connection, handed over: the same in all four modes.

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

        ``record_limit``: see `ktlsgate.backend.serving.HandoffListener`.
        """
        self._core = HandedConnection(received, record_limit=record_limit)
        self.head = self._core.head
        self.environ = self.head.environ
        self.mode = self.head.mode
        self.remote = self.head.remote
        self.keepalive = self._core.keepalive
        self._receiving = _OneAtATime("reading from")
        self._sending = _OneAtATime("writing to")

    def __repr__(self) -> str:
        state = "closed" if self._core.is_closed else self.mode.value
        return f"<ClientConnection {self.remote[0]} port {self.remote[1]}, {state}>"

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

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive 1 to ``max_bytes`` bytes; none at the clean end, then always.

        Cancellation loses no data.

        Raises:
            ConnectionCut: the data ended without a clean end, or the connection broke.
            FatalAlert: the client sent one.
            BadRecord: the kernel refused a record; nothing behind it can be read.
            RemoteProtocolError: a KeyUpdate that cannot be followed (`generations`), too many
                of them, or control records that make no sense. All of these stay, and are
                trio.BrokenResourceError as well.
            trio.ClosedResourceError: this object was closed.
            trio.BusyResourceError: another task is receiving.
        """
        with self._receiving.held():
            await trio.lowlevel.checkpoint_if_cancelled()
            size = _RECEIVE_SIZE if max_bytes is None else max_bytes
            guard = SpinGuard()
            while True:
                try:
                    data = self._core.receive(size, trio.current_time())
                except BlockingIOError:
                    await self._wait_readable(guard)
                else:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return data

    async def _wait_readable(self, guard: SpinGuard) -> None:
        with trio.move_on_after(self._core.look_again) as scope:
            await trio.lowlevel.wait_readable(self._core.read_socket)
        pause = guard.pause_after(was_readable=not scope.cancelled_caught)
        if pause:
            await trio.sleep(pause)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``.

        Cancelled, it may have sent some, all or none; closing then does not call
        the data complete, so the client sees a cut.

        Raises:
            ConnectionCut: the client or the gate is gone; trio.BrokenResourceError as well.
            trio.ClosedResourceError: this object was closed, or `send_eof` was called.
            trio.BusyResourceError: another task is sending.
        """
        with self._sending.held(), memoryview(data) as view, view.cast("B") as rest:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._core.check_writable()
            sent = 0
            self._core.is_midway = len(rest) > 0
            while sent < len(rest):
                try:
                    sent += self._core.send(rest[sent:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._core.write_socket)
            await self._flush()
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def sendfile(
        self, file: HasFileno | int, offset: int = 0, count: int | None = None
    ) -> int:
        """Send a file's contents from the page cache, without copying them through here.

        Args:
            file: a regular file, open for reading; its position is not used.
            offset: where to begin, in bytes.
            count: how many bytes, None for all up to the end.

        Returns:
            How many bytes went: less than ``count`` when the file is shorter.

        Raises:
            OSError: the file cannot be read.
            Exception: as `send_all`, cancellation too.
        """
        fd = file if isinstance(file, int) else file.fileno()
        end = math.inf if count is None else offset + count
        start = offset
        with self._sending.held():
            await trio.lowlevel.checkpoint_if_cancelled()
            self._core.check_writable()
            self._core.is_midway = True
            while offset < end:
                try:
                    sent = self._core.send_file(
                        fd, offset, None if count is None else int(end) - offset
                    )
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._core.write_socket)
                    continue
                if not sent:
                    break
                offset += sent
                # A reader as fast as the file would otherwise keep every other task waiting.
                await trio.lowlevel.checkpoint()
            await self._flush()
            await trio.lowlevel.cancel_shielded_checkpoint()
        return offset - start

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes data. Cancellation leaves nothing behind.

        Raises:
            trio.ClosedResourceError: this object was closed.
            trio.BusyResourceError: another task is sending.
        """
        with self._sending.held():
            await self._checkpoint_while_open()
            await trio.lowlevel.wait_writable(self._core.write_socket)

    async def send_eof(self) -> None:
        """Say that our data is complete (close_notify), and shut the sending side down.

        Waits while the send buffer is full. Cancelled there, nothing was said yet.

        Raises:
            Exception: as `send_all`.
        """
        with self._sending.held():
            await self._checkpoint_while_open()
            while True:
                try:
                    self._core.end_output()
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._core.write_socket)
                else:
                    return

    async def aclose(self) -> None:
        """Say that our data is complete, and close; never waits for the client.

        Cancelled, or in the middle of a `send_all` that did not finish, it closes
        all the same, but the client sees a cut. At most 64 KiB of what the client
        has sent already are read away first: closing over unread bytes sends a
        reset, which can destroy the last answer on its way.
        """
        is_complete = False
        try:
            await trio.lowlevel.checkpoint()
            is_complete = True
        finally:
            self._close(is_complete=is_complete)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an exception the data is not called complete."""
        if exc_type is not None:
            self.abort()
        await self.aclose()

    def abort(self) -> None:
        """Close at once and let the client see a cut: for an answer that broke off."""
        self._close(is_complete=False)

    async def _flush(self) -> None:
        while True:
            try:
                self._core.flush()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._core.write_socket)
            else:
                self._core.is_midway = False
                return

    def _close(self, *, is_complete: bool) -> None:
        if not self._core.is_closed:
            for sock in self._core.sockets:
                trio.lowlevel.notify_closing(sock)
            self._core.close(is_complete=is_complete)

    async def _checkpoint_while_open(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._core.is_closed:
            raise trio.ClosedResourceError("expected an open connection, got a closed one")
