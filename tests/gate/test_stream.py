"""Raw sockets on Trio: try first, wait only when the kernel says so."""

import socket

import pytest
import trio
import trio.testing
from helpers.fibers import Steps, fill
from helpers.sessions import close, reset

from ktlsgate.gate.stream import peek, recv, recv_exactly, send_all


async def test_recv_returns_what_is_there_without_a_wait(pair):
    client, server = pair
    client.send(b"abc")
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    assert await recv(server, 100) == b"abc"
    assert steps.count == 0


async def test_recv_waits_for_the_first_byte_and_tells_the_end(pair):
    client, server = pair
    async with trio.open_nursery() as nursery:

        async def later():
            await trio.testing.wait_all_tasks_blocked()
            client.send(b"abc")

        nursery.start_soon(later)
        assert await recv(server, 2) == b"ab"
    assert await recv(server, 2) == b"c"
    client.shutdown(socket.SHUT_WR)
    assert await recv(server, 2) == b""


async def test_peek_leaves_the_bytes_in_the_socket(pair):
    client, server = pair
    client.send(b"abc")
    assert await peek(server, 2) == b"ab"
    assert await peek(server, 100) == b"abc"
    assert await recv(server, 100) == b"abc"


async def test_recv_exactly_joins_pieces(pair):
    client, server = pair
    async with trio.open_nursery() as nursery:

        async def drip():
            for byte in b"abcde":
                await trio.testing.wait_all_tasks_blocked()
                client.send(bytes((byte,)))

        nursery.start_soon(drip)
        assert await recv_exactly(server, 4) == b"abcd"


async def test_recv_exactly_raises_when_the_stream_ends_inside(pair):
    client, server = pair
    client.send(b"ab")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError, match="stream ended inside"):
        await recv_exactly(server, 4)


async def test_a_reset_is_an_oserror(pair):
    client, server = pair
    reset(client)
    with pytest.raises(ConnectionResetError):
        await recv(server, 1)


async def test_i6_a_cancelled_recv_takes_nothing(pair):
    client, server = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await recv(server, 100)
    client.send(b"abc")
    assert server.recv(100) == b"abc"
    close(server)


async def test_send_all_waits_for_a_slow_reader(pair):
    client, server = pair
    data = bytes(range(256)) * 40_000
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, server, data)
        await trio.testing.wait_all_tasks_blocked()
        while len(got) < len(data):
            got += await recv(client, 100_000)
    assert got == data


async def test_send_all_to_nobody_raises(pair):
    client, server = pair
    reset(client)
    with pytest.raises(ConnectionError):
        await send_all(server, b"x")
        await send_all(server, b"x")


async def test_send_all_of_nothing_waits_for_no_room(pair):
    fill(pair[1])
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await send_all(pair[1], b"")
    assert steps.count == 0
    trio.lowlevel.remove_instrument(steps)


class FalseAlarms:
    """A socket that Linux 6.1 calls readable while half a record is there."""

    def __init__(self, sock, alarms):
        self._sock, self.alarms = sock, alarms

    def fileno(self):
        return self._sock.fileno()

    def recv(self, size, flags):
        if self.alarms:
            self.alarms -= 1
            raise BlockingIOError
        return self._sock.recv(size, flags)


async def test_false_alarms_are_answered_by_growing_pauses(pair, autojump_clock):
    """A client that sends half a record must not cost 100 % CPU."""
    client, server = pair
    client.send(b"x")
    began = trio.current_time()
    assert await recv(FalseAlarms(server, 10), 1) == b"x"
    # 5, 10, 20, 40, 80 ms, then 100 ms each: nine pauses, the first try is free.
    assert trio.current_time() - began == pytest.approx(0.155 + 4 * 0.1)
