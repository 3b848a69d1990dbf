"""The demo application: a few paths that exercise a handed-over connection.

======================= ====================================================
``/``                   what the handoff said and what the kernel says
``/big?size=100M``      a large file by sendfile; the same bytes every time
``/big.sha256?size=``   the SHA-256 of those bytes
``/echo``  (POST)       the body, said back
``/sha256`` (POST)      the body's SHA-256 and its length
``/ws``                 a WebSocket that echoes
``/slow?ms=100``        an answer that takes its time
======================= ====================================================
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

import h11
import trio
from wsproto.utilities import RemoteProtocolError as WebSocketError

from ..errors import RemoteProtocolError
from .demo_file import BigFile
from .demo_http import HttpConnection
from .demo_pages import front_page
from .demo_websocket import echo_websocket
from .trio_connection import ClientConnection

__all__ = ["DemoApp"]

_MAX_ECHO = 64 << 20
_MAX_SIZE = 8 << 30
_MAX_SLOW = 60_000
_IDLE = 75.0  # seconds between requests; nginx's keepalive_timeout
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_Answer = Callable[[HttpConnection, dict[str, str]], Awaitable[None]]


class _Refused(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = list(headers.items())


class DemoApp:
    """Answer the requests of handed-over connections; `serve` is the handler."""

    def __init__(self) -> None:
        self._file = BigFile()
        self._answers: dict[str, tuple[tuple[bytes, ...], _Answer]] = {
            "/": ((b"GET", b"HEAD"), self._front),
            "/big": ((b"GET", b"HEAD"), self._big),
            "/big.sha256": ((b"GET", b"HEAD"), self._big_hash),
            "/echo": ((b"POST", b"PUT"), self._echo),
            "/sha256": ((b"POST", b"PUT"), self._hash),
            "/slow": ((b"GET", b"HEAD"), self._slow),
        }

    def close(self) -> None:
        """Give up the large file."""
        self._file.close()

    async def serve(self, stream: ClientConnection) -> None:
        """Answer every request of one connection. Cancellation breaks the answer off.

        A client that goes away, or breaks the protocol, ends it quietly.
        """
        http = HttpConnection(stream)
        try:
            while await self._serve_request(http):
                pass
        except h11.RemoteProtocolError as exc:
            if http.can_answer:
                await _refuse(http, _Refused(exc.error_status_hint, str(exc)))
        except (RemoteProtocolError, WebSocketError, trio.BrokenResourceError):
            stream.abort()

    async def _serve_request(self, http: HttpConnection) -> bool:
        request = None
        with trio.move_on_after(_IDLE):
            request = await http.next_request()
        if request is None:
            return False
        target = urlsplit(request.target.decode("latin-1"))
        if target.path == "/ws" and _header(request, b"upgrade").lower() == "websocket":
            return await self._websocket(http, request)
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        try:
            await self._choose(target.path, request.method)(http, query)
        except _Refused as exc:
            return await _refuse(http, exc)
        return await http.end()

    def _choose(self, path: str, method: bytes) -> _Answer:
        if path == "/ws":
            raise _Refused(426, "this path speaks WebSocket", Upgrade="websocket")
        if path not in self._answers:
            raise _Refused(404, "no such path")
        methods, answer = self._answers[path]
        if method not in methods:
            raise _Refused(405, "not for this method", Allow=b", ".join(methods).decode())
        return answer

    async def _websocket(self, http: HttpConnection, request: h11.Request) -> bool:
        try:
            await echo_websocket(http.stream, request, http.trailing_data)
        except WebSocketError as exc:
            if request.method != b"GET" or not _header(request, b"sec-websocket-key"):
                return await _refuse(http, _Refused(400, str(exc)))
            raise
        return False

    async def _front(self, http: HttpConnection, _: dict[str, str]) -> None:
        request = http.request
        accept = _header(request, b"accept") if request else ""
        content_type, page = front_page(http.stream, accept)
        await _answer(http, page.encode(), content_type=content_type)

    async def _big(self, http: HttpConnection, query: dict[str, str]) -> None:
        size = _size(query)
        await self._file.grow(size)
        await http.begin(200, _headers(size, "application/octet-stream"))
        await http.send_file(self._file.fileno(), size)

    async def _big_hash(self, http: HttpConnection, query: dict[str, str]) -> None:
        digest = await self._file.hash(_size(query))
        await _answer(http, f"{digest}\n".encode())

    async def _echo(self, http: HttpConnection, _: dict[str, str]) -> None:
        body = bytearray()
        while piece := await http.read_body():
            body += piece
            if len(body) > _MAX_ECHO:
                raise _Refused(413, f"expected at most {_MAX_ECHO} bytes")
        await _answer(http, bytes(body), content_type="application/octet-stream")

    async def _hash(self, http: HttpConnection, _: dict[str, str]) -> None:
        digest, length = hashlib.sha256(), 0
        while piece := await http.read_body():
            digest.update(piece)
            length += len(piece)
        await _answer(http, f"{digest.hexdigest()} {length}\n".encode())

    async def _slow(self, http: HttpConnection, query: dict[str, str]) -> None:
        delay = query.get("ms", "1000")
        if not re.fullmatch(r"[0-9]{1,5}", delay) or int(delay) > _MAX_SLOW:
            raise _Refused(400, f"expected ms from 0 to {_MAX_SLOW}")
        await trio.sleep(int(delay) / 1000)
        await _answer(http, f"slept {int(delay)} ms\n".encode())


def _size(query: dict[str, str]) -> int:
    found = re.fullmatch(r"([0-9]{1,12})([KMG]?)", query.get("size", "100M").upper())
    size = int(found[1]) * _UNITS[found[2]] if found else -1
    if not 0 <= size <= _MAX_SIZE:
        raise _Refused(400, f"expected a size from 0 to {_MAX_SIZE}, K, M or G behind it or not")
    return size


def _header(request: h11.Request, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in request.headers if key == name), "")


def _headers(size: int, content_type: str) -> list[tuple[str, str]]:
    return [("Content-Type", content_type), ("Content-Length", str(size))]


async def _answer(
    http: HttpConnection, body: bytes, content_type: str = "text/plain; charset=utf-8"
) -> None:
    await http.begin(200, _headers(len(body), content_type))
    await http.send_body(body)


async def _refuse(http: HttpConnection, refusal: _Refused) -> bool:
    """Send an error and end the connection: what follows may be a body nobody wants."""
    body = f"{refusal.status} {refusal}\n".encode()
    headers = _headers(len(body), "text/plain; charset=utf-8") + refusal.headers
    if http.stream.keepalive != "single":
        headers.append(("Connection", "close"))
    await http.begin(refusal.status, headers)
    await http.send_body(body)
    return await http.end()
