"""Giving a head and a descriptor away, and knowing who has them."""

import os
import socket
import subprocess
import sys

import pytest
import trio
import trio.testing
from helpers.descriptors import no_descriptor_left
from helpers.sessions import in_fiber, make_backend, open_backend, own_descriptors, tcp_pair

from ktlsgate.errors import BackendFailed, BackendUnavailable
from ktlsgate.gate.handoff import hand_off
from ktlsgate.kernel.ancillary import recv_fds

HEAD = b"26:CONTENT_LENGTH\x000\x00SCGI\x001\x00,"
LARGE = b"299990:" + b"x" * 299_990 + b","


class Attempt:
    """A handoff on its way by itself."""

    def __init__(self, backend, head=HEAD, *, keeps_open=False, **changes):
        self.client, self.descriptor = tcp_pair()
        self.backend = make_backend(backend.address, **changes)
        self.head, self.keeps_open = head, keeps_open
        self.unix = self.error = None
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    async def run(self):
        with self.scope:
            await in_fiber(self._run)
        self.done.set()

    async def _run(self):
        try:
            self.unix = await hand_off(
                self.backend, self.head, self.descriptor, keeps_open=self.keeps_open
            )
        except (BackendFailed, BackendUnavailable) as exc:
            self.error = exc

    def close(self):
        for sock in (self.client, self.descriptor, self.unix):
            if sock is not None:
                trio.lowlevel.notify_closing(sock)
                sock.close()


@pytest.fixture
def folder(tmp_path):
    """Where the backend's socket is; nothing may be left open afterwards."""
    before = own_descriptors()
    yield tmp_path
    assert own_descriptors() == before


async def recv_some(unix, size=65536):
    while True:
        try:
            return recv_fds(unix, size, 4)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(unix)


async def attempt(nursery, backend, **changes):
    """Start one; it, and the Unix connection with nothing read."""
    started = Attempt(backend, **changes)
    nursery.start_soon(started.run)
    return started, await backend.accept()


async def test_the_descriptor_comes_with_the_first_byte(folder):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            data, fds, _ = await recv_some(unix, 1)
            assert (data, len(fds)) == (b"2", 1)
            os.close(fds[0])
            data, fds, _ = await recv_some(unix)
            assert (data, fds) == (HEAD[1:], [])
            await handoff.done.wait()
        assert handoff.unix is not None
        handoff.close()


@pytest.mark.parametrize("keeps_open", [False, True])
async def test_the_end_follows_the_head_unless_input_does(folder, keeps_open):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend, keeps_open=keeps_open)
            _, fds, _ = await recv_some(unix)
            os.close(fds[0])
            await handoff.done.wait()
        if keeps_open:
            with pytest.raises(BlockingIOError):
                unix.recv(1)
        else:
            assert unix.recv(1) == b""
        handoff.close()


async def test_i1_the_gate_owns_the_client_until_the_last_byte_is_read(folder):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            _, fds, _ = await recv_some(unix, len(HEAD) - 1)
            os.close(fds[0])
            with trio.move_on_after(0.1):  # longer than the longest pause between questions
                await handoff.done.wait()
            assert not handoff.done.is_set()
            await recv_some(unix, 1)
            await handoff.done.wait()
        assert handoff.error is None
        handoff.close()


async def test_reading_it_all_acknowledges_without_a_word(folder):
    """A reader that neither closes nor answers: nginx's dialect in mode TX."""
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            await trio.testing.wait_all_tasks_blocked()
            _, fds, _ = await recv_some(unix)
            os.close(fds[0])
            await handoff.done.wait()
        assert handoff.error is None
        handoff.close()


@pytest.mark.parametrize("ending", ["close", "half close", "answer"])
async def test_an_orderly_end_behind_the_head_acknowledges(folder, ending):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            _, fds, _ = await recv_some(unix)
            os.close(fds[0])
            if ending == "close":
                assert unix.recv(1) == b""
                unix.close()
            elif ending == "half close":
                unix.shutdown(socket.SHUT_WR)
            else:
                unix.send(b"answer")
            await handoff.done.wait()
        assert handoff.error is None
        handoff.close()


