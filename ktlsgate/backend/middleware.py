"""Middleware that tells applications of TLS, on servers that accept by a `HandoffSocket`.

::

    app = HandoffAsgi(app, listener)       app = HandoffWsgi(app, listener)

Which connection a request is on is found by the addresses that the server tells
(`ktlsgate.backend.known_clients`), under WSGI also by the socket where the server
gives it away. A request of which neither is told (wsgiref and what is made of it, such as
Django's runserver, tell no port) is passed on as it is: it says ``http``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from .client_socket import ClientSocket
from .handoff_socket import HandoffSocket
from .request_facts import tell_asgi, tell_wsgi

__all__ = ["AsgiApp", "HandoffAsgi", "HandoffWsgi", "WsgiApp"]

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
AsgiApp = Callable[[_Scope, _Receive, _Send], Awaitable[None]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# Where gunicorn and Werkzeug put the client's socket.
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


class HandoffAsgi:
    """Tell an ASGI application of its connections.

    Args (of the constructor):
        app: the application.
        listener: where the server accepts.
    """

    def __init__(self, app: AsgiApp, listener: HandoffSocket) -> None:
        self._app = app
        self._clients = listener.clients

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Run the application for one connection or request."""
        client, server = scope.get("client"), scope.get("server")
        if client:
            local = (server[0], server[1]) if server else None
            facts = self._clients.find((client[0], client[1]), local)
            if facts is not None:
                scope = tell_asgi(scope, facts)
        await self._app(scope, receive, send)


class HandoffWsgi:
    """Tell a WSGI application of its connections; arguments as of `HandoffAsgi`."""

    def __init__(self, app: WsgiApp, listener: HandoffSocket) -> None:
        self._app = app
        self._clients = listener.clients

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Run the application for one request."""
        facts = self._find(environ)
        if facts is not None:
            environ = tell_wsgi(environ, facts)
        return self._app(environ, start_response)

    def _find(self, environ: Mapping[str, Any]) -> Mapping[str, str] | None:
        for name in _SOCKETS:
            sock = environ.get(name)
            if isinstance(sock, ClientSocket):
                return sock.environ
        port = str(environ.get("REMOTE_PORT", ""))
        if not port.isdecimal():
            return None
        return self._clients.find((environ["REMOTE_ADDR"], int(port)))
