"""A `socket.socket` whose timeout is ours, not the kernel's: O_NONBLOCK stays as it is.

Python makes a socket with a timeout non-blocking, and one without blocking. On a
listener or a client's connection that flag is shared with other processes, so here
the number is only kept, and whoever waits does it by poll.
"""

from __future__ import annotations

import io
import math
import socket
import time
from typing import NoReturn

__all__ = ["TimedSocket", "seconds_left"]


class TimedSocket(socket.socket):
    """What both kinds of our sockets share. `detach` and `dup` are refused by an OSError."""

    _seconds: float | None = None

    def settimeout(self, value: float | None, /) -> None:
        """Bound every later call, None for no bound; 0 never waits."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._seconds = value

    def gettimeout(self) -> float | None:
        """The bound that `settimeout` set, in seconds."""
        return self._seconds

    @property
    def timeout(self) -> float | None:
        """The bound that `settimeout` set, in seconds."""
        return self._seconds

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 - the base class's
        """Wait in every call, or never."""
        self._seconds = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether calls wait."""
        return self._seconds != 0

    def detach(self) -> NoReturn:
        """Refuse: the number alone is not the connection."""
        raise io.UnsupportedOperation("expected close, got detach: the number alone is not it")

    def dup(self) -> NoReturn:
        """Refuse, as `detach`."""
        raise io.UnsupportedOperation("expected one owner, got dup: the number alone is not it")

    def deadline(self, flags: int = 0) -> float:
        """When a call with these flags gives up, by the monotonic clock; 0 is at once."""
        if self._seconds == 0 or flags & socket.MSG_DONTWAIT:
            return 0.0
        return math.inf if self._seconds is None else time.monotonic() + self._seconds


def seconds_left(deadline: float) -> float:
    """Seconds until a deadline.

    Raises:
        TimeoutError: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
