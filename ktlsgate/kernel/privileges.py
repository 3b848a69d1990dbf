"""What this process may do and show: core dumps, tracing, open files.

Rule: one system call a function. Traffic secrets are in our memory for a moment
in every handshake; nobody may read them from a dump or through ptrace.
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["forbid_dumps", "raise_open_files"]

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid_dumps() -> None:
    """No core dumps, no ptrace by the same user, /proc/PID owned by root.

    Raises:
        OSError: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_DUMPABLE): {os.strerror(code)}")


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one.

    Returns:
        The limit now in force.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
