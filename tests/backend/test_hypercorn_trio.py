"""Applications on hypercorn and Trio; where it is not installed this is skipped."""

import pytest
import trio
from helpers.handoffs import hand_off, our_head, tcp_pair

from ktlsgate.backend.serving import HandoffListener
from ktlsgate.backend.unix_listener import bind_unix_listener

pytest.importorskip("hypercorn.trio.tcp_server", reason="hypercorn with Trio is not installed")
pytest.importorskip("hypercorn.typing", reason="hypercorn is not installed")

from hypercorn.config import Config

from ktlsgate.backend.hypercorn_trio import serve_asgi, serve_wsgi


class App:
    """An ASGI application that says what it is told, and when it begins and ends."""

    def __init__(self):
        self.log = []
        self.may_answer = trio.Event()
        self.may_answer.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{word}"
                self.log.append(word)
                await send({"type": f"lifespan.{word}.complete"})
            return
        self.log.append(scope)
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


class Server:
    """A running server: ``hand`` gives it a client."""

    def __init__(self, nursery, listener, start, app, **config):
        self.listener = listener
        self._ends = trio.Event()
        self._clients = []
        self.has_ended = trio.Event()
        self._config = Config()
        for name, value in config.items():
            setattr(self._config, name, value)
        nursery.start_soon(self._run, start, app)

    async def _run(self, start, app):
        await start(app, self.listener, until=self._ends.wait, config=self._config)
        self.has_ended.set()
        for client in self._clients:
            client.socket.close()

    def end(self):
        self._ends.set()

    async def hand(self, **changes):
        client, server = tcp_pair()
        hand_off(self.listener.address, our_head(**changes), server).close()
        client.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
        self._clients.append(stream)
        return stream


@pytest.fixture
def listener(tmp_path):
    return HandoffListener(bind_unix_listener(str(tmp_path / "s")))


async def read_to_end(stream):
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def test_application_is_told_what_the_gate_said_and_answers(listener):
    app = App()
    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_asgi, app)
        names = {"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3", "HTTP_CONNECTION": "close"}
        client = await server.hand(**names, HTTP_HOST="example.org")
        answer = await read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"hello" in answer
        server.end()
        await server.has_ended.wait()
    begun, scope, ended = app.log
    assert (begun, ended) == ("startup", "shutdown")
    assert (scope["scheme"], scope["path"], scope["query_string"]) == ("https", "/x", b"y=1")
    assert scope["client"] == ("192.0.2.7", 40000)
    assert scope["server"] == ("192.0.2.1", 443)
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304
    assert (b"host", b"example.org") in scope["headers"]


async def test_plain_connection_is_http(listener):
    app = App()
    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_asgi, app)
        client = await server.hand(HTTP_HOST="a", HTTP_CONNECTION="close")
        await read_to_end(client)
        server.end()
    assert app.log[1]["scheme"] == "http"
    assert "tls" not in app.log[1]["extensions"]


async def test_running_request_ends_and_idle_connection_is_closed_at_the_end(listener):
    app = App()
    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_asgi, app)
        idle = await server.hand(HTTP_HOST="a")
        answer = b""
        while b"hello" not in answer:
            answer += await idle.receive_some()
        app.may_answer = trio.Event()
        running = await server.hand(HTTP_HOST="a")
        while len(app.log) < 3:
            await trio.sleep(0)
        server.end()
        await read_to_end(idle)
        assert not server.has_ended.is_set()
        app.may_answer.set()
        assert b"hello" in await read_to_end(running)
        await server.has_ended.wait()


async def test_request_that_takes_too_long_is_cut_at_the_end(listener):
    app = App()
    app.may_answer = trio.Event()
    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_asgi, app, graceful_timeout=0.01)
        client = await server.hand(HTTP_HOST="a")
        while len(app.log) < 2:
            await trio.sleep(0)
        server.end()
        assert await read_to_end(client) == b""
        await server.has_ended.wait()
    assert app.log[-1] == "shutdown"


async def test_application_that_leaves_its_lifespan_early_is_served(listener):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_asgi, app)
        client = await server.hand(HTTP_HOST="a", HTTP_CONNECTION="close")
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 204 ")
        server.end()


async def test_wsgi_application_is_told_what_the_gate_said(listener):
    def app(environ, start_response):
        start_response("200 OK", [])
        names = ("wsgi.url_scheme", "REMOTE_PORT", "SSL_PROTOCOL", "HTTP_HOST")
        return [" ".join(environ[name] for name in names).encode()]

    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_wsgi, app)
        names = {"HTTPS": "on", "SSL_PROTOCOL": "TLSv1.2", "HTTP_CONNECTION": "close"}
        client = await server.hand(**names, HTTP_HOST="a")
        assert b"https 40000 TLSv1.2 a" in await read_to_end(client)
        server.end()


async def test_request_head_may_be_longer_than_one_read(listener):
    app = App()
    async with trio.open_nursery() as nursery:
        server = Server(nursery, listener, serve_asgi, app, h11_max_incomplete_size=1 << 20)
        client = await server.hand(HTTP_HOST="a", HTTP_CONNECTION="close", HTTP_X="x" * 100_000)
        assert b"hello" in await read_to_end(client)
        server.end()
    assert (b"x", b"x" * 100_000) in app.log[1]["headers"]
