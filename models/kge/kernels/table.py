"""Compiled work on rows of the tables: gather, masks, penalties, the sparse optimiser updates, and ranks.

Names: E entities, B queries of a chunk, N shared candidates, D entity width, P relation width after `prepare`
(see `scorer.py`), K = D / 2. A complex row of width D is [real parts (K) | imaginary parts (K)].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphlearn.models.core.compiled import compiled
from graphlearn.types import FloatArray, IdArray


@compiled
def gather(table: FloatArray, ids_N: IdArray, out_ND: FloatArray) -> None:
    """Rows of a table, copied."""
    for i in range(ids_N.shape[0]):
        row, out = table[ids_N[i]], out_ND[i]
        for d in range(out.shape[0]):
            out[d] = row[d]


@compiled
def mask_known(
    keys_B: IdArray,
    offsets: IdArray,
    answers: IdArray,
    candidates_N: IdArray,
    seat_E: IdArray,
    scores_BN: FloatArray,
    value: float,
) -> None:
    """Overwrite the scores of candidates that are known answers of their query with `value`.

    `answers[offsets[k]:offsets[k + 1]]` are the known answers of query key k; `seat_E` is a scratch array of -1 for
    every entity and is left so. A candidate drawn twice is masked at each of its seats.
    """
    N = candidates_N.shape[0]
    chain = np.empty(N, np.int32)
    for j in range(N):
        chain[j] = seat_E[candidates_N[j]]
        seat_E[candidates_N[j]] = j
    for i in range(keys_B.shape[0]):
        for p in range(offsets[keys_B[i]], offsets[keys_B[i] + 1]):
            j = seat_E[answers[p]]
            while j >= 0:
                scores_BN[i, j] = value
                j = chain[j]
    for j in range(N):
        seat_E[candidates_N[j]] = -1


@compiled
def cubic_penalty(table: FloatArray, ids_B: IdArray, weight: float, paired: bool, g_BD: FloatArray) -> float:
    """N3: adds the gradient of weight * sum |x|^3 to `g_BD`, returns the sum of penalties.

    `paired` takes the modulus of complex entries. Lacroix et al. 2018, equation 5 (theirs carries a factor 1/3).
    """
    w = np.float32(weight)
    three = np.float32(3.0)
    total = 0.0
    D = g_BD.shape[1]
    K = D // 2
    for i in range(ids_B.shape[0]):
        x, g = table[ids_B[i]], g_BD[i]
        row: Any = np.float32(0.0)
        if paired:
            for k in range(K):
                m = math.sqrt(x[k] * x[k] + x[K + k] * x[K + k])
                row += m * m * m
                g[k] += w * three * m * x[k]
                g[K + k] += w * three * m * x[K + k]
        else:
            for d in range(D):
                m = abs(x[d])
                row += m * m * m
                g[d] += w * three * m * x[d]
        total += row
    return total * weight


@compiled
def square_penalty(table: FloatArray, ids_B: IdArray, weight: float, paired: bool, g_BD: FloatArray) -> float:
    """L2: adds the gradient of weight * sum x^2 to `g_BD`, returns the sum of penalties."""
    w = np.float32(weight)
    two = np.float32(2.0)
    total = 0.0
    for i in range(ids_B.shape[0]):
        x, g = table[ids_B[i]], g_BD[i]
        row: Any = np.float32(0.0)
        for d in range(g.shape[0]):
            row += x[d] * x[d]
            g[d] += w * two * x[d]
        total += row
    return total * weight


@compiled
def link(ids: IdArray, first_E: IdArray, following: IdArray, unique: IdArray) -> int:
    """Chain the occurrences of each id and list the distinct ids in order of first appearance; returns their number.

    `first_E` is a scratch array of -1 for every row of the table; the update kernels put it back.
    """
    n = 0
    for i in range(ids.shape[0]):
        e = ids[i]
        if first_E[e] < 0:
            unique[n] = e
            n += 1
        following[i] = first_E[e]
        first_E[e] = i
    return n


@compiled
def collect(unique: IdArray, lo: int, hi: int, first_E: IdArray, following: IdArray, g: FloatArray) -> None:
    """Sum the gradients of each id into the row of its last occurrence; leaves that row's index in `following`."""
    for u in range(lo, hi):
        e = unique[u]
        i = first_E[e]
        first_E[e] = -1
        total = g[i]
        j = following[i]
        while j >= 0:
            other = g[j]
            for d in range(total.shape[0]):
                total[d] += other[d]
            j = following[j]
        unique[u] = i


@compiled
def adagrad_rows(
    table: FloatArray, state_E: FloatArray, ids: IdArray, rows: IdArray, lo: int, hi: int, g: FloatArray, rate: float
) -> None:
    """Row-wise Adagrad: one accumulator a row, the mean of squared gradients (as DGL-KE and PyTorch-BigGraph)."""
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
    """Adagrad with one accumulator an entry, on touched rows only."""
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
    """Row-wise Adam: the first moment an entry, the second moment a row; rows untouched in a step do not move."""
    b1, b2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    new1, new2 = np.float32(0.1), np.float32(0.001)  # not 1 - b2, which loses half of its digits
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


@compiled
def count_ranks(
    scores_BE: FloatArray, targets_B: IdArray, keys_B: IdArray, offsets: IdArray, answers: IdArray, ranks_B: Any
) -> Any:
    """Filtered rank of each target, ties at their mean rank; returns the number of scores that are not finite.

    The known answers of query key k, `answers[offsets[k]:offsets[k + 1]]`, do not compete; the target does not
    compete with itself. A key of -1 has no known answers.
    """
    bad = 0
    E = scores_BE.shape[1]
    for i in range(scores_BE.shape[0]):
        row = scores_BE[i]
        target = targets_B[i]
        s = row[target]
        above = 0
        level = 0
        finite = 0
        for e in range(E):
            above += row[e] > s
            level += row[e] == s
            finite += abs(row[e]) < np.float32(3e38)
        bad += E - finite
        level -= 1
        if keys_B[i] >= 0:
            for p in range(offsets[keys_B[i]], offsets[keys_B[i] + 1]):
                e = answers[p]
                if e != target:
                    above -= row[e] > s
                    level -= row[e] == s
        ranks_B[i] = 1.0 + above + 0.5 * level
    return bad
