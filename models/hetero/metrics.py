"""Metrics of classification and clustering, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphlearn.models.core.bootstrap import Sample
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


def class_figures(sums: Double) -> dict[str, Double]:
    """macro_f1, micro_f1 and accuracy from sums over nodes, as in `ClassQueries.sample`. shape: [..., 3 C + 2]

    The sums: correct, actual and predicted nodes of each class, nodes with all classes correct, nodes.
    """
    C = sums.shape[-1] // 3
    both, total = sums[..., :C], sums[..., C : 2 * C] + sums[..., 2 * C : 3 * C]
    each, seen = 2 * both / np.maximum(total, 1), (total > 0).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "macro_f1": each.sum(-1) / seen,
            "micro_f1": 2 * both.sum(-1) / np.maximum(total.sum(-1), 1),
            "accuracy": sums[..., -2] / sums[..., -1],
        }


def one_hot(labels: IdArray, classes: int) -> BoolArray:
    """shape: [N] -> [N, C]"""
    out: BoolArray = np.arange(classes) == np.asarray(labels)[:, None]
    return out


def _entropy(counts: Double) -> Double:
    """Entropy of the last axis. shape: [..., n] -> [...]"""
    p = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return np.asarray(-np.where(counts > 0, p * np.log(np.where(counts > 0, p, 1)), 0).sum(-1))


@dataclass(frozen=True)
class ClusterFigures:
    """Agreement of clusters with labels, from a contingency table of this shape. shape: [..., rows * columns]

    nmi: mutual information, normalised by the arithmetic mean of the entropies; 1 if both have a single value. ari: the
    adjusted Rand index (Hubert and Arabie 1985): agreement on pairs, with 0 for chance.
    """

    rows: int
    columns: int

    def __call__(self, sums: Double) -> dict[str, Double]:
        table = sums.reshape(*sums.shape[:-1], self.rows, self.columns)
        a, b, count = table.sum(-1), table.sum(-2), sums.sum(-1)
        first, second, joint = _entropy(a), _entropy(b), _entropy(sums)
        spread = first + second
        shared = np.maximum(0, 2 * (spread - joint) / np.where(spread > 0, spread, 1))

        def pairs(counts: Double) -> Double:
            return np.asarray((counts * (counts - 1) / 2).sum(-1))

        same, rows, columns = pairs(sums), pairs(a), pairs(b)
        expected, most = rows * columns / np.maximum(count * (count - 1) / 2, 1), (rows + columns) / 2
        flat = most == expected
        index = np.where(flat, 1.0, (same - expected) / np.where(flat, 1.0, most - expected))
        return {"nmi": np.where(spread > 0, shared, 1.0), "ari": index}


def cluster_sample(a: IdArray, b: IdArray) -> Sample:
    """Agreement of two labellings of some nodes; see `ClusterFigures`. shape: [N], [N]"""
    x, y = np.unique(a, return_inverse=True)[1].reshape(-1), np.unique(b, return_inverse=True)[1].reshape(-1)
    rows, columns = int(x.max(initial=-1)) + 1, int(y.max(initial=-1)) + 1
    figures = ClusterFigures(rows, columns)
    of_row = (one_hot(np.where(x == i, y, -1), columns).astype(np.float64) for i in range(rows))
    cells = [Sample.of(found, figures).sums for found in of_row]
    return Sample(np.concatenate(cells, axis=1), figures)


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
