"""Which servers take connections from a gate unmodified, and what each of them can do.

One table: the tests do what it says works, and the README shows it with the reasons.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

CHECKS = ("get", "post", "answer", "keepalive", "websocket", "disconnect", "tls")
_HEADINGS = (
    "GET",
    "10 MB POST",
    "10 MB answer",
    "keep-alive",
    "WebSocket",
    "sees the client go",
    "is told of TLS",
)

_WSGI = "WSGI has none"
_BY_WRITING = "only by writing"
_NO_PORT = "tells no client port"


@dataclass(frozen=True)
class Server:
    """One server; ``cannot`` names what it does not do, and why."""

    name: str
    shown: str
    modules: tuple[str, ...] = ()
    change: str = ""
    cannot: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # it works, but
    takes_tx: bool = False  # reads by Trio's connection object, which knows every mode

    @property
    def missing(self) -> str:
        """The first module that it lacks, empty when all are there."""
        return next((name for name in self.modules if not importlib.util.find_spec(name)), "")

    @property
    def works(self) -> list[str]:
        return [check for check in CHECKS if check not in self.cannot]


_ASGI_LOOP = '`loop="ktlsgate.backend.aio:HandoffEventLoop"`, `sockets=[listener]`'
_WSGI_CANNOT = {"websocket": _WSGI}
_WSGI_NOTES = {"disconnect": _BY_WRITING}

SERVERS = [
    Server(
        "hypercorn-trio", "hypercorn, Trio", ("hypercorn", "wsproto"), "`ktlsgate serve module:app`",
        takes_tx=True,
    ),
    Server(
        "hypercorn-trio-wsgi", "hypercorn, WSGI", ("hypercorn",), "`ktlsgate serve module:app`",
        cannot=_WSGI_CANNOT | {"disconnect": "its thread is not told"}, notes={"post": "16 MiB at most"},
        takes_tx=True,
    ),
    Server("serve-uvicorn", "uvicorn", ("uvicorn", "wsproto"), "`ktlsgate serve --server uvicorn`"),
    Server("uvicorn-h11", "uvicorn, h11", ("uvicorn", "wsproto"), _ASGI_LOOP),
    Server("uvicorn-httptools", "uvicorn, httptools", ("uvicorn", "httptools", "wsproto"), _ASGI_LOOP),
    Server(
        "hypercorn-asyncio", "hypercorn, asyncio", ("hypercorn", "wsproto"),
        "`Runner(loop_factory=HandoffEventLoop)`, `Sockets([], [listener], [])`",
    ),
    Server("aiohttp", "aiohttp", ("aiohttp",), "`run_app(app, sock=listener, loop=HandoffEventLoop())`"),
    Server(
        "websockets", "websockets", ("websockets",), "`serve(handler, sock=listener)` in such a loop",
        cannot=dict.fromkeys(("get", "post", "answer", "keepalive", "tls"), "WebSocket only"),
    ),
    Server(
        "asyncio-streams", "asyncio's streams", (), "`start_server(serve, sock=listener)` in such a loop",
        cannot={"websocket": "no HTTP of its own", "tls": "nobody to tell"},
    ),
    Server(
        "gunicorn-sync", "gunicorn, sync", ("gunicorn",),
        "`worker.sockets = [HandoffSocket.adopting(s.sock) for s in worker.sockets]` in `post_fork`",
        cannot=_WSGI_CANNOT, notes=_WSGI_NOTES,
    ),
    Server("gunicorn-gthread", "gunicorn, gthread", ("gunicorn",), "the same", cannot=_WSGI_CANNOT, notes=_WSGI_NOTES),
    Server(
        "waitress", "waitress", ("waitress",),
        "`create_server(app, sockets=[listener])`, listener with `shown_as=`",
        cannot=_WSGI_CANNOT, notes=_WSGI_NOTES,
    ),
    Server(
        "cheroot", "cheroot", ("cheroot",), "`bind` of the server sets `self.socket = listener`",
        cannot=_WSGI_CANNOT, notes=_WSGI_NOTES,
    ),
    Server(
        "wsgiref", "wsgiref, `http.server`, `socketserver`", (), "`server.socket = listener`",
        cannot=_WSGI_CANNOT | {"keepalive": "HTTP/1.0", "tls": _NO_PORT}, notes=_WSGI_NOTES,
    ),
    Server(
        "django", "Django's runserver", ("django",), "`server.socket = listener`",
        cannot=_WSGI_CANNOT | {"tls": _NO_PORT}, notes=_WSGI_NOTES,
    ),
]  # fmt: skip


def table() -> str:
    """The table as the README has it."""
    rows = [("server", "the change", *_HEADINGS)]
    rows += [
        (server.shown, server.change, *(_cell(server, check) for check in CHECKS))
        for server in SERVERS
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _cell(server: Server, check: str) -> str:
    if check in server.cannot:
        return f"no: {server.cannot[check]}"
    return f"yes, {server.notes[check]}" if check in server.notes else "yes"
