"""Accepting: limits, shortages, and sessions that outlive the accepting."""

import contextlib
import errno
import logging
import socket

import pytest
import trio
import trio.testing
from helpers.descriptors import no_descriptor_left
from helpers.sessions import (
    REQUEST,
    close,
    make_context,
    open_backend,
    open_fibers,
    read_all,
    stream,
)

from ktlsgate.gate.listener import Gatekeeper, serve_listener
from ktlsgate.gate.report import Event


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


async def connect(listener):
    return await trio.open_tcp_stream(*listener.getsockname())


@contextlib.asynccontextmanager
async def serving(*listeners, context, gatekeeper):
    """Serve on listeners; afterwards stop accepting, and wait for the sessions."""
    async with open_fibers() as fibers:
        async with trio.open_nursery() as accepting:
            for one in listeners:
                accepting.start_soon(serve_listener, one, context, gatekeeper, fibers)
            yield
            accepting.cancel_scope.cancel()
        await gatekeeper.wait_empty()
    for one in listeners:
        trio.lowlevel.notify_closing(one)


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


async def test_every_accepted_connection_is_one_report_with_a_number_of_its_own(listener):
    reports = []
    context = make_context(tls=False, report=reports.append)
    gatekeeper = Gatekeeper(100)
    async with serving(listener, context=context, gatekeeper=gatekeeper):
        for data in (b"", b"GET / HT", b"garbage\r\n\r\n", REQUEST):
            client = await connect(listener)
            await client.send_all(data)
            await client.send_eof()
            await read_all(client)
            await client.aclose()
    assert [report.id for report in reports] == [1, 2, 3, 4]
    assert [report.event for report in reports] == [
        Event.CLIENT_GONE, Event.CLIENT_GONE, Event.REFUSED, Event.BACKEND_FAILED,
    ]  # fmt: skip
    metrics = context.metrics
    assert (metrics.accepted, metrics.held, gatekeeper.held) == (4, 0, 0)
    assert sum(metrics.outcomes.values()) == 4


async def test_a_full_gate_waits_and_says_so_once(listener, caplog):
    context, gatekeeper = make_context(tls=False), Gatekeeper(4)
    async with serving(listener, context=context, gatekeeper=gatekeeper):
        clients = [await connect(listener) for _ in range(12)]
        for index, client in enumerate(clients):
            await trio.testing.wait_all_tasks_blocked()
            # The next one waits in the kernel's queue until one leaves.
            assert gatekeeper.held == min(4, 12 - index)
            await client.aclose()
        while gatekeeper.held:
            await trio.lowlevel.checkpoint()
        assert context.metrics.accepted == 12
    assert messages(caplog) == ["full: 4 connections held, the next ones wait"]


async def test_room_wakes_every_listener_that_waits(caplog):
    """Two listeners wait for the same room: neither may sleep for ever."""
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        for one in pair:
            one.setblocking(False)
        context, gatekeeper = make_context(tls=False), Gatekeeper(1)
        async with serving(*pair, context=context, gatekeeper=gatekeeper):
            first = await connect(pair[0])
            await trio.testing.wait_all_tasks_blocked()
            waiting = [await connect(one) for one in pair]
            await trio.testing.wait_all_tasks_blocked()
            assert gatekeeper.held == 1
            await first.aclose()
            for client in waiting:
                await client.aclose()
            with trio.fail_after(5):
                while context.metrics.accepted < 3 or gatekeeper.held:
                    await trio.lowlevel.checkpoint()


async def test_without_descriptors_the_gate_pauses_and_recovers(listener, caplog):
    context, gatekeeper = make_context(tls=False), Gatekeeper(100)
    async with serving(listener, context=context, gatekeeper=gatekeeper):
        client = socket.socket()
        client.setblocking(False)
        # Trio's own descriptors are there; only accept() needs a new one.
        await trio.testing.wait_all_tasks_blocked()
        with no_descriptor_left():
            with contextlib.suppress(BlockingIOError):
                client.connect(listener.getsockname())
            with trio.move_on_after(0.35):  # longer than three pauses
                await trio.sleep_forever()
            assert context.metrics.accepted == 0
        raw = stream(client)
        await raw.send_all(b"\x00\r\n\r\n")
        assert (await read_all(raw)).startswith(b"HTTP/1.1 400 ")
        await raw.aclose()
    assert messages(caplog) == ["cannot accept: Too many open files; trying again"]


