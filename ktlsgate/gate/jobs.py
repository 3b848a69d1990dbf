"""What a fiber runs, and what it says when it yields: that it waits, or leaves.

Rule: nothing here knows of fibers; `ktlsgate.gate.fibers` resumes what yields here.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["Job", "carry_on", "leave", "wait"]

Job = Coroutine[Any, Any, None]


@types.coroutine
def wait() -> Generator[bool, None, None]:
    """Return when the fiber is resumed."""
    yield False


@types.coroutine
def leave() -> Generator[bool, None, None]:
    """Return in the task that carries on."""
    yield True


@types.coroutine
def _resume(job: Job) -> Generator[Any, Any, None]:
    yield from job.__await__()


async def carry_on(job: Job) -> None:
    """Run the rest of a job as a Trio task."""
    await _resume(job)  # no checkpoint before it: a job that began must end
