"""One Unix connection for many handoffs: who owns what, and what happens when it ends."""

import contextlib
import os
import socket

import pytest
import trio
import trio.testing
from helpers.handoffs import our_head
from helpers.sessions import make_backend, open_backend, open_fibers, own_descriptors, tcp_pair

from ktlsgate.errors import BackendFailed, BackendUnavailable
from ktlsgate.gate.fibers import set_deadline
from ktlsgate.gate.kept_connections import KeptConnections
from ktlsgate.wire.handoff import FINISHED, RECEIVED

HEAD = our_head(KTLSGATE_CONNECTION="kept")
LARGE = our_head(KTLSGATE_CONNECTION="kept", HTTP_COOKIE="x" * 900_000)


class Handoff:
    """One, from its start as a fiber to its end."""

    def __init__(self, gate, head=HEAD, deadline=None):
        self.client, self.descriptor = tcp_pair()
        self.error, self.is_over, self.is_done = None, False, False
        gate.fibers.start(self._run(gate, head, deadline))

    async def _run(self, gate, head, deadline):
        if deadline:
            set_deadline(deadline)
        try:
            await gate.kept.hand_off(gate.backend, head, self.descriptor)
            self.is_done = True
        except (BackendFailed, BackendUnavailable) as exc:
            self.error = exc
        finally:
            self.is_over = True
            self.client.close()
            self.descriptor.close()


class Gate:
    def __init__(self, fibers, address, **changes):
        self.fibers = fibers
        self.backend = make_backend(address, **{"kept_connections": 2} | changes)
        self.kept = KeptConnections()

    async def hand_off(self, head=HEAD, **how):
        """Start one and let it come as far as it can."""
        handoff = Handoff(self, head, **how)
        await settle()
        return handoff


async def settle():
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.005)


@contextlib.asynccontextmanager
async def open_gate(folder, **changes):
    """A gate and its backend; nothing may be left open afterwards."""
    before = own_descriptors()
    with open_backend(folder) as backend:
        async with open_fibers() as fibers:
            gate = Gate(fibers, backend.address, **changes)
            yield gate, backend
        gate.kept.close()
    assert own_descriptors() == before


async def take(backend, unix=None, answer=RECEIVED):
    """Read one head and say something; the Unix connection."""
    head, descriptor, unix = await backend.take(unix)
    assert head.is_kept
    descriptor.close()
    if answer:
        unix.send(answer)
    await settle()
    return unix


def has_more(backend):
    """Whether another connection waits to be accepted."""
    try:
        backend.listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


