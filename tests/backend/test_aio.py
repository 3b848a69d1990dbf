"""asyncio servers on handed-over connections: the head comes first, and nothing spins."""

import asyncio
import contextlib
import select
import socket

import pytest
from helpers.flavours import received
from helpers.handoffs import hand_off, our_head, tcp_pair

from ktlsgate.backend import aio
from ktlsgate.backend.aio import HandoffEventLoop
from ktlsgate.backend.client_socket import ClientSocket
from ktlsgate.backend.handoff_socket import HandoffSocket

HEAD = b"GET /x?y=1 HTTP/1.1\r\n\r\n"
WAIT = 10


class Recorder(asyncio.Protocol):
    """Keeps what it is told; the future is done when the client has ended."""

    def __init__(self, log):
        self.log = log
        self.ended = asyncio.get_running_loop().create_future()
        log.append(self)
        self.told = []

    def connection_made(self, transport):
        self.transport = transport
        self.told.append(("made", transport.get_extra_info("peername")))

    def data_received(self, data):
        self.told.append(("data", bytes(data)))

    def eof_received(self):
        self.told.append(("eof",))

    def connection_lost(self, exc):
        self.told.append(("lost", exc))
        self.ended.set_result(None)


class Buffered(asyncio.BufferedProtocol):
    """The same by a small buffer of its own."""

    def __init__(self, log):
        self.ended = asyncio.get_running_loop().create_future()
        log.append(self)
        self.room, self.told = bytearray(8), []

    def get_buffer(self, _sizehint):
        return self.room

    def buffer_updated(self, size):
        self.told.append(bytes(self.room[:size]))

    def connection_lost(self, exc):
        self.ended.set_result(None)


class Replaced(asyncio.Protocol):
    """Gives the connection to another protocol as soon as it has it."""

    def __init__(self, log):
        self.log = log

    def connection_made(self, transport):
        other = Recorder(self.log)
        transport.set_protocol(other)
        other.connection_made(transport)


def run(main, tmp_path, *, loop_factory=HandoffEventLoop):
    """Run ``main(listener)`` in a loop, and see that no callback failed."""
    failures = []

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
        with HandoffSocket.bound(str(tmp_path / "s")) as listener:
            await asyncio.wait_for(main(listener), WAIT)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())
    assert failures == []


def hand(listener, **changes):
    client, server = tcp_pair()
    hand_off(listener.address, our_head(**changes), server).close()
    return client


async def accepted(log):
    """The protocol of the first connection."""
    while not log:
        await asyncio.sleep(0)
    return log[0]


@contextlib.asynccontextmanager
async def serving(listener, kind, log):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: kind(log), sock=listener)
    async with server:
        yield server


@pytest.mark.parametrize("kind", [Recorder, Replaced])
def test_protocol_gets_the_head_then_the_client_then_the_end(tmp_path, kind):
    async def main(listener):
        log = []
        async with serving(listener, kind, log):
            with hand(listener) as client:
                client.sendall(b"body")
                client.shutdown(socket.SHUT_WR)
                recorder = await accepted(log)
                await recorder.ended
                assert recorder.told == [
                    ("made", ("192.0.2.7", 40000)),
                    ("data", HEAD),
                    ("data", b"body"),
                    ("eof",),
                    ("lost", None),
                ]

    run(main, tmp_path)


def test_protocol_with_a_buffer_gets_the_head_in_pieces(tmp_path):
    async def main(listener):
        log = []
        async with serving(listener, Buffered, log):
            with hand(listener) as client:
                buffered = await accepted(log)
                client.close()
                await buffered.ended
                assert b"".join(buffered.told) == HEAD
                assert max(map(len, buffered.told)) == 8

    run(main, tmp_path)


def test_streams_work_and_answers_reach_the_client(tmp_path):
    async def serve(reader, writer):
        writer.write(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4))
        await writer.drain()
        writer.close()

    async def main(listener):
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(serve, sock=listener)
        async with server:
            with hand(listener) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, b"body")
                answer = b""
                while data := await loop.sock_recv(client, 1000):
                    answer += data
                assert answer == HEAD + b"body"

    run(main, tmp_path)


def test_any_selector_loop_serves_by_create_server(tmp_path):
    async def main(listener):
        log = []
        async with await aio.create_server(lambda: Recorder(log), listener):
            with hand(listener) as client:
                recorder = await accepted(log)
                client.close()
                await recorder.ended
                assert recorder.told[1] == ("data", HEAD)

    run(main, tmp_path, loop_factory=asyncio.SelectorEventLoop)


def test_other_sockets_are_served_as_ever(tmp_path):
    async def main(_listener):
        loop, log = asyncio.get_running_loop(), []
        server = await loop.create_server(lambda: Recorder(log), "127.0.0.1", 0)
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                client.sendall(b"x")
                recorder = await accepted(log)
            await recorder.ended
            assert recorder.told[1] == ("data", b"x")

    run(main, tmp_path)


def test_end_of_the_server_is_told_by_close(tmp_path):
    async def main(listener):
        log = []
        async with serving(listener, Recorder, log):
            with hand(listener) as client:
                recorder = await accepted(log)
                recorder.transport.write(b"bye")
                recorder.transport.close()
                await recorder.ended
                assert client.recv(10) == b"bye"
                assert client.recv(10) == b""

    run(main, tmp_path)


def test_file_is_sent_by_the_loop(tmp_path):
    async def main(listener):
        loop, log = asyncio.get_running_loop(), []
        path = tmp_path / "file"
        path.write_bytes(b"0123456789")
        async with serving(listener, Recorder, log):
            with hand(listener) as client, path.open("rb") as file:
                recorder = await accepted(log)
                assert await loop.sendfile(recorder.transport, file, 2, 5) == 5
                assert client.recv(10) == b"23456"

    run(main, tmp_path)


def test_connection_with_a_request_that_is_not_ours_does_not_spin(tmp_path):
    """Keep-alive ``single``: the second request stays in the kernel, so the socket stays readable."""

    async def main(listener):
        log = []
        async with serving(listener, Recorder, log):
            with hand(listener, keepalive="single") as client:
                client.sendall(b"GET /second HTTP/1.1\r\n\r\n")
                recorder = await accepted(log)
                sock = listener.clients.find_number(
                    recorder.transport.get_extra_info("socket").fileno()
                )
                await asyncio.sleep(0.2)
                assert select.select([sock], [], [], 0)[0]
                assert 2 < sock.false_alarms < 20
                assert recorder.told[1:] == [
                    ("data", HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                ]
                recorder.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await recorder.ended
                assert recorder.told[2:] == [("eof",), ("lost", None)]

    run(main, tmp_path)


def test_room_is_waited_for_on_a_number_of_its_own():
    """The loop refuses to watch a number that a transport has."""

    async def main():
        client, server = tcp_pair()
        with client, ClientSocket(received(our_head(), server)) as sock:
            sock.take_early()
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop._wait_for_room(sock.fileno()), WAIT)

    with asyncio.Runner(loop_factory=HandoffEventLoop) as runner:
        runner.run(main())
