"""File descriptors of the test's own process: counting them, and having none left."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path


def open_descriptors() -> set[str]:
    """Numbers of what is open now, the one that reads them included."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let every further open fail with EMFILE; what is open stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
