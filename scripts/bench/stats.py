"""Medians and quartiles: a shared machine makes outliers, and these do not mind them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Spread", "paired_ratios", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float
    count: int

    def format(self, digits: int = 2) -> str:
        """Write median and quartiles: ``1.05 (1.02-1.09)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread | None:
    """Summarize; None if there is nothing to."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0], count=1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high, count=len(values))


def paired_ratios(values: Mapping[int, float], references: Mapping[int, float]) -> list[float]:
    """Divide each round's value by the reference of the same round, where there are both."""
    return [
        value / references[number] for number, value in values.items() if references.get(number)
    ]
