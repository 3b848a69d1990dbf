"""What the tests of fibers share: pairs of sockets, places to wait, and a log of times."""

import contextlib
import errno
import os
import pathlib
import select
import socket
import types

import pytest
import trio
import trio.testing

from ktlsgate.gate import fibers as fibers_module
from ktlsgate.gate.fibers import sleep, this_fiber, wait_news, wait_readable, wait_writable

settled = trio.testing.wait_all_tasks_blocked


@contextlib.contextmanager
def open_pairs():
    """Makes pairs of Unix sockets that do not block; closes them."""
    with contextlib.ExitStack() as stack:

        def make():
            both = [stack.enter_context(one) for one in socket.socketpair()]
            for one in both:
                one.setblocking(False)
            return both

        yield make


def assert_no_fiber():
    """The caller runs in none."""
    with pytest.raises(AssertionError) as caught:
        this_fiber()
    assert str(caught.value) == "expected to run in a fiber, and not in a Trio task"


class FullEpoll:
    """An epoll set that takes so many descriptors, and then none any more."""

    def __init__(self, room, code):
        self._set, self.room, self._code = select.epoll(), room, code

    def register(self, descriptor, events):
        if not self.room:
            raise OSError(self._code, os.strerror(self._code))
        self.room -= 1
        self._set.register(descriptor, events)

    def __getattr__(self, name):
        return getattr(self._set, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._set.close()


def limit_watches(monkeypatch, room, code=errno.ENOSPC):
    """Let every set of fibers from now on take so many descriptors."""
    made = types.SimpleNamespace(epoll=lambda: FullEpoll(room, code))
    monkeypatch.setattr(fibers_module, "select", made)


def watched(fibers):
    """The descriptors in the set, as the kernel tells them."""
    lines = pathlib.Path(f"/proc/self/fdinfo/{fibers._epoll.fileno()}").read_text().splitlines()
    return sorted(int(line.split()[1]) for line in lines if line.startswith("tfd:"))


async def recv(sock, size=100):
    """Try, and wait after EAGAIN: what all readers do."""
    while True:
        try:
            return sock.recv(size)
        except BlockingIOError:
            await wait_readable(sock)


def fill(sock):
    """Send until there is no room; how many bytes that took."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += sock.send(bytes(65_536))
    return count


def drain(sock):
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1 << 20):
            pass


class Log(list):
    """What happened, with the time of Trio's clock since the test began."""

    def __init__(self):
        self.began = trio.current_time()

    def note(self, what):
        self.append((what, round(trio.current_time() - self.began, 6)))


class Steps(trio.abc.Instrument):
    """Counts how often tasks ran."""

    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += 1


async def wait_for_room(sock):
    fill(sock)
    await wait_writable(sock)


async def wait_news_long(sock):
    await wait_writable(sock)
    await wait_news(sock, 1000)


WAITS = {
    "readable": wait_readable,
    "writable": wait_for_room,
    "news": wait_news_long,
    "sleep": lambda _: sleep(1000),
}
