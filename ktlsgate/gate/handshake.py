"""Drive a handshake over a socket: look, give OpenSSL what it wants, take that, send.

Keeps invariant I2 (nothing read ahead): what lies behind the last handshake record is
looked at (MSG_PEEK) and stays in the socket. Only the first flight is taken as it
comes: before our own first flight has left, nobody can have sealed data for us.

Cancellation leaves the handshake where it was; the socket is of no use to
anybody else then and must be closed.
"""

from __future__ import annotations

import contextlib
import socket

from ..errors import HandshakeFailed
from ..wire.handshake import Handshake
from .fibers import wait_readable
from .stream import peek, recv, recv_exactly, send_all

__all__ = ["perform_handshake"]

_FLIGHT = 16_384


async def perform_handshake(sock: socket.socket, handshake: Handshake) -> None:
    """Run until established, all output sent.

    Raises:
        HandshakeFailed: with the reason class; the client got OpenSSL's alert, if
            there was one and room for it.
    """
    try:
        await wait_readable(sock)  # a client that has just connected has not said anything yet
        await _receive_first_flight(sock, handshake)
        while not handshake.is_established:
            used, output = _receive(handshake, await peek(sock, _FLIGHT))
            await recv_exactly(sock, used)
            if output:
                await send_all(sock, output)
    except HandshakeFailed:
        alert = handshake.data_to_send()
        if alert:
            # One try: who does not read its alert must not keep us.
            with contextlib.suppress(OSError):
                sock.send(alert, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        raise
    except OSError as exc:
        raise HandshakeFailed("client_gone", f"the client is gone: {exc.strerror}") from exc


async def _receive_first_flight(sock: socket.socket, handshake: Handshake) -> None:
    """Return when our own first flight was sent, and all that was taken is used."""
    has_spoken = False
    while not has_spoken:
        data = await recv(sock, _FLIGHT)
        while True:
            used, output = _receive(handshake, data)
            if output:
                has_spoken = True
                await send_all(sock, output)
            data = data[used:]
            if not data:
                break


def _receive(handshake: Handshake, data: bytes) -> tuple[int, bytes]:
    """Give a handshake what it wants of some bytes, until it has something to say or is done.

    Returns:
        How many bytes it took, and what to send.
    """
    used = 0
    while True:
        piece = data[used : handshake.cut(data, used)]
        used += len(piece)
        if handshake.receive_data(piece):
            output = handshake.data_to_send()
            if output or handshake.is_established:
                return used, output
        if used == len(data):
            return used, b""
