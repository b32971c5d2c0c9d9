"""Graphs of a mode made from its values or its order, as coordinates (source, target, weight)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphlearn.types import FloatArray

_CELLS = 1 << 22
_ROWS = 1 << 10
_LEAST_PAIRS = 3


@dataclass(frozen=True)
class BuiltGraph:
    """Edges between the ids of a mode, ordered by (source, target), each pair once. shape: [edges] each"""

    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    weight: FloatArray


def identity(n: int) -> BuiltGraph:
    """Self-loops only: the series of the mode share weights but exchange nothing."""
    ids = np.arange(n, dtype=np.int64)
    return BuiltGraph(ids, ids.copy(), np.ones(n, np.float32))


def chain(n: int) -> BuiltGraph:
    """Each node linked to its neighbours in key order, in both directions: for levels, hours, ranks."""
    left = np.arange(n - 1, dtype=np.int64)
    source, target = np.concatenate([left, left + 1]), np.concatenate([left + 1, left])
    order = np.lexsort((target, source))
    return BuiltGraph(source[order], target[order], np.ones(len(order), np.float32))


def pearson(
    values: FloatArray,
    mode: int,
    train: slice,
    *,
    threshold: float = 0.0,
    top_k: int | None = None,
    absolute: bool = False,
) -> BuiltGraph:
    """Link the nodes of a mode whose values are correlated, weighted by Pearson's r over the training steps only.

    Each series is first scaled to mean 0 and deviation 1 over its values in `train`, so that series of other modes in
    other units can be pooled; two nodes are compared over the cells that both observed. Edges have r > `threshold`
    (|r| with `absolute`) and are not self-loops; with `top_k`, an edge must be among the k strongest of either end, so
    the graph stays symmetric. Nodes with fewer than 3 common cells, or constant there, are not linked. One pass over
    the training values in blocks; about 100 bytes per pair, for 1,024 nodes with all others at a time.

    shape: values [T, N1, ..., NM] with NaN where not observed; `mode` counts from 0; `train` is a range of steps.
    Raises ValueError for a threshold outside [0, 1), a top_k below 1 or an empty range.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold = {threshold} must be from 0 to below 1")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k} must be at least 1")
    start, stop, _ = train.indices(len(values))
    if stop <= start:
        raise ValueError("the training range is empty")
    n = values.shape[1 + mode]
    mean, scale = _moments(values, start, stop)
    parts: list[tuple[npt.NDArray[np.int64], ...]] = []
    weights = []
    for first in range(0, n, _ROWS):
        r = _correlations(values, mode, start, stop, mean, scale, first, min(n, first + _ROWS))
        strength = np.abs(r) if absolute else r
        rows = np.arange(len(r))
        strength[rows, first + rows] = -1
        keep = strength > threshold
        if top_k is not None and top_k < n:
            kth = -np.partition(-strength, top_k - 1, axis=1)[:, top_k - 1 : top_k]
            keep &= strength >= kth
        i, j = np.nonzero(keep)
        parts.append((i + first, j))
        weights.append(strength[i, j])
    source, target = (np.concatenate(ends) for ends in zip(*parts, strict=True))
    weight = np.concatenate(weights)
    if top_k is not None:
        pairs = np.concatenate([source * n + target, target * n + source])
        pairs, places = np.unique(pairs, return_index=True)
        source, target, weight = pairs // n, pairs % n, np.concatenate([weight, weight])[places]
    return BuiltGraph(source, target, weight.astype(np.float32))


def _moments(values: FloatArray, start: int, stop: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean of every series, and one over its deviation (0 where constant or not observed). shape: [N1, ..., NM] each"""
    count, mean, spread = (np.zeros(values.shape[1:]) for _ in range(3))
    for block in _blocks(values, start, stop):
        seen = ~np.isnan(block)
        added = seen.sum(axis=0)
        total = count + added
        part = np.where(seen, block, 0).sum(axis=0) / np.maximum(added, 1)
        inner = (np.where(seen, block - part, 0) ** 2).sum(axis=0)
        spread += inner + (part - mean) ** 2 * count * added / np.maximum(total, 1)
        mean += (part - mean) * added / np.maximum(total, 1)
        count = total
    deviation = np.sqrt(spread / np.maximum(count, 1))
    moves = deviation > 1e-6 * np.abs(mean)
    return mean, np.where(moves, 1 / np.where(moves, deviation, 1), 0)


def _correlations(
    values: FloatArray,
    mode: int,
    start: int,
    stop: int,
    mean: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    first: int,
    last: int,
) -> npt.NDArray[np.float64]:
    """Pearson's r of nodes first to last with all, over the cells both observed; 0 where undefined. shape: [b, n]"""
    n = values.shape[1 + mode]
    shape = (last - first, n)
    pairs, mine, other, mine2, other2, product = (np.zeros(shape) for _ in range(6))
    for block in _blocks(values, start, stop):
        z = np.moveaxis((block - mean) * scale, 1 + mode, 0).reshape(n, -1)
        seen = (~np.isnan(z)).astype(np.float64)
        z = np.where(seen > 0, z, 0)
        a, a_seen = z[first:last], seen[first:last]
        pairs += a_seen @ seen.T
        mine += a @ seen.T
        mine2 += (a * a) @ seen.T
        other += a_seen @ z.T
        other2 += a_seen @ (z * z).T
        product += a @ z.T
    count = np.maximum(pairs, 1)
    below = (mine2 - mine**2 / count) * (other2 - other**2 / count)
    usable = (pairs >= _LEAST_PAIRS) & (below > 1e-12 * count**2)
    r = (product - mine * other / count) / np.sqrt(np.where(usable, below, 1))
    return np.where(usable, np.clip(r, -1, 1), 0)


def _blocks(values: FloatArray, start: int, stop: int) -> Iterator[npt.NDArray[np.float64]]:
    """The steps from start to stop in double precision, in blocks. shape: [steps, N1, ..., NM]"""
    steps = max(1, _CELLS // max(1, values[0].size))
    for begin in range(start, stop, steps):
        yield np.asarray(values[begin : min(stop, begin + steps)], np.float64)
