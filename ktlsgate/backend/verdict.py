"""The receiver's end of the verdict connection in mode RELAY.

`ktlsgate.wire.handoff` defines the verdicts. `RECEIVED` was written when the
handoff was taken; what became of that byte tells how the client's data ended:
taken by the gate is clean, reset is cut. The gate may keep its end open behind a
clean end, to hear `FINISHED`.
"""

from __future__ import annotations

import contextlib
import socket

from ..kernel.ancillary import unread_bytes
from ..wire.handoff import FINISHED

__all__ = ["Verdict"]


class Verdict:
    """What the gate and we tell each other about ends; without a socket nothing is told."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock
        self._has_finished = False

    def was_clean(self) -> bool:
        """Whether the client's data, now at its end, ended as the client wanted."""
        if self._sock is None:
            return True
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        # A RECEIVED that nobody took and nobody reset: the gate died between its two
        # closes. Behind FINISHED the count no longer says which of the bytes it is.
        return self._has_finished or unread_bytes(self._sock) == 0

    def send_finished(self) -> None:
        """Tell that our data is complete, before its end is sent."""
        self._has_finished = True
        if self._sock is not None:
            # A gate that has closed its end needs no verdict any more.
            with contextlib.suppress(ConnectionError):
                self._sock.send(FINISHED, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
