"""Random splits of nodes and edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphlearn.types import BoolArray, SplitCodes


def random_split(
    count: int,
    fractions: Sequence[float],
    seed: int,
    strata: npt.NDArray[Any] | None = None,
    known: BoolArray | None = None,
) -> SplitCodes:
    """Random split codes. With strata, each stratum is split by the fractions. Rows that are not `known` get -1."""
    rng = np.random.default_rng([seed, 11])
    ids = np.flatnonzero(np.ones(count, np.bool_) if known is None else known)
    order = ids[rng.permutation(len(ids))]
    group = np.zeros(count, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].reshape(-1)
    order = order[np.argsort(group[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order], side="left")
    size = np.bincount(group[order], minlength=int(group.max(initial=0)) + 1)[group[order]]
    shares = np.cumsum(np.asarray(fractions, np.float64)) / sum(fractions)
    place = np.searchsorted(shares[:-1], (rank + 0.5) / np.maximum(size, 1), side="right")
    out = np.full(count, -1, np.int8)
    out[order] = place
    return out
