"""Bytes through the gate: integrity, back-pressure, and how every end is told."""

import contextlib
import functools
import gc
import hashlib
import math
import os
import socket
import ssl

import pytest
import trio
import trio.testing
from helpers.fibers import drain, fill
from helpers.hand_client import hand_made_pair
from helpers.sessions import (
    close,
    epoll_targets,
    in_fiber,
    open_fibers,
    own_descriptors,
    read_all,
    read_exactly,
    relayed_pair,
    reset,
    stream,
)

from ktlsgate.gate.fibers import sleep, this_fiber
from ktlsgate.gate.flow import Flow
from ktlsgate.gate.relay_both import BothRelay
from ktlsgate.gate.relay_input import InputRelay
from ktlsgate.wire.handoff import FINISHED, RECEIVED
from ktlsgate.wire.record_layer import RecordLayer

CUT = b"cut"


class Ends:
    """What surrounds a relay: the client, the backend's data socket and Unix connection."""

    def __init__(self, tls, raw, data, unix):
        self.tls, self.raw, self.data, self.unix = tls, raw, data, unix
        self.end = self.crash = None
        self.may_crash = False
        self.done = trio.Event()
        self.scope = trio.CancelScope()

    def verdict(self):
        """How the receiver's input ended, as far as the Unix connection tells."""
        if self.unix.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return CUT
        return b"clean"

    def close_backend(self):
        for sock in (self.unix, getattr(self.data, "socket", None)):
            if sock is not None and sock.fileno() >= 0:
                close(sock)


async def run_relay(make, ends):
    """Make and start a relay in a fiber that ends then, and wait for the relay's end."""
    over = trio.Event()

    def on_end(end, error):
        ends.crash = error if isinstance(error, Exception) else None
        if ends.crash and not ends.may_crash:
            raise ends.crash
        assert not over.is_set()
        ends.end = end
        over.set()

    handlers = []

    async def start():
        handlers.append(this_fiber().fibers.handlers)
        make().start(on_end)

    with ends.scope:
        async with open_fibers() as fibers:
            fibers.start(start())
            await over.wait()
    assert over.is_set()
    assert handlers[0].of == {}, "a descriptor's next owner would meet a dead relay"


@contextlib.asynccontextmanager
async def open_relay(
    mode, *, trailing=b"", idle_timeout=600, has_verdicts=True, small=False, kernel_sends=False
):
    """Run a relay between an SSLStream and two socketpairs; waits for its end."""
    kernel_sends = kernel_sends or mode == "tx"
    client, tls = await relayed_pair(kernel_sends=kernel_sends, small=small)
    unix, theirs = socket.socketpair()
    sockets = [unix, theirs]
    data = None
    terms = {"idle_timeout": idle_timeout, "has_verdicts": has_verdicts}
    if mode == "both":
        ours, far = socket.socketpair()
        sockets += [ours, far]
        data = stream(far)
    for sock in sockets:
        sock.setblocking(False)
    ends = Ends(tls, tls.transport_stream, data, theirs)

    if mode == "both":
        make = functools.partial(BothRelay, client, ours, unix, trailing, **terms)
    else:
        make = functools.partial(InputRelay, client, unix, trailing, **terms)

    async def run():
        await run_relay(make, ends)
        assert unix.fileno() == -1
        assert mode == "tx" or ours.fileno() == -1
        close(client.sock)
        ends.done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield ends
        await ends.done.wait()
    ends.close_backend()
    await trio.aclose_forcefully(tls)


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    before = own_descriptors()
    yield
    assert own_descriptors() == before


async def send_finished(ends):
    ends.unix.send(FINISHED)
    await ends.data.send_eof()


async def say_goodbye(ends):
    """Send close_notify and nothing else; the stream stays open."""
    with contextlib.suppress(ssl.SSLWantReadError):
        ends.tls._ssl_object.unwrap()
    await ends.raw.send_all(ends.tls._outgoing.read())


# --- mode RELAY ----------------------------------------------------------------------


