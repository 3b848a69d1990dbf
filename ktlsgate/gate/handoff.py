"""Give a head and a descriptor to a backend, and know whether it took them.

Keeps invariant I1 (one owner): ownership moves at the acknowledgement, not at
``sendmsg``. `ktlsgate.wire.handoff` tells what counts as one and why every
reader gives it. Until then the gate can still answer the client.

No wait stands between the acknowledgement and the caller's knowledge of it.
"""

from __future__ import annotations

import errno
import os
import socket

from ..config import Backend
from ..errors import BackendFailed, BackendUnavailable
from ..kernel.ancillary import peer_credentials, send_fds, unread_bytes
from .fibers import give_way, sleep, stop_watching, wait_news, wait_writable
from .stream import send_all

__all__ = ["hand_off", "open_connection", "send_first"]

_STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

_FIRST_PAUSE = 0.001
_LAST_PAUSE = 0.05

_ABSENT = {
    errno.ENOENT: ("backend_absent", "no socket file"),
    errno.ECONNREFUSED: ("backend_absent", "nobody listens"),
    errno.EACCES: ("backend_forbidden", "no permission to connect"),
    errno.EPERM: ("backend_forbidden", "no permission to connect"),
}


async def hand_off(
    backend: Backend, head: bytes, descriptor: socket.socket, *, keeps_open: bool
) -> socket.socket:
    """Pass a descriptor to a backend and wait until it has taken it.

    Args:
        backend: where to.
        head: the encoded handoff.
        descriptor: goes along on the first byte; stays the caller's to close.
        keeps_open: whether input follows the head (mode TX), or the caller closes the
            connection next. Otherwise the sending side is shut down behind it.

    Returns:
        The Unix connection, the caller's to close.

    Raises:
        BackendUnavailable: nobody is there, or does not accept (503).
        BackendFailed: the wrong user listens, or the backend went away (502).

    Cancellation: the backend may still take the descriptor later. Who answers the
    client after that must shut its socket down, which all holders feel.
    """
    sock = await open_connection(backend)
    try:
        try:
            await _send_head(sock, head, descriptor)
            if not keeps_open:
                sock.shutdown(socket.SHUT_WR)
            await _wait_acknowledged(sock)
        except OSError as exc:
            raise BackendFailed(
                "backend_died", f"backend {backend.name} went away: {exc.strerror}"
            ) from exc
    except BaseException:
        stop_watching(sock)
        sock.close()
        raise
    return sock


async def open_connection(backend: Backend) -> socket.socket:
    """Connect to a backend, and see that it is the right user's.

    Raises:
        BackendUnavailable: nobody is there, or does not accept (503).
        BackendFailed: the wrong user listens (502).
    """
    sock = _open_socket()
    try:
        await _connect(sock, backend)
        _check_peer(sock, backend)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_UNIX, _STREAM)
    except OSError as exc:
        raise BackendUnavailable(
            "no_descriptors", f"expected a descriptor for the handoff, got: {exc.strerror}"
        ) from exc


async def _connect(sock: socket.socket, backend: Backend) -> None:
    address = backend.address
    where = "\0" + address[1:] if address.startswith("@") else address
    pause = _FIRST_PAUSE
    while True:
        try:
            sock.connect(where)
            return
        except BlockingIOError:  # its queue is full; the deadline is the caller's
            await sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        except OSError as exc:
            reason, text = _ABSENT.get(exc.errno or 0, ("backend_absent", str(exc)))
            raise BackendUnavailable(
                reason, f"backend {backend.name} at {address}: {text}"
            ) from exc


def _check_peer(sock: socket.socket, backend: Backend) -> None:
    if backend.peer_uid is None:
        return
    uid = peer_credentials(sock).uid
    if uid != backend.peer_uid:
        raise BackendFailed(
            "backend_wrong_user",
            f"backend {backend.name}: expected uid {backend.peer_uid} to listen, got {uid}",
        )


def send_first(sock: socket.socket, head: bytes, descriptor: socket.socket) -> int:
    """Send what there is room for, the descriptor on its first byte; how many bytes.

    Raises:
        BackendUnavailable: more descriptors are on their way than the system allows this
            user (unix(7): ETOOMANYREFS); that is no fault of the backend.
        OSError: EAGAIN, or the backend went away.
    """
    try:
        return send_fds(sock, head, [descriptor.fileno()])
    except OSError as exc:
        if exc.errno != errno.ETOOMANYREFS:
            raise
        raise BackendUnavailable(
            "no_descriptors", f"expected room for a descriptor on its way, got: {exc.strerror}"
        ) from exc


async def _send_head(sock: socket.socket, head: bytes, descriptor: socket.socket) -> None:
    """Send all of the head, the descriptor on its first byte; a short send is continued."""
    while True:
        try:
            sent = send_first(sock, head, descriptor)
            break
        except BlockingIOError:
            await wait_writable(sock)
    if sent < len(head):
        await send_all(sock, head[sent:])


async def _wait_acknowledged(sock: socket.socket) -> None:
    """Return when the peer has read everything we sent.

    A peer that reads wakes us, and one that closes. The kernel may not have counted the
    last of it by then, so that it is asked at growing intervals besides.
    """
    await give_way()  # most have read it by then
    pause = _FIRST_PAUSE
    while unread_bytes(sock):
        await wait_news(sock, pause)
        pause = min(2 * pause, _LAST_PAUSE)
    # Closing a Unix socket with bytes unread frees them, but resets us; an answer
    # in front of the reset would hide it from recv.
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
