"""Memory goes back to the system when a peak of connections has passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio

from ..kernel.heap import give_back_memory

__all__ = ["Trimmer"]

_MANY = 500  # connections: what a smaller peak leaves behind is not worth the look
_PAUSE = 2.0  # seconds: those that end together are one peak


class Trimmer:
    """Waits until half of the most connections that were held are gone."""

    __slots__ = ("_give_back", "_has_passed", "_held", "_peak")

    def __init__(self, give_back: Callable[[], object] = give_back_memory) -> None:
        """Begin with nothing held."""
        self._give_back = give_back
        self._has_passed = trio.Event()
        self._held = self._peak = 0

    def note_end(self, held: int) -> None:
        """One connection has ended, so many are left; a peak is over by then, or lasts."""
        self._held = held
        if held >= self._peak:
            self._peak = held + 1
        elif 2 * held <= self._peak >= _MANY:
            self._has_passed.set()

    async def run(self) -> NoReturn:
        """Give memory back behind every peak."""
        while True:
            await self._has_passed.wait()
            await trio.sleep(_PAUSE)
            self._give_back()
            self._peak, self._has_passed = self._held, trio.Event()
        raise AssertionError("an endless loop has no end")