async def test_trailing_data_goes_first():
    async with open_relay("both", trailing=b"first ") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"second")
        assert await read_exactly(ends.data, 12) == b"first second"
        await send_finished(ends)
        await ends.tls.aclose()
    assert ends.end.bytes_in == 12


@pytest.mark.slow
async def test_eight_mebibytes_each_way_arrive_as_they_were_sent():
    sent = os.urandom(1 << 20) * 8
    digest = hashlib.sha256(sent).digest()
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)

        async def send_output():
            await ends.data.send_all(sent)
            await send_finished(ends)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_output)
            nursery.start_soon(ends.tls.send_all, sent)
            nursery.start_soon(_check, ends.tls, digest)
            assert hashlib.sha256(await read_exactly(ends.data, len(sent))).digest() == digest
        await ends.tls.aclose()
    assert (ends.end.bytes_in, ends.end.bytes_out) == (len(sent), len(sent))
    assert ends.end.reason == ""


async def _check(tls, digest):
    seen = hashlib.sha256()
    while data := await tls.receive_some(30_000):
        seen.update(data)
        await trio.lowlevel.checkpoint()
    assert seen.digest() == digest


async def test_a_slow_backend_stops_the_client():
    """Back-pressure: nothing is read before what was read last has been taken."""
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        sent = 0
        with trio.move_on_after(20):
            while True:
                with trio.move_on_after(0.2) as stuck:
                    await ends.tls.send_all(bytes(16_384))
                    sent += 16_384
                if stuck.cancelled_caught:
                    break
        # Kernel buffers of two TCP sockets and one socketpair, and one chunk of ours.
        assert sent < 16 << 20
        before = sent
        ends.scope.cancel()
    assert before == sent


async def test_a_slow_client_stops_the_backend():
    async with open_relay("both", small=True) as ends:
        ends.unix.send(RECEIVED)
        sent = 0
        while True:
            with trio.move_on_after(0.1) as stuck:
                await ends.data.send_all(bytes(65_536))
                sent += 65_536
            if stuck.cancelled_caught:
                break
        assert sent < 4 << 20
        ends.scope.cancel()


async def test_the_client_may_end_first_and_still_read_the_answer():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"question")
        await say_goodbye(ends)
        assert await read_all(ends.data) == b"question"
        assert ends.verdict() == b"clean"
        with pytest.raises(BlockingIOError):  # RECEIVED was read away, and no reset came
            ends.unix.recv(1)
        await ends.data.send_all(b"answer")
        await send_finished(ends)
        assert len(await read_all(ends.raw)) > len(b"answer")
    assert (ends.end.reason, ends.end.bytes_in, ends.end.bytes_out) == ("", 8, 6)


async def test_the_backend_may_end_first_and_still_read():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.data.send_all(b"early answer")
        await send_finished(ends)
        assert await read_all(ends.tls) == b"early answer"
        await ends.tls.send_all(b"late question")
        assert await read_exactly(ends.data, 13) == b"late question"
        await ends.tls.aclose()
        assert await read_all(ends.data) == b""
        await ends.done.wait()
        # FINISHED was unread at the gate's close: that must not look like a reset.
        assert ends.verdict() == b"clean"
    assert ends.end.reason == ""


async def test_a_backend_that_half_closes_and_goes_later_ends_the_relay():
    """Between its FIN and its close the gate must not fall asleep for ten minutes."""
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await send_finished(ends)
        assert await read_all(ends.tls) == b""
        await trio.testing.wait_all_tasks_blocked()
        assert not ends.done.is_set()
        ends.close_backend()
        with trio.fail_after(1.5):
            await ends.done.wait()
    assert ends.end.reason == ""


async def test_the_last_answer_arrives_though_the_client_still_sends():
    """Closing over unread bytes would reset the connection under our answer."""
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.data.send_all(b"answer")
        ends.unix.send(FINISHED)
        ends.close_backend()
        await ends.tls.send_all(bytes(100_000))
        assert await read_all(ends.tls) == b"answer"
        await ends.tls.transport_stream.aclose()
    assert ends.end.bytes_out == 6


