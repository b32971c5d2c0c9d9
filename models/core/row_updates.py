"""Compiled in-place updates of the touched rows of a table, in one pass over the rows.

Row `rows[u]` of the gradients `g` belongs to row `ids[rows[u]]` of the table. A call processes u = lo .. hi - 1, so
that threads can share the work. Shapes: E rows of the table, D its width.
"""

from __future__ import annotations

import math

import numpy as np

from graphlearn.models.core.compiled import compiled
from graphlearn.types import FloatArray, IdArray


@compiled
def adagrad_rows(
    table: FloatArray, state_E: FloatArray, ids: IdArray, rows: IdArray, lo: int, hi: int, g: FloatArray, rate: float
) -> None:
    """Row-wise Adagrad: one accumulator per row, of the mean square of its gradients (DGL-KE, PyTorch-BigGraph)."""
    eps = np.float32(1e-10)
    lr = np.float32(rate)
    D = table.shape[1]
    for u in range(lo, hi):
        i = rows[u]
        e, row = ids[i], g[i]
        total = np.float32(0.0)
        for d in range(D):
            total += row[d] * row[d]
        state_E[e] += total / np.float32(D)
        c = lr / (math.sqrt(state_E[e]) + eps)
        weights = table[e]
        for d in range(D):
            weights[d] -= c * row[d]


@compiled
def adagrad_entries(
    table: FloatArray, state_ED: FloatArray, ids: IdArray, rows: IdArray, lo: int, hi: int, g: FloatArray, rate: float
) -> None:
    """Adagrad with one accumulator per entry, on touched rows only."""
    eps = np.float32(1e-10)
    lr = np.float32(rate)
    for u in range(lo, hi):
        i = rows[u]
        row, state, weights = g[i], state_ED[ids[i]], table[ids[i]]
        for d in range(row.shape[0]):
            s = state[d] + row[d] * row[d]
            state[d] = s
            weights[d] -= lr * row[d] / (math.sqrt(s) + eps)


@compiled
def adam_rows(
    table: FloatArray,
    mean_ED: FloatArray,
    square_E: FloatArray,
    ids: IdArray,
    rows: IdArray,
    lo: int,
    hi: int,
    g: FloatArray,
    rate: float,
    correct1: float,
    correct2: float,
) -> None:
    """Row-wise Adam: the first moment per entry, the second per row. Rows that a step does not touch stay unchanged."""
    b1, b2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    new1, new2 = np.float32(0.1), np.float32(0.001)  # not 1 - b2, which loses half of the digits
    D = table.shape[1]
    for u in range(lo, hi):
        i = rows[u]
        e, row = ids[i], g[i]
        mean, weights = mean_ED[e], table[e]
        total = np.float32(0.0)
        for d in range(D):
            total += row[d] * row[d]
        square_E[e] = b2 * square_E[e] + new2 * total / np.float32(D)
        c = np.float32(rate / correct1) / (math.sqrt(square_E[e] / np.float32(correct2)) + eps)
        for d in range(D):
            m = b1 * mean[d] + new1 * row[d]
            mean[d] = m
            weights[d] -= c * m
