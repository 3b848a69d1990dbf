"""The process's heap: memory that was freed goes back to the system.

glibc gives back what is free at the end of its heap only; after many connections at once
some small object lives there, and all that they took stays ours.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

__all__ = ["give_back_memory"]


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library
        return None
    function.argtypes, function.restype = (ctypes.c_size_t,), ctypes.c_int
    return function


_malloc_trim = _find_malloc_trim()


def give_back_memory() -> bool:
    """Look at every page that is free; milliseconds for each hundred megabytes.

    Returns:
        Whether there was any; False also where the C library has no such function.
    """
    return _malloc_trim is not None and bool(_malloc_trim(0))