async def test_a_client_that_ends_by_fin_alone_cut_its_input():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"half")
        await ends.raw.send_eof()
        assert await read_all(ends.data) == b"half"
        assert ends.verdict() is CUT  # there as soon as the end is read
        await ends.data.send_all(b"still read by some")
        await send_finished_or_not(ends)
        assert await read_all(ends.raw)
    assert (ends.end.reason, ends.end.detail) == (
        "client_cut", "expected close_notify, got end of file",
    )  # fmt: skip
    assert ends.end.bytes_out == 18


async def send_finished_or_not(ends):
    with contextlib.suppress(OSError):
        ends.unix.send(FINISHED)
    await ends.data.send_eof()


@pytest.mark.parametrize("is_sending", [False, True])
async def test_a_client_that_resets_cuts_both_directions(is_sending):
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"half")
        assert await read_exactly(ends.data, 4) == b"half"
        await trio.testing.wait_all_tasks_blocked()
        reset(ends.raw.socket)
        if is_sending:
            with contextlib.suppress(trio.BrokenResourceError):
                await ends.data.send_all(b"x" * 100_000)
        await ends.done.wait()
        assert ends.verdict() is CUT
    assert ends.end.reason == "client_reset"


async def test_a_bad_record_ends_the_relay_with_an_alert():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.raw.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ends.tls.receive_some(1)
        assert "alert" in str(caught.value.__cause__).lower()
        await ends.done.wait()
        assert ends.verdict() is CUT
    assert ends.end.reason == "client_bad_record"


async def test_data_in_front_of_a_bad_record_is_relayed_and_the_fault_told_at_once():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        sock = ends.raw.socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        await ends.tls.send_all(b"good")
        await ends.raw.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        assert await read_exactly(ends.data, 4) == b"good"
        with trio.fail_after(2):
            await ends.done.wait()
    assert ends.end.reason == "client_bad_record"


async def test_a_backend_that_dies_leaves_the_client_without_close_notify():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.data.send_all(b"half")
        ends.close_backend()
        assert await read_exactly(ends.tls, 4) == b"half"
        with pytest.raises(trio.BrokenResourceError):
            await ends.tls.receive_some(1)
        await ends.raw.aclose()
    assert (ends.end.reason, ends.end.detail) == (
        "backend_cut", "the backend ended without saying that it was done",
    )  # fmt: skip


async def test_a_backend_that_dies_with_input_unread_is_reported():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"never read")
        await trio.testing.wait_all_tasks_blocked()
        ends.close_backend()
        with pytest.raises(trio.BrokenResourceError):
            await ends.tls.receive_some(1)
        await ends.raw.aclose()
    assert ends.end.reason == "backend_reset"


@pytest.mark.parametrize("has_verdicts", [True, False])
async def test_a_naive_backend_ends_plainly(has_verdicts):
    """It never writes RECEIVED: every end is an end, in either dialect."""
    async with open_relay("both", has_verdicts=has_verdicts) as ends:
        await ends.data.send_all(b"answer")
        ends.close_backend()
        assert await read_all(ends.tls) == b"answer"  # close_notify came
        await ends.tls.aclose()
    assert ends.end.reason == ""


@pytest.mark.parametrize("is_clean", [True, False])
async def test_a_naive_backend_gets_a_plain_end(is_clean):
    async with open_relay("both", has_verdicts=False) as ends:
        await ends.tls.send_all(b"all")
        if is_clean:
            await ends.tls.aclose()
        else:
            await ends.raw.send_eof()
        assert await read_all(ends.data) == b"all"
        ends.close_backend()


async def test_i6_a_cancelled_relay_is_a_cut_for_the_receiver():
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"half")
        assert await read_exactly(ends.data, 4) == b"half"
        ends.scope.cancel()
        await ends.done.wait()
        assert await read_all(ends.data) == b""
        assert ends.verdict() is CUT
        with pytest.raises(trio.BrokenResourceError):
            await ends.tls.receive_some(1)