@pytest.mark.parametrize("early", ["half close", "answer"])
async def test_a_backend_that_speaks_before_it_reads_has_not_acknowledged(folder, early):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            await trio.testing.wait_all_tasks_blocked()
            if early == "answer":
                unix.send(b"early")
            else:
                unix.shutdown(socket.SHUT_WR)
            with trio.move_on_after(0.1):  # longer than the longest pause between questions
                await handoff.done.wait()
            assert not handoff.done.is_set()
            _, fds, _ = await recv_some(unix)
            os.close(fds[0])
            await handoff.done.wait()
        assert handoff.error is None
        handoff.close()


DEATHS = {"unread": 0, "half read": 7, "all but one byte": len(HEAD) - 1}


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("last_words", [b"", b"500 sorry"])
async def test_a_backend_that_dies_before_the_end_of_the_head_has_failed(folder, death, last_words):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            if DEATHS[death]:
                _, fds, _ = await recv_some(unix, DEATHS[death])
                os.close(fds[0])
            unix.send(last_words)
            unix.close()
            await handoff.done.wait()
        assert (handoff.error.reason, handoff.error.status) == ("backend_died", 502)
        assert str(handoff.error) == "backend app went away: Connection reset by peer"
        handoff.close()


async def test_a_backend_that_dies_before_it_accepts_has_failed(folder):
    with open_backend(folder) as backend:
        handoff = Attempt(backend)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handoff.run)
            await trio.testing.wait_all_tasks_blocked()
            backend.listener.close()
        assert (handoff.error.reason, handoff.error.status) == ("backend_died", 502)
        handoff.close()


async def test_a_large_head_is_sent_whole_to_a_slow_reader(folder):
    """More than any send buffer holds: the rest follows without the descriptor."""
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend, head=LARGE)
            read, found = b"", []
            while len(read) < len(LARGE):
                assert not handoff.done.is_set()
                data, fds, _ = await recv_some(unix, 10_000)
                assert data
                read, found = read + data, found + fds
                await trio.testing.wait_all_tasks_blocked()
            assert (await recv_some(unix))[0] == b""
            await handoff.done.wait()
        assert (read, len(found), handoff.error) == (LARGE, 1, None)
        os.close(found[0])
        handoff.close()


async def test_a_backend_that_dies_in_a_large_head_has_failed(folder):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend, head=LARGE)
            await trio.testing.wait_all_tasks_blocked()
            unix.close()
            await handoff.done.wait()
        assert (handoff.error.reason, handoff.error.status) == ("backend_died", 502)
        handoff.close()


async def test_a_full_queue_is_waited_for(folder):
    with open_backend(folder, backlog=0) as backend:
        filler = socket.socket(socket.AF_UNIX)
        filler.connect(backend.address)
        handoff = Attempt(backend)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handoff.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await backend.accept()
            unix = await backend.accept()
            _, fds, _ = await recv_some(unix)
            os.close(fds[0])
            await handoff.done.wait()
        assert handoff.error is None
        filler.close()
        handoff.close()


async def test_i6_waiting_for_a_full_queue_ends_with_the_callers_deadline(folder, autojump_clock):
    with open_backend(folder, backlog=0) as backend:
        filler = socket.socket(socket.AF_UNIX)
        filler.connect(backend.address)
        handoff = Attempt(backend)
        with trio.move_on_after(5) as limit:
            await handoff.run()
        assert limit.cancelled_caught
        filler.close()
        handoff.close()


async def test_i6_a_handoff_cancelled_before_its_acknowledgement_leaves_nothing_open(folder):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend)
            await trio.testing.wait_all_tasks_blocked()
            handoff.scope.cancel()
            await handoff.done.wait()
        assert (handoff.unix, handoff.error) == (None, None)
        # What is in flight stays readable: so says hand_off.
        data, fds, _ = await recv_some(unix)
        assert (data, len(fds)) == (HEAD, 1)
        os.close(fds[0])
        handoff.close()


