"""hypercorn on Trio, for connections that a gate hands over: ASGI and WSGI applications.

hypercorn's own loop makes Trio's streams of sockets; here each `ClientConnection` is
given to the same server class, with the request head to be read first. The server
learns by it that there is TLS, and applications what the gate said
(`ktlsgate.backend.request_facts`).

Needs hypercorn 0.16 or later, with its extra ``trio``.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import trio
from hypercorn.app_wrappers import ASGIWrapper, WSGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from .client_socket import InetAddress, inet_address, inet_family
from .middleware import AsgiApp, WsgiApp
from .raw_head import rebuild_head
from .request_facts import tell_asgi, tell_wsgi
from .serving import HandoffListener, serve_trio
from .trio_connection import ClientConnection

__all__ = ["serve_asgi", "serve_wsgi"]

_Until = Callable[[], Awaitable[object]]
_Wrap = Callable[[ClientConnection], Any]


async def serve_asgi(
    app: AsgiApp,
    listener: HandoffListener,
    *,
    until: _Until,
    config: Config | None = None,
) -> None:
    """Serve an ASGI application until told to end, then let running requests end.

    Args:
        app: the application; its lifespan is run.
        listener: closed at the end.
        until: returns when no more connections are to be taken.
        config: hypercorn's; ``graceful_timeout`` bounds the end, in seconds.
    """
    config = config or Config()
    state: dict[str, Any] = {}
    lifespan = Lifespan(ASGIWrapper(app), config, state)

    def wrap(connection: ClientConnection) -> Any:
        return ASGIWrapper(_telling_asgi(app, connection))

    async with trio.open_nursery() as background:
        await background.start(lifespan.handle_lifespan)
        # An application that returns from its lifespan early has no more to hear of it.
        with contextlib.suppress(trio.ClosedResourceError):
            await lifespan.wait_for_startup()
        await _serve(wrap, listener, until, config, state)
        with contextlib.suppress(trio.ClosedResourceError):
            await lifespan.wait_for_shutdown()
        background.cancel_scope.cancel()


async def serve_wsgi(
    app: WsgiApp,
    listener: HandoffListener,
    *,
    until: _Until,
    config: Config | None = None,
) -> None:
    """Serve a WSGI application, each request in a thread; arguments as of `serve_asgi`.

    A request's body is read whole before the application runs, up to
    ``config.wsgi_max_body_size`` (16 MiB).
    """
    config = config or Config()
    limit = config.wsgi_max_body_size

    def wrap(connection: ClientConnection) -> Any:
        return WSGIWrapper(_telling_wsgi(app, connection), limit)

    await _serve(wrap, listener, until, config, {})


def _telling_asgi(app: AsgiApp, connection: ClientConnection) -> AsgiApp:
    async def tell(scope: Any, receive: Any, send: Any) -> None:
        await app(tell_asgi(scope, connection.environ), receive, send)

    return tell


def _telling_wsgi(app: WsgiApp, connection: ClientConnection) -> WsgiApp:
    return lambda environ, start: app(tell_wsgi(environ, connection.environ), start)


async def _serve(
    wrap: _Wrap, listener: HandoffListener, until: _Until, config: Config, state: dict[str, Any]
) -> None:
    context = WorkerContext(None)

    async def handle(connection: ClientConnection) -> None:
        stream, own_state = _stream_of(connection), ConnectionState(state.copy())
        await TCPServer(wrap(connection), config, context, own_state, stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_trio, handle, listener)
        await until()
        await listener.aclose()
        await context.terminated.set()
        nursery.cancel_scope.deadline = trio.current_time() + config.graceful_timeout


@dataclass(frozen=True, slots=True)
class _Addresses:
    """As much of a socket as hypercorn asks for."""

    remote: InetAddress
    local: InetAddress

    @property
    def family(self) -> socket.AddressFamily:
        return inet_family(self.remote)

    def getpeername(self) -> InetAddress:
        return self.remote

    def getsockname(self) -> InetAddress:
        return self.local


class _Stream:
    """A connection as hypercorn reads and writes it: the head, then the client."""

    def __init__(self, connection: ClientConnection) -> None:
        environ = connection.environ
        local = inet_address(environ["SERVER_ADDR"], int(environ["SERVER_PORT"]))
        self.socket = _Addresses(inet_address(*connection.remote), local)
        self._connection = connection
        self._early = rebuild_head(connection.head)
        self.send_all = connection.send_all
        self.send_eof = connection.send_eof
        self.aclose = connection.aclose

    async def receive_some(self, max_bytes: int) -> bytes:
        if not self._early:
            return await self._connection.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        data, self._early = self._early[:max_bytes], self._early[max_bytes:]
        return data


class _TlsStream(_Stream):
    """The same for a server that tells TLS from plain by what a stream can do."""

    async def do_handshake(self) -> None:
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"

    @property
    def transport_stream(self) -> Self:
        return self


def _stream_of(connection: ClientConnection) -> _Stream:
    return _TlsStream(connection) if "HTTPS" in connection.environ else _Stream(connection)