@pytest.mark.parametrize("mode", ["both", "tx"])
async def test_a_relay_in_which_nothing_moves_ends(mode, autojump_clock):
    async with open_relay(mode, idle_timeout=600) as ends:
        began = trio.current_time()
        ends.unix.send(RECEIVED)
        await ends.done.wait()
        # A late acknowledgement of the client's kernel counts as movement, once.
        assert 599.9 < trio.current_time() - began < 1200.1
        assert ends.verdict() is CUT
    assert (ends.end.reason, ends.end.detail) == (
        "idle_timeout", "no byte moved for 600 seconds",
    )  # fmt: skip


async def test_bytes_that_move_keep_a_relay_alive(autojump_clock):
    async with open_relay("both", idle_timeout=10) as ends:
        ends.unix.send(RECEIVED)
        began = trio.current_time()
        for _ in range(5):
            await trio.sleep(8)
            await ends.tls.send_all(b"x")
        await ends.done.wait()
        assert 49.9 < trio.current_time() - began < 60.1


async def test_busy_ends_do_not_keep_other_tasks_waiting():
    """A client and a backend faster than the gate: others get their turn all the same."""
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        turns, total = 0, 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            nursery.start_soon(ends.tls.send_all, bytes(1 << 20))
            while total < 1 << 20:
                total += len(await ends.data.receive_some(1 << 20))
            nursery.cancel_scope.cancel()
        assert turns >= (1 << 20) / 65_536
        ends.scope.cancel()


async def test_nothing_of_a_relay_stays_in_the_epoll_set():
    seen = []
    for mode in ("both", "tx") * 4:
        async with open_relay(mode) as ends:
            ends.unix.send(RECEIVED)
            await ends.tls.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked()
            ends.scope.cancel()
        seen.append(len(epoll_targets()))
    # The first rounds may add what Trio registers for itself when it first needs it.
    assert seen[-1] == seen[1]


async def test_tx_a_client_that_was_gone_before_the_relay_began_is_no_crash():
    """The jobs of a relay start in any order: one may end before another's first step."""
    for _ in range(20):
        async with open_relay("tx", has_verdicts=True) as ends:
            ends.unix.send(RECEIVED)
            reset(ends.raw.socket)
        assert ends.end.reason == "client_reset"


async def test_records_leave_in_the_order_in_which_they_were_made():
    """Every answer to a KeyUpdate stands between data under the old and under the new key."""
    gate, client = await hand_made_pair()
    ours, far = socket.socketpair()
    unix, theirs = socket.socketpair()
    for sock in (ours, far, unix, theirs):
        sock.setblocking(False)
    data = stream(far)
    ends = Ends(None, None, data, theirs)
    terms = {"idle_timeout": 60, "has_verdicts": False}
    total, updates = 4 << 20, 0

    async def read():
        nonlocal updates
        received = 0
        while received < total:
            content_type, plain = await client.receive()  # raises when it does not decrypt
            if content_type == 22:
                updates += 1
                client.follow_key_update()
            else:
                received += len(plain)

    async def ask():
        for _ in range(20):
            await client.update_key(is_requested=True)
            await client.send(23, b"?")

    async with trio.open_nursery() as relays:
        relays.start_soon(run_relay, lambda: BothRelay(gate, ours, unix, b"", **terms), ends)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(ask)
            nursery.start_soon(read_exactly, data, 20)
            await data.send_all(bytes(total))
        ends.scope.cancel()
    assert updates
    ends.close_backend()
    close(gate.sock)
    await client.stream.aclose()


@pytest.mark.parametrize("small", [1, 10_000])
async def test_a_relay_parts_from_large_buffers_behind_bulk(small, monkeypatch):
    calls = []
    monkeypatch.setattr(RecordLayer, "shrink", lambda _records: calls.append("shrink"))
    async with open_relay("both") as ends:
        ends.unix.send(RECEIVED)
        for _ in range(2):
            await ends.data.send_all(bytes(100_000))
            await read_exactly(ends.tls, 100_000)
        await ends.tls.send_all(bytes(small))
        await read_exactly(ends.data, small)
        calls.append("small")
        await ends.data.send_all(b"answer")
        await read_exactly(ends.tls, 6)
        ends.scope.cancel()
    assert calls[0] == "shrink"  # of the handshake
    assert calls[-2:] == ["shrink", "small"]


