"""Signals during a blocking send: does the connection live, and does all the data come?

Theory: a signal that comes while ``send`` waits for room ends the call early. Kernels up
to some release of 6.12 then lost track of the record that was half sent: the errno that
restarts a system call (512, ERESTARTSYS) leaked to the caller, and the connection was
dead. Seen only on sockets without O_NONBLOCK, which are not what the gate hands over.

One thread is enough: nobody reads but the signal's handler, so every ``send`` of more
than the buffers hold waits for the next signal. The trial takes the process's SIGALRM,
its main thread and a second, so it is made on request only. Observed: on 6.1.176 and
6.12.101 the first signals break it, within 0.1 s; 7.2.7 loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import signal
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .trials import TIMEOUT

__all__ = ["send_under_signals"]

_SECONDS = 1.0
_INTERVAL = 0.002  # seconds between signals
_FEWEST = 20  # signals without which the trial says nothing
_PIECE = bytes(range(256)) * 1200  # 307,200 bytes: a few fill both buffers
_BUFFER = 65536
# What is read at a time differs, so that sends wait in every place that they can wait in.
_READS = (3_000, 50_000, 20_000, 7_000, 65_536)


@dataclass(slots=True)
class _Tally:
    """How much it was, and its checksum."""

    size: int = 0
    crc: int = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.crc = zlib.crc32(data, self.crc)


@contextlib.contextmanager
def _signals(act: Callable[[], None]) -> Iterator[list[int]]:
    """Signal this process all the time, and act each time; the list's item counts."""
    count = [0]
    acting = False

    def handle(_number: int, _frame: object) -> None:
        nonlocal acting
        count[0] += 1
        if not acting:  # the next signal may come while this one is handled
            acting = True
            act()
            acting = False

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, _INTERVAL, _INTERVAL)
    try:
        yield count
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _send(sock: socket.socket) -> _Tally:
    sent = _Tally()
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        sock.sendall(_PIECE)
        sent.add(_PIECE)
    sock.shutdown(socket.SHUT_WR)
    return sent


def send_under_signals(sender: socket.socket, receiver: socket.socket) -> str | None:
    """Send for a second while signals come; say what went wrong, if anything did.

    Args:
        sender: with a sending key; it is left blocking, and shut down.
        receiver: with the receiving key.

    Raises:
        ValueError: this is not the main thread.
        RuntimeError: hardly any signal came.
        OSError: receiving went wrong.
    """
    came = _Tally()

    sizes = itertools.cycle(_READS)

    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            came.add(receiver.recv(next(sizes)))

    receiver.settimeout(0)
    sender.settimeout(None)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    # Signals end every wait here, unless a kernel holds them back: then this does.
    milliseconds = int(1000 * (_SECONDS + TIMEOUT))
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    with _signals(drain) as count:
        try:
            sent = _send(sender)
        except OSError as exc:
            name = errno.errorcode.get(exc.errno or 0, f"errno {exc.errno}")
            return f"a signal during a blocking send broke the connection ({name})"
    receiver.settimeout(TIMEOUT)
    while data := receiver.recv(_BUFFER):
        came.add(data)
    if count[0] < _FEWEST:
        raise RuntimeError(f"only {count[0]} signals came")
    if sent != came:
        return f"{sent.size} bytes were sent, but {came.size} came, or not the same"
    return None
