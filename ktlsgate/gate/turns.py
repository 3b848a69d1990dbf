"""Whose turn it is: a backend's addresses one after another, those that failed lately last.

An operator may run a backend at several addresses, and restart one of them. A request then
goes to the next address when one fails in a way that leaves the client ours (invariant
I1), and waits for a moment when nobody is there at all.

Rules:

* A turn passes whatever the outcome, so that load is spread evenly over those that work.
* An address that failed is down for a while: it is asked only when the others have
  failed, too. One success makes it up again. Both are logged once.
* What may have been taken is never offered again: `DeadlinePassed` ends it, unless who
  passes it on can take it back (`ktlsgate.gate.kept_connections`) and says so by a
  `HandoffError`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..config import Backend
from ..errors import HandoffError
from .fibers import DeadlinePassed, now, set_deadline, sleep, this_fiber

__all__ = ["Turns"]

_Outcome = TypeVar("_Outcome")
_Attempt = Callable[[Backend], Awaitable[_Outcome]]

_FIRST_PAUSE = 0.01
_LAST_PAUSE = 0.1

_OUR_OWN = frozenset(("no_descriptors", "no_watches", "no_memory"))  # say nothing about a backend

_log = logging.getLogger("ktlsgate")


class _Address:
    """One place of a backend, and whether it works."""

    __slots__ = ("backend", "down_until", "is_down")

    def __init__(self, backend: Backend, address: str) -> None:
        self.backend = dataclasses.replace(backend, addresses=(address,))
        self.is_down = False
        self.down_until = -math.inf

    @property
    def name(self) -> str:
        return f"backend {self.backend.name} at {self.backend.address}"

    def note_failure(self, reason: str) -> None:
        if reason in _OUR_OWN:
            return
        self.down_until = now() + self.backend.fail_timeout
        if not self.is_down:
            self.is_down = True
            _log.warning("%s: down for %g s: %s", self.name, self.backend.fail_timeout, reason)

    def note_success(self) -> None:
        if self.is_down:
            self.is_down, self.down_until = False, -math.inf
            _log.info("%s: up again", self.name)


class _NobodyThere(Exception):
    """No address of a backend has a listener."""

    def __init__(self, error: HandoffError) -> None:
        self.error = error


class Turns:
    """Those of one process."""

    def __init__(self) -> None:
        """Begin with all up."""
        self._places: dict[str, list[_Address]] = {}

    async def take(
        self, backend: Backend, attempt: _Attempt[_Outcome], *, shares_time: bool
    ) -> _Outcome:
        """Make attempts at a backend's addresses until one succeeds.

        Args:
            backend: with any number of addresses.
            attempt: is given the backend with one address; raises `HandoffError` only
                as long as the client is ours.
            shares_time: whether an attempt that is late can be taken back, so that each
                address has only its share of the time until the fiber's deadline.

        Returns:
            What the attempt did.

        Raises:
            HandoffError: of the last attempt.
            DeadlinePassed: the fiber's; an attempt may have come about or not.
        """
        if len(backend.addresses) == 1 and backend.absence_timeout is None:
            return await attempt(backend)
        end = now() + (backend.absence_timeout or 0)
        deadline = this_fiber().deadline if shares_time else None
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._try_all(backend, attempt, deadline)
            except _NobodyThere as exc:
                if now() + pause > end:
                    raise exc.error from None
            await sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    async def _try_all(
        self, backend: Backend, attempt: _Attempt[_Outcome], deadline: float | None
    ) -> _Outcome:
        order, absent = self._order(backend), 0
        for left in range(len(order), 0, -1):
            place = order[-left]
            if deadline is not None:
                set_deadline(now() + (deadline - now()) / left)
            try:
                outcome = await attempt(place.backend)
            except DeadlinePassed:
                place.note_failure("handoff_timeout")
                raise
            except HandoffError as exc:
                place.note_failure(exc.reason)
                absent += exc.reason == "backend_absent"
                if absent == len(order):
                    raise _NobodyThere(exc) from None
                if left == 1:
                    raise
            else:
                place.note_success()
                return outcome
        raise AssertionError("a backend has an address")

    def _order(self, backend: Backend) -> list[_Address]:
        """Return who is asked in which order, and pass the turn on."""
        places = self._places.get(backend.name)
        if places is None:
            made = [_Address(backend, address) for address in backend.addresses]
            places = self._places[backend.name] = made
        time = now()
        order = sorted(places, key=lambda place: place.down_until > time)
        places.append(places.pop(0))
        return order