class FakeRecords:
    """A record layer whose every read makes a record of its own, numbered with the rest."""

    is_closed = False
    failure = None

    def __init__(self):
        self.number = 0
        self.own = b""

    def _make(self):
        self.number += 1
        return b"%08d" % self.number + bytes(4088)

    def shrink(self):
        pass

    def receive_data(self, data):
        self.own += self._make()
        return data

    def data_to_send(self):
        output, self.own = self.own, b""
        return output

    def send_data(self, data):
        return self._make()


async def test_own_records_made_while_data_is_being_sent_keep_their_place():
    """And they stop the reading that makes them, where the client does not take them."""
    client, server = socket.socketpair()  # no timers of TCP's
    ours, far = socket.socketpair()
    for sock in (server, ours):
        sock.setblocking(False)
    records, flows = FakeRecords(), []

    async def start():
        flows.append(Flow(server, records, ours, encrypts=True, reads_output=True))
        flows[0].start(b"")
        await sleep(math.inf)

    async def drip(sock):
        while True:
            await sock.send_all(b"?")
            await trio.testing.wait_all_tasks_blocked()

    async def read():
        buffer = b""
        while len(numbers) < made + 10:
            buffer += await stream_of_client.receive_some(3000)
            while len(buffer) >= 4096:
                numbers.append(int(buffer[:8]))
                buffer = buffer[4096:]

    numbers = []
    stream_of_client, data = stream(client), stream(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_fiber, start)
        nursery.start_soon(drip, stream_of_client)
        nursery.start_soon(drip, data)
        made = -1
        while made < records.number:  # nobody reads
            made = records.number
            await trio.testing.wait_all_tasks_blocked(0.01)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert made < 200
        await read()
        nursery.cancel_scope.cancel()
    assert numbers == sorted(numbers)
    for sock in (server, ours):
        sock.close()
    await stream_of_client.aclose()
    await data.aclose()


async def test_output_goes_on_when_own_records_take_the_last_of_it_along():
    """The client made room between our try to send and the record that asks for an answer."""
    client, server = socket.socketpair()
    ours, far = socket.socketpair()
    for sock in (client, server, ours):
        sock.setblocking(False)
    room = fill(server)
    drain(client)

    class Records(FakeRecords):
        sent = b""

        def receive_data(self, data):
            drain(client)
            self.own = b"answer"
            return data

        def send_data(self, data):
            self.sent += data
            return bytes(room + 1)

    records = Records()

    async def start():
        Flow(server, records, ours, encrypts=True, reads_output=True).start(b"")
        await sleep(math.inf)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_fiber, start)
        for sock, data in ((far, b"1"), (far, b"2"), (client, b"?")):
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert records.sent in (b"", b"1")
            sock.send(data)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert records.sent == b"12"
        nursery.cancel_scope.cancel()
    for sock in (client, server, ours, far):
        sock.close()


@pytest.mark.parametrize("place", ["stop", "has_news"])
@pytest.mark.parametrize("mode", ["both", "tx"])
async def test_a_bug_of_ours_in_a_relay_is_told_and_ends_it(mode, place, monkeypatch):
    real = getattr(Flow, place)

    def break_down(flow):
        real(flow)
        raise ZeroDivisionError

    async with open_relay(mode) as ends:
        ends.unix.send(RECEIVED)
        ends.may_crash = True
        monkeypatch.setattr(Flow, place, break_down)
        ends.close_backend()
    assert isinstance(ends.crash, ZeroDivisionError)


