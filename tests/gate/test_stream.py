"""Raw sockets in fibers: try first, wait only when the kernel says so."""

import socket

import pytest
import trio
import trio.testing
from helpers.fibers import fill, settled
from helpers.sessions import close, in_fiber, open_fibers, reset

from ktlsgate.gate.stream import peek, recv, recv_exactly, send_all


async def test_recv_returns_what_is_there_without_a_wait(pair):
    client, server = pair
    client.send(b"abc")
    log = []

    async def job():
        log.append(await recv(server, 100))

    async with open_fibers() as fibers:
        fibers.start(job())
        assert log == [b"abc"]


async def test_recv_waits_for_the_first_byte_and_tells_the_end(pair):
    client, server = pair
    async with trio.open_nursery() as nursery:

        async def later():
            await trio.testing.wait_all_tasks_blocked()
            client.send(b"abc")

        nursery.start_soon(later)
        assert await in_fiber(recv, server, 2) == b"ab"
    assert await in_fiber(recv, server, 2) == b"c"
    client.shutdown(socket.SHUT_WR)
    assert await in_fiber(recv, server, 2) == b""


async def test_peek_leaves_the_bytes_in_the_socket(pair):
    client, server = pair
    client.send(b"abc")
    assert await in_fiber(peek, server, 2) == b"ab"
    assert await in_fiber(peek, server, 100) == b"abc"
    assert await in_fiber(recv, server, 100) == b"abc"


async def test_recv_exactly_joins_pieces(pair):
    client, server = pair
    async with trio.open_nursery() as nursery:

        async def drip():
            for byte in b"abcde":
                await trio.testing.wait_all_tasks_blocked()
                client.send(bytes((byte,)))

        nursery.start_soon(drip)
        assert await in_fiber(recv_exactly, server, 4) == b"abcd"


async def test_recv_exactly_raises_when_the_stream_ends_inside(pair):
    client, server = pair
    client.send(b"ab")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError, match="stream ended inside"):
        await in_fiber(recv_exactly, server, 4)


async def test_a_reset_is_an_oserror(pair):
    client, server = pair
    reset(client)
    with pytest.raises(ConnectionResetError):
        await in_fiber(recv, server, 1)


async def test_i6_a_cancelled_recv_takes_nothing(pair):
    client, server = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await in_fiber(recv, server, 100)
    client.send(b"abc")
    assert server.recv(100) == b"abc"
    close(server)


async def test_send_all_waits_for_a_slow_reader(pair):
    client, server = pair
    data = bytes(range(256)) * 40_000
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_fiber, send_all, server, data)
        await trio.testing.wait_all_tasks_blocked()
        while len(got) < len(data):
            got += await in_fiber(recv, client, 100_000)
    assert got == data


async def test_send_all_to_nobody_raises(pair):
    client, server = pair
    reset(client)
    with pytest.raises(ConnectionError):
        await in_fiber(send_all, server, b"x")
        await in_fiber(send_all, server, b"x")


async def test_send_all_of_nothing_waits_for_no_room(pair):
    fill(pair[1])
    log = []

    async def job():
        await send_all(pair[1], b"")
        log.append("sent")

    async with open_fibers() as fibers:
        fibers.start(job())
        assert log == ["sent"]


class FalseAlarms:
    """A socket that Linux 6.1 calls readable while half a record is there."""

    def __init__(self, sock, alarms):
        self._sock, self.alarms, self.tries = sock, alarms, 0

    def fileno(self):
        return self._sock.fileno()

    def recv(self, size, flags):
        self.tries += 1
        if self.tries <= self.alarms:
            raise BlockingIOError
        return self._sock.recv(size, flags)


async def test_false_alarms_cost_one_try_for_each_time_that_something_came(pair):
    """A client that sends half a record must not cost 100 % CPU."""
    client, server = pair
    sock, log = FalseAlarms(server, 10), []

    async def job():
        log.append(await recv(sock, 100))

    client.send(b"x")
    async with open_fibers() as fibers:
        fibers.start(job())
        for tries in range(2, 11):  # the first try was free
            await settled()
            assert sock.tries == tries
            client.send(b"x")
        await settled()
        assert log == [b"x" * 10]