async def test_received_ends_a_handoff_and_the_next_one_comes_on_the_same_connection(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        unix = None
        for _ in range(5):
            handoff = await gate.hand_off()
            unix = await take(backend, unix)
            assert (handoff.is_over, handoff.error) == (True, None)
        assert not has_more(backend)


async def test_i1_reading_the_head_is_no_acknowledgement(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off()
        unix = await take(backend, answer=b"")
        assert not handoff.is_over
        unix.send(RECEIVED)
        await settle()
        assert handoff.is_over


async def test_handoffs_at_the_same_time_have_a_connection_each(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        handoffs = [await gate.hand_off() for _ in range(3)]
        for _ in handoffs:
            await take(backend)
        assert [handoff.is_over for handoff in handoffs] == [True] * 3
        # Two of them are kept: the last one has ended.
        assert [unix.recv(1) for unix in backend.owned[4:5]] == [b""]


async def test_no_more_connections_are_kept_than_told(tmp_path):
    async with open_gate(tmp_path, kept_connections=1) as (gate, backend):
        for _ in range(2):
            await gate.hand_off()
        first, second = await backend.accept(), await backend.accept()
        await take(backend, first)
        await take(backend, second)
        with pytest.raises(BlockingIOError):
            first.recv(1)
        assert second.recv(1) == b""


async def test_connections_are_used_in_turns(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        for _ in range(2):
            await gate.hand_off()
        connections = [await backend.accept(), await backend.accept()]
        for unix in connections * 3:
            await take(backend, unix)
            if unix is connections[1]:
                for _ in range(2):
                    await gate.hand_off()
        for unix in connections:
            await take(backend, unix)


async def test_an_idle_connection_that_ends_is_closed_at_once(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        await gate.hand_off()
        unix = await take(backend)
        before = len(own_descriptors())
        unix.close()
        await settle()
        assert len(own_descriptors()) == before - 2  # its own and the gate's
        handoff = await gate.hand_off()
        await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)


async def test_who_speaks_out_of_turn_is_not_used_again(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        await gate.hand_off()
        unix = await take(backend)
        unix.send(RECEIVED)
        await settle()
        handoff = await gate.hand_off()
        await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)


@pytest.mark.parametrize("reads", [False, True])
async def test_a_handoff_that_a_kept_connection_did_not_take_goes_to_a_new_one(tmp_path, reads):
    """A backend that restarts takes the head, or not, and ends without a word."""
    async with open_gate(tmp_path) as (gate, backend):
        await gate.hand_off()
        unix = await take(backend)
        handoff = await gate.hand_off()
        if reads:
            await take(backend, unix, answer=b"")
        unix.close()
        await settle()
        assert not handoff.is_over
        await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)


async def test_an_end_behind_received_is_an_acknowledgement_first(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off()
        unix = await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)
        handoff = await gate.hand_off()
        _, descriptor, _ = await backend.take(unix)
        descriptor.close()
        before = len(own_descriptors())
        unix.send(RECEIVED)
        unix.close()
        await settle()
        assert (handoff.is_over, handoff.error) == (True, None)
        assert len(own_descriptors()) == before - 4  # both ends of it and of the client
        handoff = await gate.hand_off()
        await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)


@pytest.mark.parametrize(
    ("answer", "reads", "reason", "text"),
    [
        (b"", True, "backend_not_received",
         "backend app: expected RECEIVED on a kept connection, got its end"),
        (FINISHED, True, "backend_not_received",
         "backend app: expected RECEIVED on a kept connection, got b'\\x04'"),
        (b"", False, "backend_died", "backend app went away: Connection reset by peer"),
    ],
)  # fmt: skip
async def test_a_new_connection_without_received_is_the_backends_failure(
    tmp_path, answer, reads, reason, text
):
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off()
        unix = await backend.accept()
        if reads:
            await take(backend, unix, answer)
        unix.close()
        await settle()
        assert (handoff.error.reason, str(handoff.error)) == (reason, text)


async def test_another_word_on_a_kept_connection_is_not_tried_again(tmp_path):
    """Who answers anything has the descriptor, perhaps."""
    async with open_gate(tmp_path) as (gate, backend):
        await gate.hand_off()
        unix = await take(backend)
        handoff = await gate.hand_off()
        await take(backend, unix, FINISHED)
        assert handoff.error.reason == "backend_not_received"
        assert unix.recv(1) == b""
        assert not has_more(backend)


async def test_nobody_there_is_said_as_ever(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        backend.listener.close()
        handoff = await gate.hand_off()
        assert (handoff.error.reason, handoff.error.status) == ("backend_absent", 503)


async def test_the_user_is_demanded_of_each_connection(tmp_path):
    async with open_gate(tmp_path, peer_uid=os.getuid() + 1) as (gate, _backend):
        handoff = await gate.hand_off()
        assert handoff.error.reason == "backend_wrong_user"


async def test_a_head_larger_than_the_sockets_room_arrives_whole(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        unix = None
        for head in (LARGE, HEAD, LARGE):
            handoff = await gate.hand_off(head)
            assert not handoff.is_over
            unix = await take(backend, unix)
            assert (handoff.is_over, handoff.error) == (True, None)


async def test_a_backend_that_goes_in_the_middle_of_a_large_head_has_failed(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off(LARGE)
        unix = await backend.accept()
        unix.close()
        await settle()
        assert handoff.error.reason == "backend_died"


async def test_a_late_handoff_is_taken_back(tmp_path, autojump_clock):
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off(deadline=trio.current_time() + 5)
        unix = await backend.accept()
        await trio.sleep(10)
        assert (handoff.error.reason, handoff.error.status) == ("handoff_timeout", 503)
        await take(backend, unix, answer=b"")  # closing does not unsend it
        with pytest.raises(BrokenPipeError):
            unix.send(RECEIVED)
        handoff = await gate.hand_off()
        await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)


async def test_a_handoff_that_is_acknowledged_in_the_last_moment_is_not_taken_back(
    tmp_path, autojump_clock, monkeypatch
):
    """The deadline is seen before the news."""
    monkeypatch.setattr("ktlsgate.gate.kept_connections._Kept._on_news", lambda *_: None)
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off(deadline=trio.current_time() + 5)
        unix = await take(backend)
        assert not handoff.is_over
        await trio.sleep(10)
        assert (handoff.is_over, handoff.error) == (True, None)
        assert unix.recv(1) == b""


async def test_a_backend_that_does_not_accept_is_late(tmp_path, autojump_clock):
    async with open_gate(tmp_path) as (gate, backend):
        backend.listener.listen(0)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(BlockingIOError):
                while True:  # until its queue is full
                    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                    sock.setblocking(False)
                    sock.connect(backend.address)
            handoff = await gate.hand_off(deadline=trio.current_time() + 5)
            await trio.sleep(10)
        assert (handoff.error.reason, handoff.error.status) == ("handoff_timeout", 503)


async def test_a_second_received_does_not_count_for_the_next_handoff(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        handoff = await gate.hand_off()
        unix = await take(backend, answer=RECEIVED + RECEIVED)
        assert (handoff.is_over, handoff.error) == (True, None)
        assert unix.recv(1) == b""
        handoff = await gate.hand_off()
        await take(backend)
        assert (handoff.is_over, handoff.error) == (True, None)


async def test_a_gate_that_is_stopped_knows_what_was_acknowledged(tmp_path, monkeypatch):
    monkeypatch.setattr("ktlsgate.gate.kept_connections._Kept._on_news", lambda *_: None)
    async with open_gate(tmp_path) as (gate, backend):
        taken = await gate.hand_off()
        await take(backend)
        untaken = await gate.hand_off()
        assert not taken.is_over
        assert not untaken.is_over
    assert (taken.is_done, untaken.is_done) == (True, False)


async def test_two_backends_do_not_share(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        await gate.hand_off()
        await take(backend)
        (tmp_path / "other").mkdir()
        with open_backend(tmp_path / "other") as other:
            gate.backend = make_backend(other.address, kept_connections=2)
            object.__setattr__(gate.backend, "name", "other")
            handoff = await gate.hand_off()
            await take(other)
            assert handoff.is_over


async def test_a_stopped_gate_closes_all(tmp_path):
    async with open_gate(tmp_path) as (gate, backend):
        await gate.hand_off()
        await take(backend)
        await gate.hand_off()  # it waits for ever; open_gate sees that nothing stays open
