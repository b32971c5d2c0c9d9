"""Intervals and paired comparisons: coverage, pairing, groups, and what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphlearn.models.core.bootstrap import GROUPS, Sample, compare
from graphlearn.types import DoubleArray


def mean(sums: DoubleArray) -> dict[str, DoubleArray]:
    """The mean of values in column 0; column 1 counts them."""
    return {"mean": sums[..., 0] / sums[..., 1]}


def sample(values: DoubleArray, groups: DoubleArray | None = None) -> Sample:
    return Sample.of(np.stack([values, np.ones(len(values))], axis=1), mean, groups)


@pytest.mark.parametrize("n", [200, 3 * GROUPS])
def test_intervals_contain_the_true_mean_19_times_in_20(n: int) -> None:
    random = np.random.default_rng(0)
    found = [sample(random.exponential(1, n)).intervals(["mean"])["mean"] for _ in range(200)]
    assert 180 <= sum(low <= 1 <= high for low, high in found) <= 198
    assert np.mean([high - low for low, high in found]) == pytest.approx(2 * 1.96 / math.sqrt(n), rel=0.05)


def test_intervals_of_few_groups_are_wide_enough() -> None:
    random = np.random.default_rng(5)
    found = [sample(random.normal(0, 1, 8)).intervals(["mean"])["mean"] for _ in range(400)]
    assert sum(low <= 0 <= high for low, high in found) >= 0.92 * 400  # plain percentiles reach 0.87


def test_equal_items_have_no_interval() -> None:
    assert sample(np.ones(40)).intervals(["mean"]) == {}


def test_items_of_one_group_are_resampled_together() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=100), 50)
    alone, together = sample(values), sample(values, np.repeat(np.arange(100), 50))
    narrow, wide = (np.ptp(s.intervals(["mean"])["mean"]) for s in (alone, together))
    assert wide == pytest.approx(narrow * math.sqrt(50), rel=0.1)
    assert alone.metrics() == pytest.approx(together.metrics())


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 8))
def test_groups_change_no_metric(values: list[float], groups: int) -> None:
    array = np.array(values)
    found = sample(array, np.arange(len(array)) % groups).metrics()["mean"]
    assert found == pytest.approx(array.mean(), abs=1e-9)


def test_a_comparison_is_paired() -> None:
    random = np.random.default_rng(2)
    hard = random.normal(0, 10, 500)  # how hard an item is counts for both methods
    worse, better = sample(hard), sample(hard + random.normal(0.2, 0.5, 500))
    assert compare(better, worse, "mean").outcome == "better"
    assert compare(worse, better, "mean").outcome == "worse"
    assert compare(better, worse, "mean", higher_is_better=False).outcome == "worse"
    shuffled = sample(random.permutation(hard))
    assert compare(better, shuffled, "mean").outcome == "tie"


def test_equal_methods_tie() -> None:
    values = np.random.default_rng(3).normal(size=50)
    found = compare(sample(values), sample(values), "mean")
    assert (found.outcome, found.low, found.high) == ("tie", 0, 0)


def test_a_single_group_has_no_interval() -> None:
    one = sample(np.array([1.0]))
    assert one.intervals(["mean"]) == {}
    found = compare(one, sample(np.array([9.0])), "mean")
    assert (found.outcome, found.ours, found.theirs) == ("tie", 1, 9)


def test_samples_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="2 groups cannot be paired with 3"):
        compare(sample(np.zeros(2)), sample(np.zeros(3)), "mean")
