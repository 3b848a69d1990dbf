"""Listening sockets, addresses and what TCP says of a connection.

Rule: one purpose a function, no policy. Options that accepted sockets inherit
are set on the listener, once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import struct
import sys
import termios
from collections.abc import Sequence
from typing import Any

__all__ = [
    "bind_listeners",
    "bytes_acked",
    "bytes_taken",
    "format_address",
    "has_only_sent_end",
    "is_established",
    "is_hung_up",
    "parse_address",
    "unmap_address",
]

_PORT_TRIES = 8  # ports that the kernel gives for IPv4 and may have given away for IPv6
_ESTABLISHED = 1  # in tcpi_state (linux/tcp.h, net/tcp_states.h)
_FIN_WAIT = (4, 5)  # TCP_FIN_WAIT1 and 2
_BYTES_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked in struct tcp_info (linux/tcp.h)
_BYTES_RECEIVED = struct.Struct("=128xQ")  # tcpi_bytes_received


def parse_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; ``*`` and an empty host mean every address.

    Raises:
        ValueError: there is no port between 0 and 65535.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"expected HOST:PORT with a port from 0 to 65535, got {address!r}")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    return ("" if host == "*" else host), int(port)


def format_address(address: tuple[str, int]) -> str:
    """``192.0.2.1:443`` or ``[2001:db8::1]:443``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmap_address(address: tuple[str, int] | tuple[str, int, int, int]) -> tuple[str, int]:
    """Cut a socket address to address and port; an IPv4 client of a v6 socket is IPv4."""
    return address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1]


def bind_listeners(address: str, backlog: int) -> list[socket.socket]:
    """Bind and listen on every address that ``HOST:PORT`` stands for.

    An empty host is one socket for IPv4 and one for IPv6 (the latter only where
    the kernel has it). A port of 0 is chosen once and shared by all of them.
    TCP_NODELAY is inherited by accepted sockets.

    Raises:
        OSError: nothing could be bound; earlier sockets are closed.
        ValueError: no HOST:PORT.
    """
    host, port = parse_address(address)
    rows = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # IPv4 first: it decides on the port, and is the one that must not be missing.
    places = [(row[0], row[4]) for row in sorted(dict.fromkeys(rows), key=lambda row: row[0])]
    for _ in range(0 if port else _PORT_TRIES):
        bound, failure = _bind_places(places, 0, backlog, may_lack_ipv6=not host)
        if failure != errno.EADDRINUSE:
            return bound
        for sock in bound:  # the port that IPv4 was given is somebody's on IPv6
            sock.close()
    return _bind_places(places, port, backlog, may_lack_ipv6=not host)[0]


def _bind_places(
    places: Sequence[tuple[int, Any]], port: int, backlog: int, *, may_lack_ipv6: bool
) -> tuple[list[socket.socket], int]:
    """Bind every place, all on one port; and the errno that IPv6 is missing for, 0 for none."""
    bound: list[socket.socket] = []
    failure = 0
    try:
        for family, where in places:
            chosen = bound[0].getsockname()[1] if bound else port
            try:
                bound.append(_bind_listener(family, (where[0], chosen, *where[2:]), backlog))
            except OSError as exc:
                if not (bound and may_lack_ipv6 and family == socket.AF_INET6):
                    raise
                failure = exc.errno or 0
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return bound, failure


def _bind_listener(family: int, where: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(backlog)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def bytes_acked(sock: socket.socket) -> int:
    """How many bytes the peer has acknowledged so far (TCP_INFO); 0 where unknown."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
    if len(raw) < _BYTES_ACKED.size:
        return 0
    (acked,) = _BYTES_ACKED.unpack(raw)
    return int(acked)


def bytes_taken(sock: socket.socket) -> int:
    """How many received bytes were read from the socket so far; 0 where unknown.

    To be asked while no record of it is decrypted by the kernel.
    """
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
    if len(raw) < _BYTES_RECEIVED.size:
        return 0
    (received,) = _BYTES_RECEIVED.unpack(raw)
    unread = int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)
    return int(received) - unread


def is_established(sock: socket.socket) -> bool:
    """Whether neither side has ended its stream, and nobody has reset it (TCP_INFO)."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED


def has_only_sent_end(sock: socket.socket) -> bool:
    """Whether this side has sent its FIN, and the peer's has not come (TCP_INFO)."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _FIN_WAIT


def is_hung_up(sock: socket.socket) -> bool:
    """Whether the other end of a Unix socket is closed in both directions."""
    poll = select.poll()
    poll.register(sock, 0)  # POLLHUP is always reported
    return any(events & select.POLLHUP for _, events in poll.poll(0))
