"""Bytes in and out of a raw socket: try first, wait only when the kernel says so.

Rule: nothing here interprets a byte. Idiomatic streams would cost twice the CPU
per connection (measured), so sessions call the kernel directly. All calls pass
MSG_DONTWAIT: a descriptor may be shared with a backend, and O_NONBLOCK with it,
and a backend that clears it must not stop our event loop.

Cancellation: `recv` takes nothing. `send_all` may have sent any part.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Coroutine
from typing import Any

from .fibers import wait_readable, wait_writable

__all__ = ["peek", "recv", "recv_exactly", "send_all"]

_RECV = int(socket.MSG_DONTWAIT)
_PEEK = int(socket.MSG_DONTWAIT | socket.MSG_PEEK)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


async def _recv(sock: socket.socket, size: int, flags: int) -> bytes:
    # Linux 6.1 calls an offloaded socket readable while half a record is there, and then
    # has nothing. That cannot spin us: the wait is for changes only.
    while True:
        try:
            return sock.recv(size, flags)
        except BlockingIOError:
            await wait_readable(sock)


def recv(sock: socket.socket, size: int) -> Coroutine[Any, Any, bytes]:
    """Receive 1 to ``size`` bytes; ``b""`` is the end of the stream.

    Raises:
        OSError: as recv(2) says, EAGAIN aside.
    """
    return _recv(sock, size, _RECV)


def peek(sock: socket.socket, size: int) -> Coroutine[Any, Any, bytes]:
    """Look at 1 to ``size`` bytes and leave them in the socket."""
    return _recv(sock, size, _PEEK)


async def recv_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive bytes that are known to be there.

    Raises:
        OSError: as recv(2) says; ECONNRESET also when the stream ends in between.
    """
    data = await _recv(sock, size, _RECV)
    while len(data) < size:
        more = await _recv(sock, size - len(data), _RECV)
        if not more:
            raise OSError(errno.ECONNRESET, "stream ended inside what was there a moment ago")
        data += more
    return data


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send every byte.

    Raises:
        OSError: EPIPE or ECONNRESET when the peer is gone.
    """
    sent = 0
    while True:
        try:
            sent += sock.send(data[sent:] if sent else data, _SEND)
        except BlockingIOError:
            await wait_writable(sock)
        if sent == len(data):
            return
