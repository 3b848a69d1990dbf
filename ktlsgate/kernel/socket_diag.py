"""Ask the kernel about a TCP socket of another process (netlink, ``sock_diag``).

Rule: one question, one answer; what the bytes mean is `ktlsgate.wire.inet_diag`'s.
"""

from __future__ import annotations

import errno
import os
import socket

from ..wire.inet_diag import SocketAnswer, build_question, parse_answer

__all__ = ["find_socket"]

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_ANSWER_SIZE = 8192  # bytes; one socket with every attribute needs a few hundred
_TIMEOUT = 1.0  # seconds; the kernel answers within the send


def find_socket(local: tuple[str, int], peer: tuple[str, int]) -> SocketAnswer | None:
    """Look for the connection with these ends in this network namespace.

    Args:
        local: the address of the end that is asked about.
        peer: the address of its other end.

    Returns:
        ``None`` where there is none: it is in another namespace, or closed.

    Raises:
        OSError: the kernel does not answer such questions, or not to us.
        ValueError: an address or the answer cannot be read.
    """
    question = build_question(local, peer)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_TIMEOUT)
        sock.sendto(question, (0, 0))
        answer = parse_answer(sock.recv(_ANSWER_SIZE))
    if isinstance(answer, SocketAnswer):
        # Without such a connection the kernel finds the listener instead.
        return answer if answer.is_established and answer.peer_port == peer[1] else None
    if answer == errno.ENOENT:
        return None
    raise OSError(answer, os.strerror(answer))
