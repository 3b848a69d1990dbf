"""Descriptors beside bytes, and who is at the other end of a Unix socket."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from collections.abc import Iterator

import pytest
from helpers.descriptors import open_descriptors

from ktlsgate.kernel.ancillary import (
    close_all,
    peer_credentials,
    recv_fds,
    send_fds,
    unread_bytes,
)


@pytest.fixture
def unix_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with near, far:
        yield near, far


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    close_all(list(ends))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_received_descriptor_is_the_senders_file(unix_pair, pipe) -> None:
    near, far = unix_pair
    assert send_fds(near, b"hello", [pipe[1]]) == 5
    data, fds, was_cut = recv_fds(far, 99, 1)
    assert (data, len(fds), was_cut) == (b"hello", 1, False)
    os.write(fds[0], b"through it")
    assert os.read(pipe[0], 99) == b"through it"
    close_all(fds)


def test_received_descriptors_are_closed_on_exec(unix_pair, pipe) -> None:
    near, far = unix_pair
    send_fds(near, b"x", list(pipe))
    _, fds, _ = recv_fds(far, 1, 2)
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    close_all(fds)


def test_descriptors_come_with_the_first_byte_and_not_again(unix_pair, pipe) -> None:
    near, far = unix_pair
    send_fds(near, b"hello", [pipe[0]])
    data, fds, _ = recv_fds(far, 1, 1)
    assert (data, len(fds)) == (b"h", 1)
    assert recv_fds(far, 99, 1) == (b"ello", [], False)
    close_all(fds)


def test_a_read_ends_where_the_next_descriptors_begin(unix_pair, pipe) -> None:
    near, far = unix_pair
    send_fds(near, b"first", [pipe[0]])
    send_fds(near, b"second", [pipe[1]])
    data, fds, _ = recv_fds(far, 99, 2)
    assert (data, len(fds)) == (b"first", 1)
    more, more_fds, _ = recv_fds(far, 99, 2)
    assert (more, len(more_fds)) == (b"second", 1)
    close_all(fds + more_fds)


def test_descriptors_without_room_are_flagged_and_do_not_leak(unix_pair, pipe) -> None:
    near, far = unix_pair
    before = open_descriptors()
    send_fds(near, b"x", [pipe[0]] * 5)
    data, fds, was_cut = recv_fds(far, 99, 1)
    assert data == b"x"
    assert was_cut
    close_all(fds)  # the kernel may round the room up, so one or two came
    assert open_descriptors() == before


def test_bytes_without_descriptors_have_none(unix_pair) -> None:
    near, far = unix_pair
    near.sendall(b"bare")
    assert recv_fds(far, 99, 4) == (b"bare", [], False)


def test_the_end_of_the_stream_is_empty(unix_pair) -> None:
    near, far = unix_pair
    near.close()
    assert recv_fds(far, 99, 4) == (b"", [], False)


def test_a_peek_gives_descriptors_of_its_own(unix_pair, pipe) -> None:
    near, far = unix_pair
    send_fds(near, b"x", [pipe[0]])
    _, peeked, _ = recv_fds(far, 1, 1, socket.MSG_PEEK)
    _, fds, _ = recv_fds(far, 1, 1)
    assert peeked != fds
    close_all(peeked + fds)


def test_sending_to_a_full_queue_is_eagain_and_nothing_went(unix_pair, pipe) -> None:
    near, _ = unix_pair
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            near.send(bytes(65_536))
    with pytest.raises(BlockingIOError):
        send_fds(near, b"x", [pipe[0]])


def test_sending_to_nobody_raises_and_sends_no_signal(unix_pair, pipe) -> None:
    near, far = unix_pair
    far.close()
    with pytest.raises(BrokenPipeError):
        send_fds(near, b"x", [pipe[0]])


def test_unread_bytes_is_zero_only_after_everything_was_read(unix_pair, pipe) -> None:
    near, far = unix_pair
    assert unread_bytes(near) == 0
    send_fds(near, b"hello", [pipe[0]])
    assert unread_bytes(near) > 0
    _, fds, _ = recv_fds(far, 1, 1)
    assert unread_bytes(near) > 0
    far.recv(99)
    assert unread_bytes(near) == 0
    close_all(fds)


@pytest.mark.parametrize(("account", "unread"), [(0, 0), (1, 0), (2, 2), (768, 768)])
def test_what_only_the_wake_still_holds_was_read(unix_pair, monkeypatch, account, unread) -> None:
    def ioctl(_descriptor: int, request: int, buffer: array.array[int]) -> None:
        assert request == termios.TIOCOUTQ
        buffer[0] = account

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert unread_bytes(unix_pair[0]) == unread


def test_peer_credentials_are_those_of_the_process_at_the_other_end(unix_pair) -> None:
    near, _ = unix_pair
    assert peer_credentials(near) == (os.getpid(), os.geteuid(), os.getegid())
    assert peer_credentials(near).uid == os.geteuid()


def test_credentials_of_a_listener_are_its_processs(tmp_path) -> None:
    """The gate asks this of a backend: who listens, not who will accept."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        client.connect(str(tmp_path / "s"))
        assert peer_credentials(client).pid == os.getpid()


def test_close_all_closes_each(pipe) -> None:
    copies = [os.dup(pipe[0]), os.dup(pipe[1])]
    close_all(copies)
    assert not any(map(_is_open, copies))


def test_foreign_ancillary_data_is_passed_over(unix_pair, pipe) -> None:
    near, far = unix_pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pipe[0]]))
    near.sendmsg([b"x"], [rights])
    data, fds, _ = recv_fds(far, 1, 16)
    assert (data, len(fds)) == (b"x", 1)
    close_all(fds)
