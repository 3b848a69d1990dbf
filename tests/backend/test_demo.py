"""The demo backend, over connections handed to it as a gate does."""

import contextlib
import hashlib
import socket

import pytest
import trio
from helpers.handoffs import hand_off, our_head, tcp_pair

from ktlsgate.backend import demo
from ktlsgate.backend.demo_app import DemoApp
from ktlsgate.backend.demo_file import BLOCK_SIZE, generate
from ktlsgate.backend.demo_http import build_head
from ktlsgate.backend.serving import HandoffListener, serve_trio
from ktlsgate.backend.unix_listener import bind_unix_listener


@contextlib.asynccontextmanager
async def serving(tmp_path):
    """A running demo; gives the function that opens a client to it."""
    listener = HandoffListener(bind_unix_listener(str(tmp_path / "demo")))
    streams = []

    def open_client(target="/", method="GET", keepalive="own", **names):
        client, server = tcp_pair()
        head = our_head(
            "plain", keepalive, REQUEST_METHOD=method, REQUEST_URI=target, HTTP_HOST="h", **names
        )
        with hand_off(listener.address, head, server):
            pass
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
        streams.append(stream)
        return Client(stream)

    async with trio.open_nursery() as nursery:
        with contextlib.closing(DemoApp()) as app:
            try:
                await nursery.start(serve_trio, app.serve, listener)
                yield open_client
            finally:
                with trio.CancelScope(shield=True):
                    await listener.aclose()
                    for stream in streams:
                        await stream.aclose()
                nursery.cancel_scope.cancel()


class Client:
    """A client's end: what it sends, and the responses that it reads."""

    def __init__(self, stream):
        self.stream = stream
        self.send = stream.send_all
        self._data = b""

    async def exactly(self, size):
        while len(self._data) < size:
            await self._read_more()
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def response(self, *, has_body=True):
        """Read one response: its status, its headers in lower case, its body."""
        while b"\r\n\r\n" not in self._data:
            await self._read_more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
        wanted = int(headers.get("content-length", "0")) if has_body else 0
        return int(first.split()[1]), headers, await self.exactly(wanted)

    async def is_at_end(self):
        return not self._data and await self.stream.receive_some() == b""

    async def _read_more(self):
        piece = await self.stream.receive_some()
        assert piece, self._data
        self._data += piece


async def test_the_front_page_shows_what_was_handed_over(tmp_path):
    async with serving(tmp_path) as open_client:
        status, headers, body = await open_client("/", HTTP_X_TEST="a b").response()
    assert status == 200
    assert headers["content-type"] == "text/plain; charset=utf-8"
    lines = body.decode().splitlines()
    assert lines[:8] == [
        "ktlsgate demo backend",
        "",
        "mode: plain",
        "keepalive: own",
        "tls: none",
        "kernel encrypts: no",
        "kernel decrypts: no",
        "client: 192.0.2.7 port 40000",
    ]
    assert "HTTP_X_TEST=a b" in lines
    assert "KTLSGATE_MODE=plain" in lines


async def test_the_front_page_in_html_escapes_what_the_client_sent(tmp_path):
    async with serving(tmp_path) as open_client:
        client = open_client("/", HTTP_ACCEPT="text/html", HTTP_X="<script>&")
        _, headers, body = await client.response()
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert b"<script>" not in body
    assert b"<td>&lt;script&gt;&amp;</td>" in body


