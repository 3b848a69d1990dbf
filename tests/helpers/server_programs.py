"""Servers that know nothing of handoffs, each as a process of its own: NAME SOCKET.

Each function is what a user has, but for the line that makes the listener. The
applications, one for ASGI and one for WSGI, do the same by these paths:

    /            text: scheme, client's address, TLS version, one line each
    /hash        size and SHA-256 of the request's body
    /big?n=      n bytes of one letter
    /hold        answers nothing; says "disconnected" on standard output when the client leaves
    /echo        WebSocket: every message back
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import socketserver
import sys
import time
import urllib.parse

PIECE = b"x" * 65_536


def say(text):
    print(text, flush=True)


def _query(text):
    return dict(urllib.parse.parse_qsl(text))


# The applications ------------------------------------------------------------------------


async def asgi_app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "websocket":
        return await _asgi_echo(receive, send)
    if scope["path"] == "/hold":
        while (await receive())["type"] != "http.disconnect":
            pass
        return say("disconnected")
    pieces = _PAGES[scope["path"]]
    body = await _asgi_body(receive) if scope["path"] == "/hash" else (0, "")
    headers, chunks = pieces(_asgi_facts(scope), body, _query(scope["query_string"].decode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    return await send({"type": "http.response.body", "body": b""})


async def _asgi_echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
    say("disconnected")


async def _asgi_body(receive):
    seen, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        piece = message.get("body", b"")
        seen.update(piece)
        size += len(piece)
        if not message.get("more_body"):
            return size, seen.hexdigest()


def _asgi_facts(scope):
    tls = scope.get("extensions", {}).get("tls", {})
    return scope["scheme"], scope["client"], tls.get("tls_version")


def wsgi_app(environ, start_response):
    body = 0, ""
    if environ["PATH_INFO"] == "/hash":
        body = _wsgi_body(environ)
    client = environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")
    facts = environ["wsgi.url_scheme"], client, environ.get("SSL_PROTOCOL")
    if environ["PATH_INFO"] == "/hold":
        return _wsgi_hold(start_response)
    page = _PAGES[environ["PATH_INFO"]]
    headers, chunks = page(facts, body, _query(environ["QUERY_STRING"]))
    start_response("200 OK", [(name.decode(), value.decode()) for name, value in headers])
    return chunks


def _wsgi_body(environ):
    seen, size, left = hashlib.sha256(), 0, int(environ["CONTENT_LENGTH"])
    while left and (piece := environ["wsgi.input"].read(min(left, 65_536))):
        seen.update(piece)
        size += len(piece)
        left -= len(piece)
    return size, seen.hexdigest()


def _wsgi_hold(start_response):
    """A WSGI application learns by writing, or never."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        while True:
            yield PIECE
            time.sleep(0.01)
    finally:
        say("disconnected")


def _text(data):
    head = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(data))]
    return head, [data]


def _front(facts, _body, _query):
    scheme, client, version = facts
    return _text(f"{scheme}\n{client[0]} {client[1]}\n{version}\n".encode())


def _hash(_facts, body, _query):
    return _text(f"{body[0]} {body[1]}".encode())


def _big(_facts, _body, query):
    size = int(query["n"])
    pieces = (PIECE[: min(len(PIECE), size - at)] for at in range(0, size, len(PIECE)))
    return [(b"content-length", b"%d" % size)], pieces


_PAGES = {"/": _front, "/hash": _hash, "/big": _big}


# The servers -----------------------------------------------------------------------------


def _listener(path):
    from ktlsgate.backend.handoff_socket import HandoffSocket

    return HandoffSocket.bound(path, shown_as=("127.0.0.1", 443))


def _told_asgi(listener):
    from ktlsgate.backend.middleware import HandoffAsgi

    return HandoffAsgi(asgi_app, listener)


def _told_wsgi(listener):
    from ktlsgate.backend.middleware import HandoffWsgi

    return HandoffWsgi(wsgi_app, listener)


def run_wsgiref(path):
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), WSGIRequestHandler)
    server.socket.close()
    server.socket = _listener(path)
    server.set_app(_told_wsgi(server.socket))
    say("ready")
    server.serve_forever()


def run_cheroot(path):
    from cheroot.wsgi import Server

    listener = _listener(path)

    class HandoffServer(Server):
        def bind(self, *_):
            self.socket = listener

    server = HandoffServer(("127.0.0.1", 0), _told_wsgi(listener))
    server.prepare()
    say("ready")
    server.serve()


def _run_gunicorn(path, worker_class):
    from gunicorn.app.base import BaseApplication

    from ktlsgate.backend.handoff_socket import HandoffSocket

    def post_fork(_server, worker):
        worker.sockets = [HandoffSocket.adopting(one.sock) for one in worker.sockets]
        listeners.extend(worker.sockets)

    listeners = []

    class Application(BaseApplication):
        def load_config(self):
            options = {
                "bind": f"unix:{path}", "worker_class": worker_class, "threads": 4, "workers": 1,
                "post_fork": post_fork, "post_worker_init": lambda _worker: say("ready"),
                "keepalive": 5, "worker_tmp_dir": None, "control_socket_disable": True,
            }  # fmt: skip
            for name, value in options.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self):
            return _told_wsgi(listeners[0])

    Application().run()


def run_gunicorn_sync(path):
    _run_gunicorn(path, "sync")


def run_gunicorn_gthread(path):
    _run_gunicorn(path, "gthread")


