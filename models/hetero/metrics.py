"""Metrics of classification and clustering, in numpy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphlearn.types import BoolArray, FloatArray, IdArray

Double: TypeAlias = npt.NDArray[np.float64]


def f1_scores(actual: BoolArray, predicted: BoolArray) -> dict[str, float]:
    """macro_f1: the mean over the classes that occur, actual or predicted. micro_f1: over all decisions together.

    shape: [N, C] each
    """
    both = (actual & predicted).sum(0).astype(np.float64)
    total = actual.sum(0) + predicted.sum(0)
    each = 2 * both / np.maximum(total, 1)
    seen = total > 0
    macro = float(each[seen].mean()) if seen.any() else float("nan")
    return {"macro_f1": macro, "micro_f1": float(2 * both.sum() / max(1, int(total.sum())))}


def one_hot(labels: IdArray, classes: int) -> BoolArray:
    """shape: [N] -> [N, C]"""
    out: BoolArray = np.arange(classes) == np.asarray(labels)[:, None]
    return out


def contingency(a: IdArray, b: IdArray) -> Double:
    """How often value i of a occurs with value j of b. shape: [N], [N] -> [A, B]"""
    x, y = np.unique(a, return_inverse=True)[1].reshape(-1), np.unique(b, return_inverse=True)[1].reshape(-1)
    table = np.zeros((x.max(initial=-1) + 1, y.max(initial=-1) + 1))
    np.add.at(table, (x, y), 1)
    return table


def _entropy(counts: Double) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def normalised_mutual_information(a: IdArray, b: IdArray) -> float:
    """NMI, normalised by the arithmetic mean of the entropies; 1 if both have a single value."""
    table = contingency(a, b)
    first, second, joint = _entropy(table.sum(1)), _entropy(table.sum(0)), _entropy(table.ravel())
    return 1.0 if first + second == 0 else max(0.0, 2 * (first + second - joint) / (first + second))


def adjusted_rand_index(a: IdArray, b: IdArray) -> float:
    """The adjusted Rand index (Hubert and Arabie 1985): agreement on pairs, with 0 for chance."""
    table = contingency(a, b)

    def pairs(counts: Double) -> float:
        return float((counts * (counts - 1) / 2).sum())

    rows, columns, total = pairs(table.sum(1)), pairs(table.sum(0)), len(a) * (len(a) - 1) / 2
    expected, most = rows * columns / max(total, 1), (rows + columns) / 2
    return 1.0 if most == expected else (pairs(table) - expected) / (most - expected)


def k_means(x: FloatArray, clusters: int, seed: int, starts: int = 10, rounds: int = 100) -> IdArray:
    """Lloyd's algorithm from several k-means++ starts; returns the one with the least inertia. shape: [N, D] -> [N]"""
    rng = np.random.default_rng([seed, 17])
    x = np.asarray(x, np.float64)
    clusters = min(clusters, len(x))
    square = (x * x).sum(1)
    best, least = np.zeros(len(x), np.int64), np.inf
    for _ in range(starts):
        centres = x[rng.integers(len(x), size=1)]
        near = ((x - centres[0]) ** 2).sum(1)
        for _ in range(clusters - 1):
            p = near / near.sum() if near.sum() > 0 else None
            centres = np.concatenate([centres, x[rng.choice(len(x), size=1, p=p)]])
            near = np.minimum(near, ((x - centres[-1]) ** 2).sum(1))
        own = np.full(len(x), -1)
        for _ in range(rounds):
            distance = square[:, None] - 2 * x @ centres.T + (centres * centres).sum(1)
            new = distance.argmin(1)
            if (new == own).all():
                break
            own = new
            for c in range(clusters):
                if (own == c).any():
                    centres[c] = x[own == c].mean(0)
        inertia = float(distance[np.arange(len(x)), own].sum())
        if inertia < least:
            best, least = own, inertia
    return np.asarray(best, np.int64)