async def refused(address, **changes):
    """Run one that fails, and raise its error."""
    handoff = Attempt(make_backend(address), **changes)
    await handoff.run()
    handoff.close()
    raise handoff.error


async def test_a_missing_socket_file_is_an_absent_backend(folder):
    with pytest.raises(BackendUnavailable) as caught:
        await refused(folder / "none")
    assert (caught.value.reason, caught.value.status) == ("backend_absent", 503)
    assert str(caught.value) == f"backend app at {folder}/none: no socket file"


async def test_a_socket_file_nobody_listens_on_is_an_absent_backend(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead"))
    with pytest.raises(BackendUnavailable) as caught:
        await refused(folder / "dead")
    assert str(caught.value) == f"backend app at {folder}/dead: nobody listens"


async def test_an_abstract_name_nobody_listens_on_is_an_absent_backend(folder):
    with pytest.raises(BackendUnavailable) as caught:
        await refused("@ktlsgate-nobody")
    assert str(caught.value) == "backend app at @ktlsgate-nobody: nobody listens"


async def test_a_path_that_no_socket_can_have_is_an_absent_backend(folder):
    with pytest.raises(BackendUnavailable) as caught:
        await refused("/" + "x" * 200)
    assert caught.value.reason == "backend_absent"
    assert str(caught.value).endswith(": AF_UNIX path too long")


async def test_without_a_free_descriptor_the_backend_is_unavailable(folder):
    client, descriptor = tcp_pair()
    with client, descriptor, no_descriptor_left(), pytest.raises(BackendUnavailable) as caught:
        await hand_off(make_backend(folder / "any"), HEAD, descriptor, keeps_open=False)
    assert caught.value.reason == "no_descriptors"
    assert str(caught.value) == "expected a descriptor for the handoff, got: Too many open files"


async def test_the_wrong_user_gets_nothing(folder):
    with open_backend(folder) as backend:
        with pytest.raises(BackendFailed) as caught:
            await refused(backend.address, peer_uid=os.getuid() + 1)
        assert (caught.value.reason, caught.value.status) == ("backend_wrong_user", 502)
        assert str(caught.value) == (
            f"backend app: expected uid {os.getuid() + 1} to listen, got {os.getuid()}"
        )
        assert (await recv_some(await backend.accept()))[:2] == (b"", [])


async def test_the_right_user_gets_it(folder):
    with open_backend(folder) as backend:
        async with trio.open_nursery() as nursery:
            handoff, unix = await attempt(nursery, backend, peer_uid=os.getuid())
            _, fds, _ = await recv_some(unix)
            os.close(fds[0])
            await handoff.done.wait()
        assert handoff.error is None
        handoff.close()


FORBIDDEN = """
import os, socket, sys, trio
from ktlsgate.config import Backend
from ktlsgate.errors import BackendUnavailable
from ktlsgate.gate.handoff import hand_off
os.setgid(65534); os.setuid(65534)
async def main():
    a, b = socket.socketpair()
    try:
        await hand_off(Backend(name="app", addresses=(sys.argv[1],)), b"x", a, keeps_open=False)
    except BackendUnavailable as exc:
        print(exc.reason, exc.status, str(exc))
trio.run(main)
"""


async def test_a_socket_file_that_we_may_not_open_is_a_forbidden_backend(tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with open_backend(tmp_path) as backend:
        os.chmod(backend.address, 0o600)
        folder = tmp_path
        while folder != folder.parent:  # the other user has to find the file
            folder.chmod(folder.stat().st_mode | 0o011)
            folder = folder.parent
        done = subprocess.run(
            [sys.executable, "-c", FORBIDDEN, backend.address],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr:
            pytest.skip("the other user cannot read this Python installation")
        assert done.stdout == (
            f"backend_forbidden 503 backend app at {backend.address}: no permission to connect\n"
        ), done.stderr
