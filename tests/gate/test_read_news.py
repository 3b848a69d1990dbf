"""That the peer has read is news of a Unix socket: epoll's edges tell it, poll(2) does not.

A handoff's acknowledgement rests on it, on every kernel. No timer helps here: those of
these fibers are set for a time that no test lives to see.
"""

import os
import socket
import subprocess
import sys

import pytest
import trio
from helpers.fibers import drain, settled
from helpers.sessions import open_fibers

from ktlsgate.gate.fibers import stop_watching, wait_news
from ktlsgate.kernel.ancillary import recv_fds, send_fds, unread_bytes

NEVER = 1000  # seconds
PATIENCE = 5


@pytest.fixture
def pair(pairs):
    return pairs()


async def wait_read(sock, done):
    while unread_bytes(sock):
        await wait_news(sock, NEVER)
    stop_watching(sock)
    done.set()


async def test_reading_it_all_wakes_who_waits_for_that(pair):
    near, far = pair
    done = trio.Event()
    async with open_fibers() as fibers:
        near.send(b"a head")
        fibers.start(wait_read(near, done))
        await settled()
        assert not done.is_set()
        assert far.recv(100) == b"a head"
        with trio.fail_after(PATIENCE):
            await done.wait()


async def test_a_descriptor_that_came_along_does_not_hide_it(pair):
    near, far = pair
    done = trio.Event()
    async with open_fibers() as fibers:
        send_fds(near, b"a head", [near.fileno()])
        fibers.start(wait_read(near, done))
        await settled()
        data, (fd,), _ = recv_fds(far, 100, 1)
        os.close(fd)
        assert data == b"a head"
        with trio.fail_after(PATIENCE):
            await done.wait()


async def test_reading_in_pieces_wakes_after_the_last(pair):
    near, far = pair
    done = trio.Event()
    async with open_fibers() as fibers:
        for data in (b"abc", b"def"):
            near.send(data)
        fibers.start(wait_read(near, done))
        for _ in range(6):
            await settled()
            assert not done.is_set()
            far.recv(1)
        with trio.fail_after(PATIENCE):
            await done.wait()


async def test_a_full_buffer_that_is_read_wakes_after_the_last(pair):
    """The kernel tells of room only from three quarters on; the last byte is behind that."""
    near, far = pair
    done = trio.Event()
    async with open_fibers() as fibers:
        while True:
            try:
                near.send(bytes(1000))
            except BlockingIOError:
                break
        fibers.start(wait_read(near, done))
        await settled()
        assert not done.is_set()
        far.recv(1000)
        await settled()
        assert not done.is_set()
        drain(far)
        with trio.fail_after(PATIENCE):
            await done.wait()


async def test_a_read_between_the_question_and_the_wait_is_not_lost(pair):
    near, far = pair
    log = []

    async def job():
        for number in range(3):
            near.send(b"x")
            assert unread_bytes(near)
            far.recv(1)
            await wait_news(near, NEVER)
            log.append(number)

    async with open_fibers() as fibers:
        fibers.start(job())
        await settled()
        assert log == [0, 1, 2]


READER = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while sock.recv(4096):
    pass
"""


async def test_another_process_that_reads_wakes_us_every_time(pair):
    """In the moment of the wake the kernel has not taken everything off its account yet."""
    near, far = pair
    far.setblocking(True)
    done = trio.Event()

    async def job():
        for _ in range(1000):
            near.send(b"a head")
            while unread_bytes(near):
                await wait_news(near, NEVER)
        done.set()

    with subprocess.Popen(
        [sys.executable, "-c", READER, str(far.fileno())], pass_fds=[far.fileno()]
    ) as reader:
        async with open_fibers() as fibers:
            fibers.start(job())
            try:
                with trio.fail_after(15):
                    await done.wait()
            finally:
                near.shutdown(socket.SHUT_WR)
        assert reader.wait() == 0