async def test_later_requests_come_over_the_same_connection(tmp_path):
    async with serving(tmp_path) as open_client:
        client = open_client("/slow?ms=0")
        assert (await client.response())[2] == b"slept 0 ms\n"
        await client.send(b"GET /slow?ms=1 HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
        assert (await client.response())[2] == b"slept 1 ms\n"
        assert (await client.response())[2] == b"slept 1 ms\n"


async def test_a_single_connection_is_ended_after_one_response(tmp_path):
    async with serving(tmp_path) as open_client:
        client = open_client("/slow?ms=0", keepalive="single")
        await client.send(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n")
        _, headers, body = await client.response()
        assert headers["connection"] == "close"
        assert body == b"slept 0 ms\n"
        assert await client.is_at_end()


async def test_a_large_file_has_the_hash_that_is_told(tmp_path):
    size = 3 * BLOCK_SIZE + 17
    async with serving(tmp_path) as open_client:
        client = open_client(f"/big?size={size}")
        _, headers, body = await client.response()
        assert headers["content-length"] == str(size)
        assert body == b"".join(generate(0, size))
        await client.send(b"GET /big.sha256?size=%d HTTP/1.1\r\nHost: h\r\n\r\n" % size)
        _, _, digest = await client.response()
    assert digest.decode() == hashlib.sha256(body).hexdigest() + "\n"


async def test_head_of_a_large_file_sends_no_body(tmp_path):
    async with serving(tmp_path) as open_client:
        client = open_client("/big?size=2K", "HEAD")
        status, headers, _ = await client.response(has_body=False)
        assert (status, headers["content-length"]) == (200, "2048")
        await client.send(b"GET /slow?ms=0 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[2] == b"slept 0 ms\n"


@pytest.mark.parametrize("keepalive", ["own", "single"])
async def test_a_body_of_ten_megabytes_is_hashed(tmp_path, keepalive):
    body = b"0123456789" * 1_000_000
    async with serving(tmp_path) as open_client:
        client = open_client("/sha256", "POST", keepalive, HTTP_CONTENT_LENGTH=str(len(body)))
        await client.send(body)
        _, _, answer = await client.response()
    assert answer.decode() == f"{hashlib.sha256(body).hexdigest()} {len(body)}\n"


@pytest.mark.parametrize("keepalive", ["own", "single"])
async def test_a_chunked_body_is_said_back(tmp_path, keepalive):
    async with serving(tmp_path) as open_client:
        client = open_client("/echo", "POST", keepalive, HTTP_TRANSFER_ENCODING="chunked")
        await client.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert (await client.response())[2] == b"abcde"


async def test_a_client_that_waits_for_100_continue_gets_it(tmp_path):
    async with serving(tmp_path) as open_client:
        names = {"HTTP_EXPECT": "100-continue", "HTTP_CONTENT_LENGTH": "3"}
        client = open_client("/echo", "POST", **names)
        assert (await client.response())[0] == 100
        await client.send(b"abc")
        assert (await client.response())[2] == b"abc"


@pytest.mark.parametrize(
    ("target", "method", "status", "text"),
    [
        ("/none", "GET", 404, "404 no such path\n"),
        ("/echo", "GET", 405, "405 not for this method\n"),
        ("/ws", "GET", 426, "426 this path speaks WebSocket\n"),
        ("/slow?ms=x", "GET", 400, "400 expected ms from 0 to 60000\n"),
        (
            "/big?size=1T",
            "GET",
            400,
            "400 expected a size from 0 to 8589934592, K, M or G behind it or not\n",
        ),
    ],
)
async def test_a_request_that_cannot_be_answered_gets_an_error(
    tmp_path, target, method, status, text
):
    async with serving(tmp_path) as open_client:
        client = open_client(target, method)
        answered, headers, body = await client.response()
        assert (answered, body.decode()) == (status, text)
        assert headers["connection"] == "close"
        assert await client.is_at_end()


async def test_a_malformed_later_request_gets_400(tmp_path):
    async with serving(tmp_path) as open_client:
        client = open_client("/slow?ms=0")
        await client.response()
        await client.send(b"nonsense\r\n\r\n")
        assert (await client.response())[0] == 400


UPGRADE = {
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("keepalive", ["own", "single"])
async def test_a_websocket_echoes_text_data_and_pings_until_it_is_closed(tmp_path, keepalive):
    """Frames by hand, masked with zeros (RFC 6455 section 5.2)."""
    async with serving(tmp_path) as open_client:
        client = open_client("/ws", keepalive=keepalive, **UPGRADE)
        status, headers, _ = await client.response()
        assert (status, headers["upgrade"].lower()) == (101, "websocket")
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        for opcode, payload, answer in (
            (b"\x81", "häh".encode(), b"\x81"),
            (b"\x82", b"\0\1", b"\x82"),
            (b"\x01", b"first piece", b"\x01"),
            (b"\x80", b"last piece", b"\x80"),
            (b"\x89", b"ping", b"\x8a"),
            (b"\x88", b"\x03\xe8", b"\x88"),
        ):
            await client.send(opcode + bytes((0x80 | len(payload),)) + bytes(4) + payload)
            expected = answer + bytes((len(payload),)) + payload
            assert await client.exactly(len(expected)) == expected
        assert await client.is_at_end()


async def test_an_upgrade_without_a_key_gets_400(tmp_path):
    names = {name: value for name, value in UPGRADE.items() if not name.endswith("_KEY")}
    async with serving(tmp_path) as open_client:
        status, _, body = await open_client("/ws", **names).response()
    assert (status, body) == (400, b"400 Missing header, 'Sec-WebSocket-Key'\n")


async def test_an_upgrade_on_a_later_request_keeps_what_was_sent_behind_it(tmp_path):
    async with serving(tmp_path) as open_client:
        client = open_client("/slow?ms=0")
        await client.response()
        ping = b"\x89\x81\0\0\0\0p"
        lines = b"".join(
            b"%b: %b\r\n" % (name[5:].replace("_", "-").encode(), value.encode())
            for name, value in UPGRADE.items()
        )
        await client.send(b"GET /ws HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n" + ping)
        assert (await client.response())[0] == 101
        assert await client.exactly(3) == b"\x8a\x01p"


async def test_a_client_that_leaves_in_the_middle_harms_nobody_else(tmp_path):
    async with serving(tmp_path) as open_client:
        gone = open_client("/big?size=64M")
        gone.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await gone.exactly(1)
        await gone.stream.aclose()
        assert (await open_client("/slow?ms=0").response())[0] == 200


def test_the_first_head_is_built_again():
    environ = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/a?b",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "HTTP_HOST": "h",
        "HTTP_X_LATIN": "\xe9",
        "HTTPS": "on",
    }
    assert build_head(environ) == b"GET /a?b HTTP/1.0\r\nHost: h\r\nX-Latin: \xe9\r\n\r\n"


def test_a_taken_address_ends_the_program_with_one_sentence(tmp_path):
    path = str(tmp_path / "taken")
    with bind_unix_listener(path), pytest.raises(SystemExit) as caught:
        demo.main(["--socket", path])
    assert str(caught.value) == f"{path}: expected a free address, got one that somebody listens on"


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wsproto", None)
    for name in [name for name in sys.modules if name.startswith("ktlsgate.backend.demo_")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as caught:
        demo.main(["--socket", "/nowhere"])
    assert str(caught.value) == "the demo needs wsproto: pip install 'ktlsgate[demo]'"
