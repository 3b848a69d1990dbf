"""The gate's end of the Unix connection on which verdicts travel.

`ktlsgate.wire.handoff` tells what they mean. Here they are: bytes left unread, a
byte read away, a close. Nothing here waits: who gives a backend a moment to speak
asks again when it did, or when `Verdict.patience_ends`.
"""

from __future__ import annotations

import contextlib
import socket

from ..wire.handoff import FINISHED, RECEIVED
from .fibers import now

__all__ = ["Verdict"]

# How long after its acknowledgement a receiver may still be about to write RECEIVED;
# an end that comes sooner waits. Who never writes it is not waited for later on.
_VERDICT_SECONDS = 1.0


class Verdict:
    """Our end of the Unix connection on which verdicts travel.

    Attributes:
        sock: the socket; nobody may watch it any more when `close` is called.
        patience_ends: when `is_open` will be false at the latest, by Trio's clock.
    """

    __slots__ = ("_is_spoken", "_is_understood", "_was_clean", "patience_ends", "sock")

    def __init__(self, sock: socket.socket, *, is_spoken: bool) -> None:
        """Take a Unix connection whose head was acknowledged just now.

        Args:
            sock: what travels on it besides is not ours to read.
            is_spoken: whether the dialect has verdicts.
        """
        self.sock = sock
        self._is_spoken = is_spoken
        self._is_understood = False
        self._was_clean = False
        self.patience_ends = now() + _VERDICT_SECONDS

    def _said(self) -> bytes:
        """What the receiver said and we have not read away: RECEIVED, FINISHED, both."""
        with contextlib.suppress(OSError):
            return self.sock.recv(2, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return b""

    def is_open(self) -> bool:
        """Whether a receiver that is only just reading its head may still say something."""
        return self._is_spoken and not self._said() and now() < self.patience_ends

    def tell(self, *, is_clean: bool) -> bool:
        """Tell the receiver how its input ended, before that end itself is sent.

        That it was cut is told by `close`, which resets the receiver since `RECEIVED`
        is left unread: the caller's to do, when nobody watches the socket.

        Returns:
            Whether it understands verdicts.
        """
        if not self._is_spoken or self._said()[:1] != RECEIVED:
            return False
        self._is_understood = True
        if is_clean:
            self._was_clean = True
            with contextlib.suppress(OSError):
                self.sock.recv(1, socket.MSG_DONTWAIT)
        return True

    def is_output_finished(self) -> bool:
        """Whether the receiver ended its output on purpose; yes if it has no way to say."""
        said = self._said() if self.sock.fileno() >= 0 else b""
        self._is_understood |= said[:1] == RECEIVED
        return FINISHED in said or not self._is_understood

    def close(self) -> None:
        """Close our end; once is enough."""
        if self.sock.fileno() >= 0:
            if self._was_clean:  # a FINISHED left unread would take the verdict back
                with contextlib.suppress(OSError):
                    self.sock.recv(2, socket.MSG_DONTWAIT)
            self.sock.close()