class FakeListener:
    """A listener whose accept fails as told, and then has nothing."""

    def __init__(self, sock, *codes):
        self._sock, self.codes = sock, list(codes)

    def fileno(self):
        return self._sock.fileno()

    def accept(self):
        if self.codes:
            code = self.codes.pop(0)
            raise OSError(code, errno.errorcode[code])
        return self._sock.accept()


GONE = [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EHOSTUNREACH, errno.ENETDOWN]


async def test_connections_that_died_in_the_queue_are_passed_over(listener, caplog):
    context, gatekeeper = make_context(tls=False), Gatekeeper(100)
    fake = FakeListener(listener, *GONE)
    async with serving(fake, context=context, gatekeeper=gatekeeper):
        client = await connect(listener)
        await client.send_all(b"\x00\r\n\r\n")
        assert (await read_all(client)).startswith(b"HTTP/1.1 400 ")
        await client.aclose()
    assert fake.codes == []
    assert messages(caplog) == []


@pytest.mark.parametrize("code", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_of_the_machine_is_waited_out(listener, caplog, code, autojump_clock):
    context, gatekeeper = make_context(tls=False), Gatekeeper(100)
    fake = FakeListener(listener, *[code] * 5)
    began = trio.current_time()
    async with serving(fake, context=context, gatekeeper=gatekeeper):
        client = await connect(listener)
        await client.send_all(b"\x00\r\n\r\n")
        assert (await client.receive_some(9)) == b"HTTP/1.1 "
        assert trio.current_time() - began == pytest.approx(0.5)
        await client.aclose()
    assert messages(caplog) == [f"cannot accept: {errno.errorcode[code]}; trying again"]


async def test_a_listener_that_is_none_any_more_is_a_crash_and_no_spin(listener):
    fake = FakeListener(listener, errno.EINVAL)
    client = await connect(listener)
    async with open_fibers() as fibers:
        with pytest.raises(OSError, match="EINVAL"):
            await serve_listener(fake, make_context(tls=False), Gatekeeper(1), fibers)
    await client.aclose()
    trio.lowlevel.notify_closing(listener)


async def test_sessions_outlive_the_accepting(listener, tmp_path):
    reports = []
    with open_backend(tmp_path) as backend:
        context = make_context(backend.address, tls=False, report=reports.append)
        async with serving(listener, context=context, gatekeeper=Gatekeeper(10)):
            client = await connect(listener)
            await trio.testing.wait_all_tasks_blocked()
            sent = trio.Event()

            async def send_later():
                await sent.wait()
                await client.send_all(REQUEST)
                await backend.take()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_later)
                sent.set()
        await client.aclose()
    assert [report.event for report in reports] == [Event.HANDOFF]


async def test_an_answer_in_progress_is_waited_for(listener, autojump_clock):
    reports = []
    context = make_context(tls=False, report=reports.append)
    began = trio.current_time()
    async with serving(listener, context=context, gatekeeper=Gatekeeper(10)):
        client = await connect(listener)
        await client.send_all(b"\x00\r\n\r\n")
        assert (await read_all(client)).startswith(b"HTTP/1.1 400 ")
        assert reports == []
    assert trio.current_time() - began == pytest.approx(1)  # as long as the client may read
    assert [report.event for report in reports] == [Event.REFUSED]
    await client.aclose()


async def test_wait_empty_returns_when_the_last_one_left():
    gatekeeper = Gatekeeper(10)
    await gatekeeper.wait_empty()
    gatekeeper.held = 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gatekeeper.wait_empty)
        await trio.testing.wait_all_tasks_blocked()
        gatekeeper.leave()
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        gatekeeper.leave()


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.WARNING, logger="ktlsgate")


async def test_accepted_sockets_have_nodelay_from_their_listener(tmp_path):
    from ktlsgate.kernel.sockets import bind_listeners

    (bound,) = bind_listeners("127.0.0.1:0", 10)
    with open_backend(tmp_path) as backend:
        context = make_context(backend.address, tls=False)
        async with serving(bound, context=context, gatekeeper=Gatekeeper(10)):
            client = await connect(bound)
            await client.send_all(REQUEST)
            _, sock, _ = await backend.take()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await client.aclose()
    close(bound)
