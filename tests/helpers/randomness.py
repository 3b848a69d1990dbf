"""How many random connections a run makes, and by which dice: both repeat a run."""

from __future__ import annotations

import os


def random_count() -> int:
    """``KTLSGATE_RANDOM``, or as many as a run of everything has time for."""
    return int(os.environ.get("KTLSGATE_RANDOM", "60"))


def random_seed() -> int:
    """``KTLSGATE_SEED``, or the same as ever: a test must not fail by chance."""
    return int(os.environ.get("KTLSGATE_SEED", "20261120"))
