"""Hypothesis where it is installed; elsewhere its tests are skipped and say so.

Examples are the same in every run, and the time a slow guest takes is no failure.
"""

from __future__ import annotations

import pytest

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError:
    hypothesis = None

    class _Anything:
        """Stands for every strategy while test modules are imported."""

        def __getattr__(self, name):
            return self

        def __call__(self, *args, **kwargs):
            return self

        def __or__(self, other):
            return self

    st = _Anything()

__all__ = ["given", "st"]


def given(*strategies, examples=100, **named):
    """``hypothesis.given`` with the settings that all tests share."""
    if hypothesis is None:

        def skip(test):
            @pytest.mark.skip(reason="hypothesis is not installed")
            def stand_in():
                raise AssertionError("skipped")

            stand_in.__name__ = test.__name__
            return stand_in

        return skip
    settings = hypothesis.settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    return lambda test: settings(hypothesis.given(*strategies, **named)(test))
