"""A server's socket on a real kTLS connection: records and ends, and data that no end loses."""

import asyncio
import contextlib
import errno
import select
import socket
import threading

import pytest
from helpers.flavours import received
from helpers.handoffs import our_head
from helpers.ktls import TLS13, ktls_pair, room_for

from ktlsgate.backend.aio import HandoffEventLoop
from ktlsgate.backend.client_socket import ClientSocket
from ktlsgate.wire.messages import CLOSE_NOTIFY

pytestmark = pytest.mark.ktls

ALERT, DATA, HANDSHAKE = 21, 23, 22
KEY_UPDATE = b"\x18\x00\x00\x01\x00"
HEAD = b"GET /x?y=1 HTTP/1.1\r\n\r\n"
# Step of a write and size of the send buffer: some fill it in the middle of a last record.
BUFFERS = [(step, size) for step in (5000, 16384, 65536) for size in (200_000, 233_333)]


@contextlib.contextmanager
def connected(sndbuf=0):
    """A server's socket in mode BOTH, its head already read, and the client."""
    with ktls_pair(TLS13) as (sock, peer):
        descriptor = socket.socket(fileno=sock.detach())
        descriptor.setblocking(False)
        if sndbuf:
            descriptor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        head = our_head("both", HTTPS="on", SSL_PROTOCOL="TLSv1.3")
        with ClientSocket(received(head, descriptor)) as server:
            server.settimeout(10)
            assert server.recv(1000) == HEAD
            peer.sock.settimeout(10)
            yield server, peer


class Reader(threading.Thread):
    """A client that begins to read when told, and notes how much came and how it ended."""

    def __init__(self, peer):
        super().__init__(daemon=True)
        self.peer, self.may_begin = peer, threading.Event()
        self.size, self.end = 0, None

    def run(self):
        self.may_begin.wait()
        try:
            while True:
                content_type, data = self.peer.recv()
                if content_type != DATA:
                    self.end = content_type, data
                    return
                self.size += len(data)
        except (AssertionError, OSError) as exc:
            self.end = repr(exc)


def test_data_and_ends_are_those_of_the_records():
    with connected() as (server, peer):
        assert (server.is_ktls_tx, server.is_ktls_rx) == (True, True)
        peer.send(b"data")
        assert server.recv(10) == b"data"
        peer.send(CLOSE_NOTIFY, ALERT)
        assert [server.recv(10), server.recv(10)] == [b"", b""]
        server.sendall(b"answer")
        assert peer.recv() == (DATA, b"answer")


def test_end_without_close_notify_is_a_reset_connection():
    with connected() as (server, peer):
        peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError, match="ended without close_notify") as caught:
            server.recv(10)
        assert caught.value.errno == errno.ECONNRESET


def test_key_update_that_cannot_be_followed_is_a_reset_connection():
    with connected() as (server, peer):
        peer.send(KEY_UPDATE, HANDSHAKE)
        with pytest.raises(ConnectionResetError, match="KeyUpdate"):
            server.recv(10)


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_end_is_a_close_notify(how):
    with connected() as (server, peer):
        server.sendall(b"answer")
        server.close() if how == "close" else server.shutdown(socket.SHUT_WR)
        assert peer.recv() == (DATA, b"answer")
        assert peer.recv() == (ALERT, CLOSE_NOTIFY)
        assert peer.sock.recv(1) == b""


@pytest.mark.parametrize(("step", "sndbuf"), BUFFERS)
def test_server_that_does_not_wait_ends_when_all_was_admitted_and_loses_nothing(step, sndbuf):
    """As event loops do: send until EAGAIN, wait for POLLOUT, close behind the last byte."""
    size = room_for(step, sndbuf)
    with connected(sndbuf) as (server, peer):
        reader = Reader(peer)
        reader.start()
        server.setblocking(False)
        left = memoryview(bytes(size))
        poll = select.poll()
        poll.register(server.fileno(), select.POLLOUT)
        while left:
            try:
                left = left[server.send(left[:step]) :]
            except BlockingIOError:
                reader.may_begin.set()
                assert poll.poll(10_000)
        reader.may_begin.set()
        server.close()
        reader.join(20)
        assert (reader.size, reader.end) == (size, (ALERT, CLOSE_NOTIFY))


@pytest.mark.parametrize(("step", "sndbuf"), BUFFERS)
@pytest.mark.parametrize("by", ["write", "sendfile"])
def test_asyncio_ends_when_all_was_sent_and_loses_nothing(tmp_path, by, step, sndbuf):
    path, size = tmp_path / "file", room_for(step, sndbuf)
    path.write_bytes(bytes(size))

    async def main(server):
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, server)
        loop.call_later(0.1, reader.may_begin.set)
        if by == "write":
            for start in range(0, size, step):
                transport.write(bytes(min(step, size - start)))
        else:
            with path.open("rb") as file:
                assert await loop.sendfile(transport, file, 0, size) == size
        transport.close()
        while server.fileno() != -1:
            await asyncio.sleep(0.01)

    with connected(sndbuf) as (server, peer):
        reader = Reader(peer)
        reader.start()
        with asyncio.Runner(loop_factory=HandoffEventLoop) as runner:
            runner.run(asyncio.wait_for(main(server), 20))
        reader.join(20)
        assert (reader.size, reader.end) == (size, (ALERT, CLOSE_NOTIFY))
