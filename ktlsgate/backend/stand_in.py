"""A descriptor number that is readable until it becomes a socket.

The request head is in no kernel buffer, so a server that waits for a client to be
readable would wait for ever. Until the head was read the number is an eventfd, which is
readable and writable; then, by dup2, the client's socket. Who looks the number up at each
turn (select, poll), or takes it out of an epoll set and puts it in again, notices nothing.
An epoll set in which the eventfd is left loses it, since dup2 closes it.
"""

from __future__ import annotations

import os

__all__ = ["StandIn"]


class StandIn:
    """An eventfd in a socket's place.

    Args (of the constructor):
        number: an open descriptor, which gives way.
        target: what the number becomes in the end; stays its owner's.
    """

    def __init__(self, number: int, target: int) -> None:
        self._number, self._target = number, target
        eventfd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        os.dup2(eventfd, number, inheritable=False)
        os.close(eventfd)
        self._is_over = False

    def end(self) -> None:
        """Make the number what it stands for; only while both are open. Idempotent."""
        if not self._is_over:
            self._is_over = True
            os.dup2(self._target, self._number, inheritable=False)
