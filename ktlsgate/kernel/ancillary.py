"""File descriptors beside bytes on Unix sockets, and who is at the other end.

Rule: one system call a function. Linux attaches a descriptor to the first byte
of the message that carries it, ends a read at such a message's border, and
drops descriptors for which the reader made no room (MSG_CTRUNC). See unix(7).
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from typing import NamedTuple

__all__ = ["PeerCredentials", "peer_credentials", "recv_fds", "send_fds", "unread_bytes"]

_SEND = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_FD_SIZE = array.array("i").itemsize
_UCRED = struct.Struct("iII")  # pid, uid, gid: struct ucred of linux/socket.h


class PeerCredentials(NamedTuple):
    """Who connected or listened (SO_PEERCRED): process, user and group."""

    pid: int
    uid: int
    gid: int


def send_fds(sock: socket.socket, data: bytes, fds: list[int]) -> int:
    """Send bytes with descriptors on the first of them.

    Returns:
        How many bytes went; it may be fewer than all, and the descriptors went then too.

    Raises:
        OSError: EAGAIN and nothing went; EPIPE or ECONNRESET when the peer is gone.
    """
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    return sock.sendmsg([data], [rights], _SEND)


def recv_fds(
    sock: socket.socket, size: int, max_fds: int, flags: int = 0
) -> tuple[bytes, list[int], bool]:
    """Receive bytes and the descriptors that came with them, close-on-exec set.

    Returns:
        The bytes, the descriptors (the caller's to close), and whether some were
        dropped because more than ``max_fds`` came.
    """
    data, ancillary, msg_flags, _ = sock.recvmsg(
        size, socket.CMSG_SPACE(max_fds * _FD_SIZE), flags | socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(value[: len(value) - len(value) % _FD_SIZE])
    return data, list(fds), bool(msg_flags & socket.MSG_CTRUNC)


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Ask the kernel who is at the other end of a Unix socket."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(raw))


def unread_bytes(sock: socket.socket) -> int:
    """How much of what we sent the peer of a Unix socket has not read yet.

    In units of the kernel's own accounting (SIOCOUTQ, unix(7)): 0 means that the
    peer has read every byte, descriptors included; more means that it has not.
    """
    buffer = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, buffer)
    # A message counts hundreds. Freeing one that was read, the kernel (sock_wfree) keeps
    # 1 of them until it has woken us, and we may ask before it goes on: no wake follows.
    return buffer[0] if buffer[0] > 1 else 0


def close_all(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)
