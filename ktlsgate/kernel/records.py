"""Records on an offloaded socket: content types travel as ancillary data.

Rule: one system call a function, errno untouched. A plain ``recv`` on an
offloaded socket fails with EIO while a control record (an alert, a KeyUpdate)
is next, again and again; `recv_record` is the call that takes it.
Source: Documentation/networking/tls.rst, "Send TLS control messages".
"""

from __future__ import annotations

import socket

from ..wire.records import ContentType
from .ktls import SOL_TLS

__all__ = ["recv_record", "send_record"]

_SET_RECORD_TYPE = 1  # linux/tls.h: TLS_SET_RECORD_TYPE
_GET_RECORD_TYPE = 2
_SPACE = socket.CMSG_SPACE(1)


def recv_record(sock: socket.socket, size: int, flags: int = 0) -> tuple[int, bytes]:
    """Receive data of one or more application records, or of one control record.

    Args:
        sock: offloaded, or plain (then all is application data).
        size: at most so many bytes; a longer control record comes in pieces.
        flags: ``MSG_DONTWAIT``, ``MSG_PEEK``.

    Returns:
        The content type and the data; ``(23, b"")`` is the end of the TCP stream.

    Raises:
        OSError: EBADMSG, EMSGSIZE, EINVAL for a bad record; EKEYEXPIRED after a
            KeyUpdate; EAGAIN; ECONNRESET.
    """
    data, ancillary, _, _ = sock.recvmsg(size, _SPACE, flags)
    for level, kind, value in ancillary:
        if level == SOL_TLS and kind == _GET_RECORD_TYPE:
            return value[0], data
    return ContentType.APPLICATION_DATA, data


def send_record(sock: socket.socket, content_type: int, data: bytes, flags: int = 0) -> int:
    """Send one control record; the kernel encrypts it.

    Raises:
        OSError: EAGAIN when the send buffer is full (a close_notify can fail so).
    """
    return sock.sendmsg([data], [(SOL_TLS, _SET_RECORD_TYPE, bytes((content_type,)))], flags)
