"""Plain calls at the news of descriptors: for what must not cost a coroutine and a wait.

A fiber (`ktlsgate.gate.fibers`) that moves bytes is resumed through all the coroutines
that it consists of, twice for each request that passes. A *handler* is called instead,
with what epoll says; what it has to remember it keeps in one small object.

Rules:

* A handler does not wait, and does one chunk of work. If there may be more, it asks to
  be called again: that is behind everybody else who has news now.
* It raises nothing: there is no barrier between it and the loop.
* The set is edge-triggered: try until the kernel says EAGAIN, or gives less than was
  asked for, which says the same of a stream (epoll(7)).
* A descriptor is removed before it is closed or given away. What a handler asked to
  have called again is called all the same, once.
"""

from __future__ import annotations

import collections
import errno
import select
from collections.abc import Callable

from ..errors import ResourceShortage

__all__ = ["Handlers", "explain_refusal"]

# What epoll_ctl(2) says when the machine is at its end: reason, what to do about it.
_SHORTAGES = {
    errno.ENOSPC: ("no_watches", "; raise fs.epoll.max_user_watches"),
    errno.ENOMEM: ("no_memory", ""),
}


def explain_refusal(error: OSError) -> ResourceShortage | AssertionError:
    """Say why an epoll set took no descriptor: no peer's fault, so nothing that a peer can raise.

    Returns:
        What to raise: a shortage of this machine's, or a bug of ours.
    """
    text = f"expected an epoll set to take a descriptor, got: {error.strerror}"
    if error.errno not in _SHORTAGES:
        return AssertionError(text)
    reason, advice = _SHORTAGES[error.errno]
    return ResourceShortage(reason, text + advice)


class Handlers:
    """Who is called for which descriptor of an epoll set.

    Attributes:
        of: the handlers by descriptor.
        turns: who has asked to be called again.
        load: bytes moved in bulk since Trio's tasks had their turn.
    """

    __slots__ = ("_epoll", "load", "of", "turns")

    def __init__(self, epoll: select.epoll) -> None:
        """Share a set whose owner polls it and calls the handlers."""
        self._epoll = epoll
        self.turns: collections.deque[Callable[[], None]] = collections.deque()
        self.of: dict[int, Callable[[int], None]] = {}
        self.load = 0

    def add(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        """Call a handler at news of a descriptor; what is there already is news.

        Args:
            descriptor: open, and in the set for nobody else.
            events: of epoll's; that they are told as edges is added.
            handler: gets the events that are there.

        Raises:
            ResourceShortage: the machine has no room for one more; nobody is called.
            AssertionError: the set refuses the descriptor: a bug of ours.
        """
        try:
            self._epoll.register(descriptor, events | select.EPOLLET)
        except OSError as exc:
            raise explain_refusal(exc) from exc
        self.of[descriptor] = handler

    def change(self, descriptor: int, events: int) -> None:
        """Ask for other events; those that are there already are news again."""
        self._epoll.modify(descriptor, events | select.EPOLLET)

    def remove(self, descriptor: int) -> None:
        """Call nobody any more; once is enough.

        Raises:
            AssertionError: the descriptor was closed before, so that its number may be
                somebody else's by now.
        """
        if descriptor < 0:
            raise AssertionError("a descriptor is removed before it is closed")
        if self.of.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_again(self, turn: Callable[[], None]) -> None:
        """Call something behind all that have news now."""
        self.turns.append(turn)

    def take_turns(self, count: int) -> None:
        """Call so many of those who asked for it."""
        for _ in range(count):
            self.turns.popleft()()
