"""Confidence intervals of metrics, and paired comparisons: the bootstrap over test items (Efron 1979).

A metric is a function of sums over test items: MRR of the sum of reciprocal ranks and the number of ranks, RMSE of the
sum of squared errors and the number of cells, macro-F1 of the counts of each class. Items that depend on each other,
such as both directions of a triple or overlapping windows of a series, are resampled together as one group.

Shapes: N test items, G groups, S sums, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np

from graphlearn.types import DoubleArray, IdArray

RESAMPLES = 1000
GROUPS = 2000
"""Larger samples are merged at random into this many groups; the widths of intervals stay the same in expectation."""
LEAST_GROUPS = 5
"""Groups of test items that an interval needs: resamples of fewer groups differ too little to be wide enough."""
LEVEL = 0.95
Interval: TypeAlias = tuple[float, float]
Figures: TypeAlias = Callable[[DoubleArray], Mapping[str, DoubleArray]]
"""From sums to metrics by name. shape: [..., S] -> [...] each"""
Outcome: TypeAlias = Literal["better", "worse", "tie"]


@dataclass(frozen=True)
class Sample:
    """Sums over groups of test items, and the metrics that follow from them.

    `figures` must be picklable (a function of a module, or a dataclass with `__call__`), as samples travel between
    processes. sums: [G, S]
    """

    sums: DoubleArray
    figures: Figures

    @staticmethod
    def of(values: DoubleArray, figures: Figures, groups: IdArray | None = None) -> Sample:
        """From the values of each test item. `groups`: the group of each item; by default each is its own.

        shape: values [N, S], groups [N]. Two methods measured on the same items get the same groups.
        """
        n = len(values)
        ids = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
        count = int(ids.max(initial=-1)) + 1
        if count > GROUPS:
            ids = np.random.default_rng(count).permutation(count)[ids] % GROUPS
            count = GROUPS
        values = np.asarray(values, np.float64)
        sums = [np.bincount(ids, weights=column, minlength=count) for column in values.T]
        return Sample(np.stack(sums, axis=1) if sums else np.zeros((count, 0)), figures)

    def metrics(self) -> dict[str, float]:
        """The metrics of all items."""
        return {name: float(value) for name, value in self.figures(self.sums.sum(0)).items()}

    def intervals(self, names: Sequence[str], level: float = LEVEL) -> dict[str, Interval]:
        """The interval of each metric: percentiles over resamples.

        A metric whose groups do not differ has none, as a bound of 1.0 would claim certainty; nor has one of fewer than
        LEAST_GROUPS groups.
        """
        groups = len(self.sums)
        if groups < LEAST_GROUPS:
            return {}
        resampled = self.figures(_weights(groups) @ self.sums)
        found = {name: _percentiles(resampled[name], groups, level) for name in names if name in resampled}
        return {name: interval for name, interval in found.items() if interval is not None and len(set(interval)) == 2}


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same test items.

    `low`, `high`: the interval of the difference, which is positive where ours is better.
    """

    ours: float
    theirs: float
    low: float
    high: float

    @property
    def outcome(self) -> Outcome:
        """A tie unless the interval of the difference excludes 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "tie"


def compare(
    ours: Sample, theirs: Sample, name: str, *, higher_is_better: bool = True, level: float = LEVEL
) -> Comparison:
    """Compare a metric of two methods on the same groups of items, resampled together.

    With fewer than LEAST_GROUPS groups, or where no resample has the metric, the interval is infinite. Raises
    ValueError for samples of different numbers of groups.
    """
    if len(ours.sums) != len(theirs.sums):
        raise ValueError(f"{len(ours.sums)} groups cannot be paired with {len(theirs.sums)}")
    mine, other = ours.metrics()[name], theirs.metrics()[name]
    found = None
    if len(ours.sums) >= LEAST_GROUPS:
        weights = _weights(len(ours.sums))
        gain = ours.figures(weights @ ours.sums)[name] - theirs.figures(weights @ theirs.sums)[name]
        found = _percentiles(gain if higher_is_better else -gain, len(ours.sums), level)
    low, high = (-np.inf, np.inf) if found is None else found
    return Comparison(mine, other, float(low), float(high))


def _weights(groups: int) -> DoubleArray:
    """How often each resample draws each group. The same number of groups gives the same draws. shape: [R, G]"""
    drawn = np.random.default_rng(groups).integers(0, groups, size=(RESAMPLES, groups))
    flat = drawn + groups * np.arange(RESAMPLES)[:, None]
    return np.bincount(flat.ravel(), minlength=RESAMPLES * groups).reshape(RESAMPLES, groups).astype(np.float64)


def _percentiles(values: DoubleArray, groups: int, level: float) -> Interval | None:
    """The interval from the finite values of resamples of so many groups; None without any.

    Percentiles of few groups are too narrow, as a normal distribution is compared with Student's. They are expanded to
    the level at which they cover as the latter does (Hesterberg 2015, "expanded percentile interval").
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    z, n = NormalDist().inv_cdf((1 + level) / 2), groups - 1
    # the quantile of Student's distribution with n degrees of freedom (Abramowitz and Stegun, 26.7.5)
    t = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    tail = NormalDist().cdf(-t * math.sqrt(groups / n))
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
