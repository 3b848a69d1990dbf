"""A limit for some steps inside a longer job."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from .fibers import DeadlinePassed, now, set_deadline, this_fiber

__all__ = ["give_up_after"]


async def give_up_after(seconds: float, steps: Callable[[], Awaitable[None]]) -> None:
    """Take steps for at most so many seconds; what they did until then stays done.

    Raises:
        DeadlinePassed: the fiber's own deadline came first.
    """
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
