"""Medians, quartiles, and ratios that pair what was measured in the same round."""

import pytest
from bench.stats import Spread, paired_ratios, spread


def test_a_spread_is_the_median_with_its_quartiles():
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert found == Spread(median=3.0, low=2.0, high=4.0, count=5)


def test_one_outlier_moves_no_quartile():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]).high == spread([1.0, 2.0, 3.0, 4.0, 500.0]).high


def test_one_value_is_its_own_spread():
    assert spread([7.5]) == Spread(median=7.5, low=7.5, high=7.5, count=1)


def test_nothing_has_no_spread():
    assert spread([]) is None


@pytest.mark.parametrize(("digits", "text"), [(2, "1.23 (1.00-2.00)"), (0, "1 (1-2)")])
def test_a_spread_is_written_with_its_digits(digits, text):
    assert Spread(median=1.234, low=1.0, high=2.0, count=3).format(digits) == text


def test_ratios_are_of_the_same_round():
    assert paired_ratios({0: 2.0, 1: 9.0}, {0: 1.0, 1: 3.0}) == [2.0, 3.0]


def test_rounds_without_a_reference_count_for_nothing():
    assert paired_ratios({0: 2.0, 1: 9.0, 2: 4.0}, {0: 1.0, 2: 0.0}) == [2.0]
