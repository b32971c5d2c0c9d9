"""Compiled work on rows of the tables: gather, masks, penalties, and the gradients of rows that occur several times.

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
    place_E: IdArray,
    scores_BN: FloatArray,
    value: float,
) -> None:
    """Overwrite the scores of candidates that are known answers of their query with `value`.

    `answers[offsets[k]:offsets[k + 1]]` are the known answers of query key k. `place_E` is a buffer that holds -1 for
    every entity, before and after. A candidate that was drawn twice is masked in both places.
    """
    N = candidates_N.shape[0]
    chain = np.empty(N, np.int32)
    for j in range(N):
        chain[j] = place_E[candidates_N[j]]
        place_E[candidates_N[j]] = j
    for i in range(keys_B.shape[0]):
        for p in range(offsets[keys_B[i]], offsets[keys_B[i] + 1]):
            j = place_E[answers[p]]
            while j >= 0:
                scores_BN[i, j] = value
                j = chain[j]
    for j in range(N):
        place_E[candidates_N[j]] = -1


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

    `first_E` is a buffer that holds -1 for every row of the table; `collect` restores it.
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
