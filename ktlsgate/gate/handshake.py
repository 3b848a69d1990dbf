"""Drive a handshake over a socket: read exactly, send everything, repeat.

Keeps invariant I2 (nothing read ahead): never reads more than the core wants.

Cancellation leaves the handshake where it was; the socket is of no use to
anybody else then and must be closed.
"""

from __future__ import annotations

import contextlib
import socket

from ..errors import HandshakeFailed
from ..wire.handshake import Handshake
from .stream import recv, send_all

__all__ = ["perform_handshake"]


async def perform_handshake(sock: socket.socket, handshake: Handshake) -> None:
    """Run until established, all output sent.

    Raises:
        HandshakeFailed: with the reason class; the client got OpenSSL's alert, if
            there was one and room for it.
    """
    try:
        while not handshake.is_established:
            if handshake.receive_data(await recv(sock, handshake.wanted)):
                output = handshake.data_to_send()
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
