"""The client's stream in plain bytes, whoever does the crypto.

Two shapes with the same three calls: `KernelClient` where the socket itself
carries plain bytes (offloaded both ways, or no TLS at all), `RelayedClient`
where OpenSSL still decrypts. Reading the head is where they differ most:

* `KernelClient` looks (MSG_PEEK), scans, and then takes exactly the head. Every
  byte behind it (a POST body, a pipelined request, a WebSocket frame) stays in
  the socket for whoever gets it. Of an incomplete head everything is taken, so
  that the next look does not find, at once, bytes already seen.
* `RelayedClient` cannot look into a record without decrypting it; what it
  decrypted behind the head is the first thing to be relayed.

Ending: `say_goodbye` is for connections that the gate answers itself. It sends
close_notify, then half closes, then reads away what the client still sends, for
a moment: closing with unread bytes would make the kernel send RST, which can
destroy our answer before the client has read it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import socket

from ..errors import LocalProtocolError, RemoteProtocolError, ResourceShortage
from ..kernel.records import recv_record, send_record
from ..wire.counted_records import CountedRecordLayer
from ..wire.http_head import HeadLimits, RequestHead, scan_head
from ..wire.messages import CLOSE_NOTIFY, AlertDescription, HandshakeType, build_alert, parse_alert
from ..wire.record_layer import RecordLayer
from ..wire.records import ContentType
from .fibers import give_way
from .patience import give_up_after
from .stream import peek, recv, recv_exactly, send_all

__all__ = ["ClientGone", "KernelClient", "RelayedClient", "linger", "send_kernel_close_notify"]

_CHUNK = 65_536
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 262_144

# Control records in a row that say nothing; the backend's bound is of this size, too.
_MAX_IGNORED = 32

# Receptions before others get their turn; most heads need one or two. A client that sends
# records faster than we read them would else be alone, and out of its deadline's reach.
_TURN = 4

# What recv says of a record that the kernel refuses (observed on Linux 6.1 to 7.2).
_BAD_RECORD = frozenset((errno.EBADMSG, errno.EMSGSIZE, errno.EINVAL, errno.EKEYEXPIRED))


class ClientGone(RemoteProtocolError):
    """The client ended its stream, or made it unusable: before its head was whole, or later.

    Attributes:
        reason: one word for counters.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason beside the text."""
        super().__init__(message)
        self.reason = reason


class KernelClient:
    """A client whose socket carries plain bytes."""

    __slots__ = ("_ignored", "_is_tls", "sock")

    def __init__(self, sock: socket.socket, *, is_tls: bool) -> None:
        """Wrap a socket, offloaded both ways if ``is_tls``."""
        self.sock = sock
        self._is_tls = is_tls
        self._ignored = 0

    async def read_head(self, limits: HeadLimits) -> tuple[RequestHead, bytes]:
        """Take exactly the request head from the socket.

        Returns:
            The head, and nothing behind it.

        Raises:
            HeadRejected: with an HTTP status.
            ClientGone: there will be no head.

        Cancellation: bytes of an incomplete head are lost with the connection.
        """
        buffer = b""
        while True:
            data = await self._look(limits.max_bytes + 1 - len(buffer), has_begun=bool(buffer))
            found = scan_head(buffer + data, limits=limits, checked=len(buffer))
            taken = found[1] - len(buffer) if found else len(data)
            buffer += await self._take(taken)
            if found:
                return found[0], b""

    async def _look(self, size: int, *, has_begun: bool) -> bytes:
        while True:
            try:
                data = await peek(self.sock, size)
            except OSError as exc:
                self._explain(exc)
                continue
            if data:
                return data
            raise ClientGone("cut" if has_begun else "closed", _end_of_stream(has_begun=has_begun))

    async def _take(self, size: int) -> bytes:
        try:
            return await recv_exactly(self.sock, size)
        except OSError as exc:
            raise ClientGone("reset", f"the client is gone: {exc.strerror}") from exc

    def _explain(self, error: OSError) -> None:
        """Turn an error of recv into a reason; return when reading may go on."""
        if self._is_tls and error.errno == errno.EIO and self._ignored < _MAX_IGNORED:
            self._ignored += 1
            try:
                self._take_control_record()
            except OSError as exc:
                raise ClientGone("bad_record", f"expected a record: {exc.strerror}") from exc
            return
        if self._is_tls and error.errno in _BAD_RECORD:
            raise ClientGone("bad_record", f"expected a TLS record: {error.strerror}") from error
        raise ClientGone("reset", f"the client is gone: {error.strerror}") from error

    def _take_control_record(self) -> None:
        """Take the record that plain reads trip over (EIO) and judge it."""
        content_type, data = recv_record(self.sock, 16_384, socket.MSG_DONTWAIT)
        if content_type == ContentType.ALERT and len(data) == 2:
            alert = parse_alert(data)
            if alert.description == AlertDescription.CLOSE_NOTIFY:
                raise ClientGone("closed", "expected a request, got close_notify")
            if alert.is_fatal:
                raise ClientGone("alert", f"expected a request, got the alert {alert.name}")
            return
        if content_type == ContentType.HANDSHAKE and data[:1] == bytes((HandshakeType.KEY_UPDATE,)):
            raise ClientGone("key_update", "expected a request, got a KeyUpdate")
        alarm = build_alert(AlertDescription.UNEXPECTED_MESSAGE, is_fatal=True)
        with contextlib.suppress(OSError):
            send_record(self.sock, ContentType.ALERT, alarm, socket.MSG_DONTWAIT)
        raise ClientGone(
            "unexpected_record", f"expected a request, got a record of type {content_type}"
        )

    async def send_all(self, data: bytes) -> None:
        """Send plain bytes."""
        await send_all(self.sock, data)

    async def say_goodbye(self) -> None:
        """End an answered connection so that the client surely reads the answer."""
        if self._is_tls:
            send_kernel_close_notify(self.sock)
        await linger(self.sock)


class RelayedClient:
    """A client whose records OpenSSL decrypts; the kernel may encrypt what is sent (TX).

    One job uses it, in turns; for both directions at once there is `ktlsgate.gate.flow`.
    """

    __slots__ = ("_received", "kernel_sends", "records", "sock")

    def __init__(
        self, sock: socket.socket, records: RecordLayer | CountedRecordLayer, *, kernel_sends: bool
    ) -> None:
        """Wrap a socket and its record layer."""
        self.sock = sock
        self.records = records
        self.kernel_sends = kernel_sends
        self._received = 0

    async def receive(self) -> bytes:
        """Receive the next plain bytes; ``b""`` is a clean end (close_notify).

        Raises:
            ClientGone: the stream was cut (``cut``, ``reset``) or broken (``bad_record``).
        """
        plain = b""
        while not (plain or self.records.is_closed):
            self._received += 1
            if self._received % _TURN == 0:
                await give_way()
            data = await self._receive_records()
            failure = None
            try:
                plain = self.records.receive_data(data)
            except RemoteProtocolError as exc:
                failure = exc
            await self._send_own_records(patience=_LINGER_SECONDS if failure else math.inf)
            if failure:
                raise ClientGone("bad_record", str(failure)) from failure
        return plain

    async def _receive_records(self) -> bytes:
        try:
            try:
                data = self.sock.recv(self.records.wanted, socket.MSG_DONTWAIT)
            except BlockingIOError:
                # A bad record behind good ones was kept back; nothing good follows it.
                self._raise_failure()
                data = await recv(self.sock, self.records.wanted)
        except OSError as exc:
            raise ClientGone("reset", f"the client is gone: {exc.strerror}") from exc
        if not data:
            self._raise_failure()
            raise ClientGone("cut", "expected close_notify, got end of file")
        return data

    def _raise_failure(self) -> None:
        try:
            self.records.raise_failure()
        except RemoteProtocolError as exc:
            raise ClientGone("bad_record", str(exc)) from exc

    async def _send_own_records(self, *, patience: float) -> None:
        """Send what OpenSSL has to say itself, or drop it where the kernel sends (I4)."""
        output = self.records.data_to_send()
        if output and not self.kernel_sends:
            with contextlib.suppress(OSError):
                await give_up_after(patience, functools.partial(send_all, self.sock, output))

    async def read_head(self, limits: HeadLimits) -> tuple[RequestHead, bytes]:
        """Read the request head.

        Returns:
            The head, and what was decrypted behind it.

        Raises:
            HeadRejected: with an HTTP status.
            ClientGone: there will be no head.
        """
        buffer = b""
        while True:
            try:
                data = await self.receive()
            except ClientGone as exc:
                # Before its first byte a client may leave as it likes.
                reason = "closed" if exc.reason == "cut" and not buffer else exc.reason
                raise ClientGone(reason, str(exc)) from exc
            if not data:
                raise ClientGone("closed", "expected a request, got close_notify")
            checked, buffer = len(buffer), buffer + data
            found = scan_head(buffer, limits=limits, checked=checked)
            if found:
                return found[0], buffer[found[1] :]

    async def send_all(self, data: bytes) -> None:
        """Send plain bytes.

        Raises:
            OSError: the client is gone.
        """
        if not self.kernel_sends:
            try:
                data = self.records.send_data(data)
            except (RemoteProtocolError, LocalProtocolError) as exc:
                raise BrokenPipeError(errno.EPIPE, "OpenSSL gave the connection up") from exc
        await send_all(self.sock, data)

    async def send_close_notify(self) -> None:
        """Say that nothing more will be sent; errors do not matter any more."""
        if self.kernel_sends:
            send_kernel_close_notify(self.sock)
            return
        with contextlib.suppress(OSError):
            await send_all(self.sock, self.records.send_close_notify())

    async def say_goodbye(self) -> None:
        """End an answered connection so that the client surely reads the answer."""
        await self.send_close_notify()
        await linger(self.sock)


def _end_of_stream(*, has_begun: bool) -> str:
    return f"expected {'the rest of the head' if has_begun else 'a request'}, got end of file"


def send_kernel_close_notify(sock: socket.socket) -> bool:
    """Say that nothing more will be sent, where the kernel encrypts.

    Returns:
        Whether that is done; False when there is no room for it yet. Who is gone does
        not miss it.
    """
    try:
        send_record(sock, ContentType.ALERT, CLOSE_NOTIFY, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


async def linger(sock: socket.socket) -> None:
    """Half close, then read and forget for at most a second and 256 KiB."""
    with contextlib.suppress(OSError, ResourceShortage):
        sock.shutdown(socket.SHUT_WR)
        await give_up_after(_LINGER_SECONDS, functools.partial(_read_away, sock))


async def _read_away(sock: socket.socket) -> None:
    total = 0
    while total < _LINGER_BYTES:
        data = await recv(sock, _CHUNK)
        if not data:
            return
        total += len(data)
