"""A limit for some steps inside a longer job, in fibers as in Trio tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from .fibers import DeadlinePassed, is_fiber, now, set_deadline, this_fiber

__all__ = ["give_up_after"]


async def give_up_after(seconds: float, steps: Callable[[], Awaitable[None]]) -> None:
    """Take steps for at most so many seconds; what they did until then stays done.

    Raises:
        DeadlinePassed: the fiber's own deadline came first.
    """
    if not is_fiber():
        with trio.move_on_after(seconds):
            await steps()
        return
    outer, own = this_fiber().deadline, now() + seconds
    if outer <= own:
        await steps()
        return
    set_deadline(own)
    try:
        with contextlib.suppress(DeadlinePassed):
            await steps()
    finally:
        set_deadline(outer)
