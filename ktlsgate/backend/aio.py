"""asyncio servers on handed-over connections: the head is given before the loop reads.

asyncio waits for a socket in an epoll set and hands bytes to a protocol. It reads by our
`ClientSocket.recv`, so records and ends are taken care of, but it would not read the
head, which is in no kernel buffer. So each connection begins with `_Replay`: it makes the
server's own protocol, tells it of the connection, gives it the head, and steps aside. No
byte can come in between, for asyncio begins to read behind ``connection_made``.

A server that is given a socket calls the loop's ``create_server`` with it. That is where
`HandoffEventLoop` puts the replay, so the loop is all that has to be chosen::

    uvicorn     Config(app, loop="ktlsgate.backend.aio:HandoffEventLoop"),
                Server(config).run(sockets=[listener])
    hypercorn   asyncio.Runner(loop_factory=HandoffEventLoop), worker_serve(..., sockets=...)
    aiohttp     web.run_app(app, sock=listener, loop=HandoffEventLoop())
    websockets  websockets.serve(handler, sock=listener)

With another selector loop `create_server` does the same. uvloop cannot: it reads the
descriptor by itself, without our records and ends.

False alarms: a socket can be readable with nothing to give (Linux before 6.12 with a part of a
record; keep-alive ``single`` with a second request waiting), and asyncio would ask
again and again. Such a connection is not asked for a while, 10 to 100 ms.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this module is the one for it
import functools
import os
from collections.abc import Callable
from typing import IO, Any

from ..kernel import ktls
from .client_socket import ClientSocket
from .connection import SpinGuard
from .handoff_socket import HandoffSocket

__all__ = ["HandoffEventLoop", "create_server"]

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class HandoffEventLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop, whose ``create_server`` knows a `HandoffSocket`."""

    async def create_server(
        self, protocol_factory: ProtocolFactory, *args: Any, sock: Any = None, **options: Any
    ) -> asyncio.Server:
        """Serve on ``sock`` as any loop does; with the heads given back if it is ours."""
        if isinstance(sock, HandoffSocket):
            protocol_factory = _replaying(protocol_factory, sock)
        return await super().create_server(protocol_factory, *args, sock=sock, **options)

    async def sendfile(  # type: ignore[override]
        self,
        transport: asyncio.Transport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file as any loop does, and wait until an end that follows loses nothing."""
        sent = await super().sendfile(transport, file, offset, count, fallback=fallback)
        sock = transport.get_extra_info("socket")
        if not transport.is_closing() and ktls.has_tx(sock):
            await self._wait_for_room(sock.fileno())
        return sent

    async def _wait_for_room(self, fd: int) -> None:
        """Wait for POLLOUT; on a number of its own, since the loop keeps transports' numbers."""
        number = os.dup(fd)
        has_room = self.create_future()
        self.add_writer(number, functools.partial(_resolve, has_room))
        try:
            await has_room
        finally:
            self.remove_writer(number)
            os.close(number)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def create_server(
    protocol_factory: ProtocolFactory, listener: HandoffSocket, **options: Any
) -> asyncio.Server:
    """Serve on ``listener`` in the running loop, whichever selector loop it is.

    Args:
        protocol_factory: makes the server's protocol, once for each connection.
        listener: closed with the server.
        options: more of ``loop.create_server``'s; not ``ssl``.
    """
    loop = asyncio.get_running_loop()
    factory = _replaying(protocol_factory, listener)
    return await loop.create_server(factory, sock=listener, **options)


def _replaying(factory: ProtocolFactory, listener: HandoffSocket) -> ProtocolFactory:
    listener.gives_head_by_protocol = True
    return functools.partial(_Replay, factory, listener)


class _Replay(asyncio.Protocol):
    """Stands where the server's protocol will, until that one has the head."""

    def __init__(self, factory: ProtocolFactory, listener: HandoffSocket) -> None:
        self._factory = factory
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise AssertionError("a stream socket has a stream's transport")
        client = self._listener.clients.find_number(transport.get_extra_info("socket").fileno())
        inner = self._factory()
        transport.set_protocol(inner)
        inner.connection_made(transport)
        if client is None:
            raise AssertionError("what a listener has accepted it knows")
        _Patience(transport, client)
        _give(transport, client.take_early())


class _Patience:
    """Keeps a loop from asking a socket that cries wolf."""

    def __init__(self, transport: asyncio.Transport, client: ClientSocket) -> None:
        self._transport = transport
        self._client = client
        self._guard = SpinGuard()
        client.on_false_alarm = self._note

    def _note(self) -> None:
        if self._client.false_alarms == 1:
            self._guard = SpinGuard()
        pause = self._guard.pause_after(was_readable=True)
        if pause and not self._transport.is_closing():
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            loop.call_later(pause, self._transport.resume_reading)


def _give(transport: asyncio.Transport, data: bytes) -> None:
    """Give bytes to whichever protocol the transport has by now."""
    while data and not transport.is_closing():
        protocol = transport.get_protocol()
        if isinstance(protocol, asyncio.BufferedProtocol):
            room = protocol.get_buffer(len(data))
            taken = min(len(room), len(data))  # type: ignore[arg-type]
            memoryview(room)[:taken] = data[:taken]
            protocol.buffer_updated(taken)
            data = data[taken:]
        elif isinstance(protocol, asyncio.Protocol):
            protocol.data_received(data)
            return
        else:
            raise TypeError(f"expected a stream's protocol, got {protocol!r}")