def run_waitress(path):
    import waitress.server

    listener = _listener(path)
    server = waitress.server.create_server(_told_wsgi(listener), sockets=[listener])
    say("ready")
    server.run()


def run_django(path):
    import django
    from django.conf import settings
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
    django.setup()
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.socket.close()
    server.socket = _listener(path)
    server.set_app(_told_wsgi(server.socket))
    say("ready")
    server.serve_forever()


def _run_serve(path, *arguments):
    from ktlsgate.service.cli import main as ktlsgate

    class Ready(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("taking handoffs"):
                say("ready")

    logging.getLogger("ktlsgate.backend").addHandler(Ready())
    sys.exit(ktlsgate(["serve", *arguments, "--socket", path]))


def run_hypercorn_trio(path):
    _run_serve(path, "server_programs:asgi_app")


def run_hypercorn_trio_wsgi(path):
    _run_serve(path, "server_programs:wsgi_app")


def run_serve_uvicorn(path):
    _run_serve(path, "server_programs:asgi_app", "--server", "uvicorn")


def run_asyncio_streams(path):
    """What every asyncio server is made of, with nothing but the standard library."""
    from ktlsgate.backend.aio import HandoffEventLoop

    async def serve(reader, writer):
        try:
            while head := await _read_head(reader):
                target, length = head
                url = urllib.parse.urlsplit(target)
                if url.path == "/hold":
                    return say("disconnected" if not await reader.read(1) else "more")
                body = await reader.readexactly(length)
                page = _PAGES[url.path]
                client = writer.get_extra_info("peername")
                digest = len(body), hashlib.sha256(body).hexdigest()
                headers, chunks = page(("http", client, None), digest, _query(url.query))
                lines = [name + b": " + value for name, value in headers]
                writer.write(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]))
                for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
        except ConnectionError:
            say("disconnected")
        finally:
            writer.close()

    async def main():
        async with await asyncio.start_server(serve, sock=_listener(path)) as server:
            say("ready")
            await server.serve_forever()

    with asyncio.Runner(loop_factory=HandoffEventLoop) as runner:
        runner.run(main())


async def _read_head(reader):
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    except asyncio.IncompleteReadError:
        return None
    fields = dict(line.lower().split(": ", 1) for line in lines[1:-1])
    return lines[0].split(" ")[1], int(fields.get("content-length", 0))


def _run_uvicorn(path, http):
    from uvicorn import Config, Server

    listener = _listener(path)
    config = Config(
        _told_asgi(listener), http=http, loop="ktlsgate.backend.aio:HandoffEventLoop", ws="auto",
        log_level="warning", timeout_graceful_shutdown=1,
    )  # fmt: skip
    say("ready")
    Server(config).run(sockets=[listener])


def run_uvicorn_h11(path):
    _run_uvicorn(path, "h11")


def run_uvicorn_httptools(path):
    _run_uvicorn(path, "httptools")


def run_hypercorn_asyncio(path):
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.asyncio.run import worker_serve
    from hypercorn.config import Config, Sockets

    from ktlsgate.backend.aio import HandoffEventLoop

    config = Config()
    config.graceful_timeout = 1
    listener = _listener(path)
    serving = worker_serve(
        ASGIWrapper(_told_asgi(listener)), config, sockets=Sockets([], [listener], [])
    )
    say("ready")
    with asyncio.Runner(loop_factory=HandoffEventLoop) as runner:
        runner.run(serving)


def run_aiohttp(path):
    from aiohttp import WSMsgType, web

    from ktlsgate.backend.aio import HandoffEventLoop

    async def page(request):
        body = 0, ""
        if request.path == "/hash":
            seen, size = hashlib.sha256(), 0
            async for piece in request.content.iter_any():
                seen.update(piece)
                size += len(piece)
            body = size, seen.hexdigest()
        client = request.transport.get_extra_info("peername")
        said = listener.clients.find(client)
        facts = said["REQUEST_SCHEME"], client, said.get("SSL_PROTOCOL")
        headers, chunks = _PAGES[request.path](facts, body, request.query)
        headers = {name.decode(): value.decode() for name, value in headers}
        answer = web.StreamResponse(headers=headers)
        await answer.prepare(request)
        for chunk in chunks:
            await answer.write(chunk)
        return answer

    async def hold(_request):
        try:
            await asyncio.sleep(60)
        finally:
            say("disconnected")

    async def echo(request):
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        async for message in websocket:
            if message.type == WSMsgType.BINARY:
                await websocket.send_bytes(message.data)
        say("disconnected")
        return websocket

    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/hold", hold)
    app.router.add_get("/echo", echo)
    app.router.add_route("*", "/{tail:.*}", page)
    listener = _listener(path)
    say("ready")
    web.run_app(app, sock=listener, loop=HandoffEventLoop(), print=None, handler_cancellation=True)


def run_websockets(path):
    from websockets.asyncio.server import serve

    from ktlsgate.backend.aio import HandoffEventLoop

    async def echo(websocket):
        try:
            async for message in websocket:
                await websocket.send(message)
        finally:
            say("disconnected")

    async def main():
        async with serve(echo, sock=_listener(path)) as server:
            say("ready")
            await server.serve_forever()

    with asyncio.Runner(loop_factory=HandoffEventLoop) as runner:
        runner.run(main())


def main(name, path):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    globals()[f"run_{name.replace('-', '_')}"](path)


if __name__ == "__main__":
    main(*sys.argv[1:])