async def test_nobody_refers_to_an_ended_relay():
    gc.collect()
    gc.disable()
    try:
        async with open_relay("both") as ends:
            ends.unix.send(RECEIVED)
            await say_goodbye(ends)
            assert await read_all(ends.data) == b""
            await send_finished(ends)
        assert ends.end.reason == ""
        assert [one for one in gc.get_objects() if isinstance(one, (Flow, BothRelay))] == []
    finally:
        gc.enable()


# --- mode RELAY where the kernel sends: for backends that take one socket only ---------


class FakeKernel:
    """Says close_notify in words, when there is room."""

    def __init__(self, refusals):
        self.refusals = refusals

    def send_record(self, sock, content_type, data, _flags):
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        sock.send(f"<{content_type} {data.hex()}>".encode())


@pytest.fixture
def kernel(request, monkeypatch):
    kernel = FakeKernel(getattr(request, "param", 0))
    monkeypatch.setattr("ktlsgate.gate.client.send_record", kernel.send_record)
    return kernel


async def read_some(stream, size):
    """So many bytes, as they are."""
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


@pytest.mark.parametrize("kernel", [0, 1], indirect=True)
async def test_a_pair_carries_both_directions_though_the_kernel_encrypts_one(kernel):
    async with open_relay("both", kernel_sends=True) as ends:
        ends.unix.send(RECEIVED)
        await ends.raw.receive_some(65536)  # the tickets of the handshake
        await ends.tls.send_all(b"question")
        assert await read_exactly(ends.data, 8) == b"question"
        await ends.data.send_all(b"answer")
        assert await read_some(ends.raw, 6) == b"answer"  # as the kernel would encrypt it
        await send_finished(ends)
        await trio.testing.wait_all_tasks_blocked()
        await say_goodbye(ends)  # which also lets the gate look at the client again
        assert await read_all(ends.raw) == b"<21 0100>"
        assert await read_all(ends.data) == b""
        ends.close_backend()
    assert (ends.end.reason, ends.end.bytes_in, ends.end.bytes_out) == ("", 8, 6)
    assert kernel.refusals == 0


async def test_an_end_without_close_notify_of_a_pair_is_one_for_the_client_too(kernel):
    async with open_relay("both", kernel_sends=True) as ends:
        ends.unix.send(RECEIVED)
        await ends.raw.receive_some(65536)
        await ends.data.send_all(b"half")
        assert await read_some(ends.raw, 4) == b"half"
        ends.close_backend()
        assert await read_all(ends.raw) == b""
        await ends.raw.aclose()
    assert ends.end.reason == "backend_cut"


# --- mode TX: the kernel sends, we relay the input ------------------------------------


class Steps(trio.abc.Instrument):
    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += 1


async def unix_read(ends, size):
    data = b""
    while len(data) < size:
        try:
            piece = ends.unix.recv(size - len(data))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(ends.unix)
            continue
        if not piece:
            return data
        data += piece
    return data


async def test_tx_input_is_relayed_and_received_left_unread():
    async with open_relay("tx", trailing=b"first ") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"second")
        assert await unix_read(ends, 12) == b"first second"
        ends.close_backend()
    assert (ends.end.reason, ends.end.bytes_in) == ("", 12)


async def test_tx_an_idle_relay_costs_nothing_though_received_is_unread():
    async with open_relay("tx") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"x")
        assert await unix_read(ends, 1) == b"x"
        await trio.testing.wait_all_tasks_blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        with trio.move_on_after(0.2):
            await trio.sleep_forever()
        trio.lowlevel.remove_instrument(steps)
        assert steps.count < 10
        ends.close_backend()


async def test_tx_a_clean_end_takes_received_away():
    async with open_relay("tx") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"all")
        await say_goodbye(ends)
        assert await unix_read(ends, 100) == b"all"  # and then an ordinary end
    assert (ends.end.reason, ends.end.bytes_in) == ("", 3)


