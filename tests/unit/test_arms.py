"""Statistics of arms: by hand, and against scipy's own."""

import math

import numpy as np
import pytest
from scipy import stats

from pixelcontrast.search.arms import compare, paired_difference


def test_by_hand() -> None:
    first, second = compare({"ce": {0: 60.0, 1: 62.0, 2: 64.0}, "contrast": {0: 61.0, 1: 64.0, 2: 67.0}})
    assert (first.name, first.mean, first.std, first.difference) == ("ce", 62.0, 2.0, None)
    assert (second.mean, second.std) == (64.0, 3.0)
    # Differences 1, 2, 3: mean 2, standard error 1/√3; t with 2 degrees of freedom is 4.302653 at 97.5 %.
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(2.0)
    assert second.difference.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert second.difference.num_seeds == 3


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_interval_is_the_paired_t_test_s(num_seeds: int) -> None:
    a, b = np.random.default_rng(num_seeds).normal(50, 5, (2, num_seeds))
    found = paired_difference(dict(enumerate(a.tolist())), dict(enumerate(b.tolist())))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found is not None
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx((a - b).mean())


def test_two_seeds_give_a_difference_and_no_interval() -> None:
    found = paired_difference({0: 0.40, 1: 0.52}, {0: 0.39, 1: 0.47})
    assert found is not None
    assert found.mean == pytest.approx(0.03)
    assert found.interval is None, "it would be −22 to +28 points"


def test_only_seeds_that_both_have_finished_are_compared() -> None:
    _, second, third = compare({"a": {0: 1.0, 1: 2.0}, "b": {1: 5.0, 7: 100.0}, "c": {7: 3.0}})
    assert second.difference is not None
    assert (second.difference.mean, second.difference.num_seeds) == (3.0, 1)
    assert second.difference.interval is None, "one seed says nothing about the spread"
    assert second.mean == 52.5
    assert third.difference is None
    assert (third.mean, third.std) == (3.0, None)


def test_nothing_finished() -> None:
    first, second = compare({"a": {}, "b": {}})
    assert (first.mean, first.std, second.difference) == (None, None, None)
    assert compare({}) == []


def test_pairing_removes_what_seeds_share() -> None:
    """The arms' scores vary by tens of points over seeds, their difference by tenths."""
    scores = {"a": {0: 10.0, 1: 40.0, 2: 70.0}, "b": {0: 11.1, 1: 41.0, 2: 70.9}}
    difference = compare(scores)[1].difference
    assert difference is not None
    assert difference.interval is not None
    assert math.isclose(difference.mean, 1.0)
    assert difference.interval[0] > 0.7
