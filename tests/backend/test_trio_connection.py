"""What only the Trio flavour has: Trio's own contract of a stream."""

import contextlib
import io
import itertools
import socket

import pytest
import trio
import trio.testing
from helpers.flavours import received
from helpers.handoffs import our_head, tcp_pair

from ktlsgate.backend.trio_connection import ClientConnection


def connection(head=None, pair=None):
    """A client's socket, non-blocking, and a connection to it."""
    client, descriptor = pair or tcp_pair()
    client.setblocking(False)
    return client, ClientConnection(received(head or our_head(), descriptor))


async def make_pair():
    near, far = socket.socketpair()  # unlike TCP's, its buffers have an exact end
    return tuple(ClientConnection(received(our_head(), sock)) for sock in (near, far))


async def make_clogged_pair():
    near, far = await make_pair()
    for stream in (near, far):
        with contextlib.suppress(BlockingIOError):
            while True:
                stream._core.send(b"x")
    return near, far


def test_it_is_a_stream_as_trio_wants_it():
    """With this Trio's own idea of exception groups: its check depends on it."""
    trio.run(trio.testing.check_half_closeable_stream, make_pair, make_clogged_pair)


async def test_a_second_task_in_one_direction_is_refused():
    client, stream = connection()
    with client:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError) as caught:
                await stream.receive_some()
            assert str(caught.value) == "another task is reading from this connection"
            await stream.send_all(b"the other direction is free")
            nursery.cancel_scope.cancel()


async def test_closing_wakes_a_reader_in_another_task():
    client, stream = connection()
    with client:
        async with trio.open_nursery() as nursery:

            async def read():
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()


async def test_closing_wakes_a_reader_of_the_unix_connection():
    gate, unix = socket.socketpair()
    client, descriptor = tcp_pair()
    stream = ClientConnection(received(our_head("tx"), descriptor, unix))
    with client, gate:
        async with trio.open_nursery() as nursery:

            async def read():
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()


async def test_a_cancelled_close_closes_and_leaves_a_cut():
    gate, unix = socket.socketpair()
    client, descriptor = socket.socketpair()
    stream = ClientConnection(received(our_head("relay"), descriptor, unix))
    with client, gate:
        await trio.aclose_forcefully(stream)
        assert stream.fileno() == -1
        assert client.recv(1) == b""
        assert gate.recv(1) == b"", "FINISHED would have called the data complete"


async def test_leaving_the_block_by_an_exception_leaves_a_cut():
    gate, unix = socket.socketpair()
    client, descriptor = socket.socketpair()
    with client, gate:
        with pytest.raises(RuntimeError, match="a bug"):
            async with ClientConnection(received(our_head("relay"), descriptor, unix)):
                raise RuntimeError("a bug")
        assert gate.recv(1) == b""


async def test_a_cancelled_read_loses_no_data():
    client, stream = connection()
    with client:
        async with stream:
            client.send(b"data")
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_some()
            assert scope.cancelled_caught
            assert await stream.receive_some() == b"data"


async def test_a_long_file_lets_other_tasks_run(tmp_path):
    (tmp_path / "f").write_bytes(bytes(8 << 20))
    client, stream = connection()
    turns = []
    with io.FileIO(tmp_path / "f") as file, client:
        async with stream, trio.open_nursery() as nursery:

            async def read():
                sock = trio.socket.from_stdlib_socket(client)
                while await sock.recv(1 << 20):
                    turns.append(1)

            nursery.start_soon(read)
            assert await stream.sendfile(file) == 8 << 20
            assert len(turns) > 4
            await stream.send_eof()


class AlwaysReadable:
    """A core on which poll is wrong, as on Linux 6.1 with half a record."""

    def __init__(self, core, times):
        self.look_again = float("inf")
        self.read_socket = core.write_socket  # has data, so it is readable
        self.is_closed = False
        self.tries = []
        self._times = times

    def receive(self, size, now):
        self.tries.append(trio.current_time())
        if len(self.tries) <= self._times:
            raise BlockingIOError
        return b"data"


async def test_a_reader_does_not_spin_on_half_a_record(autojump_clock):
    client, stream = connection()
    client.send(b"x")
    real, stream._core = stream._core, AlwaysReadable(stream._core, 8)
    assert await stream.receive_some() == b"data"
    times = stream._core.tries
    pauses = [round(b - a, 3) for a, b in itertools.pairwise(times)]
    assert pauses == [0, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1]
    stream._core = real
    await stream.aclose()
    client.close()


async def test_a_reader_looks_again_where_poll_may_hide_a_record(autojump_clock):
    client, stream = connection(our_head("both"))
    assert stream._core.look_again == 15.0
    with trio.move_on_after(100) as scope, trio.testing.assert_checkpoints():
        await stream.receive_some()
    assert scope.cancelled_caught
    stream.abort()
    client.close()