@pytest.mark.parametrize("how", ["fin", "reset", "bad record", "cancelled"])
async def test_tx_a_cut_is_a_reset_behind_all_data(how):
    async with open_relay("tx") as ends:
        ends.unix.send(RECEIVED)
        await ends.tls.send_all(b"half")
        await trio.testing.wait_all_tasks_blocked()
        if how == "fin":
            await ends.raw.send_eof()
        elif how == "reset":
            reset(ends.raw.socket)
        elif how == "bad record":
            await ends.raw.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        else:
            ends.scope.cancel()
        await ends.done.wait()
        assert await unix_read(ends, 4) == b"half"
        with pytest.raises(ConnectionResetError):
            ends.unix.recv(1)
    if how != "cancelled":
        assert ends.end.reason == f"client_{'cut' if how == 'fin' else how.replace(' ', '_')}"


async def test_tx_i4_what_openssl_wants_to_send_never_leaves():
    """After a bad record OpenSSL makes an alert under a key that the kernel owns."""
    async with open_relay("tx") as ends:
        ends.unix.send(RECEIVED)
        await ends.raw.receive_some(65536)  # the tickets of the handshake
        await ends.raw.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await ends.done.wait()
        with contextlib.suppress(trio.BrokenResourceError):
            assert await read_all(ends.raw) == b""


async def test_tx_the_backend_ends_it_by_closing_the_unix_connection():
    async with open_relay("tx") as ends:
        ends.unix.send(RECEIVED)
        await trio.testing.wait_all_tasks_blocked()
        ends.close_backend()
    assert ends.end.reason == ""


async def test_tx_a_backend_that_shuts_the_shared_socket_down_is_no_cut_of_the_client():
    """What the receiver's close does, before it closes the Unix connection."""
    client, tls = await relayed_pair(kernel_sends=True)
    unix, theirs = socket.socketpair()
    unix.setblocking(False)
    theirs.send(RECEIVED)
    async with trio.open_nursery() as nursery:
        ends = Ends(tls, None, None, theirs)
        terms = {"idle_timeout": 60, "has_verdicts": True}
        nursery.start_soon(run_relay, lambda: InputRelay(client, unix, b"", **terms), ends)
        await trio.testing.wait_all_tasks_blocked()
        client.sock.shutdown(socket.SHUT_RDWR)
    assert ends.end.reason == ""
    theirs.close()
    close(client.sock)
    await trio.aclose_forcefully(tls)


async def test_tx_a_half_close_of_the_backend_does_not_end_the_input():
    async with open_relay("tx", has_verdicts=False) as ends:
        ends.unix.shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked()
        await ends.tls.send_all(b"more")
        assert await unix_read(ends, 4) == b"more"
        ends.close_backend()


@pytest.mark.parametrize("has_verdicts", [True, False])
@pytest.mark.parametrize("has_input_ended", [True, False])
async def test_tx_an_answer_on_the_unix_connection_reaches_the_client(
    has_verdicts, has_input_ended
):
    """fd_pass: who cannot use the descriptor answers where the head came from."""
    async with open_relay("tx", has_verdicts=has_verdicts) as ends:
        await ends.raw.receive_some(65536)  # the tickets of the handshake
        if has_input_ended:
            await say_goodbye(ends)
            await trio.testing.wait_all_tasks_blocked()
        ends.unix.send(b"HTTP/1.1 500 no\r\n")
        await trio.testing.wait_all_tasks_blocked()
        ends.unix.send(b"\r\n")
        ends.close_backend()
        # As the kernel would encrypt it; in this test nobody does.
        assert (await read_all(ends.raw)).startswith(b"HTTP/1.1 500 no\r\n\r\n")
        await ends.raw.aclose()
    assert (ends.end.reason, ends.end.bytes_out) == ("", 19)


async def test_tx_a_slow_backend_stops_the_client():
    async with open_relay("tx") as ends:
        ends.unix.send(RECEIVED)
        sent = 0
        while True:
            with trio.move_on_after(0.2) as stuck:
                await ends.tls.send_all(bytes(16_384))
                sent += 16_384
            if stuck.cancelled_caught:
                break
        assert sent < 16 << 20
        ends.scope.cancel()
