"""Compiled scores of queries against candidates of their own (independent negatives), with gradients.

Candidates are rows of the table and are never copied: the gradient of a row is summed over all queries that drew it.
Names as in `score.py`: E entities, B queries, N candidates of each, D entity width, K = D / 2; U distinct candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from graphlearn.models.core.compiled import compiled
from graphlearn.types import FloatArray, IdArray

Kernel = Callable[..., Any]


class IndependentKernels(NamedTuple):
    """The kernels of a similarity."""

    scores: Kernel
    queries_vjp: Kernel
    candidates_vjp: Kernel


def independent(score: Kernel, gradient: Kernel) -> IndependentKernels:
    """The kernels of a symmetric similarity `score(x, y)`; `gradient(x, y, g, out)` adds g * d score / dx to `out`."""

    @compiled
    def scores(q_BD: FloatArray, table: FloatArray, candidates_BN: IdArray, scores_BN: FloatArray) -> None:
        for i in range(candidates_BN.shape[0]):
            q = q_BD[i]
            for j in range(candidates_BN.shape[1]):
                scores_BN[i, j] = score(q, table[candidates_BN[i, j]])

    @compiled
    def queries_vjp(
        q_BD: FloatArray, table: FloatArray, candidates_BN: IdArray, g_BN: FloatArray, dq_BD: FloatArray
    ) -> None:
        zero = np.float32(0.0)
        for i in range(candidates_BN.shape[0]):
            q, dq = q_BD[i], dq_BD[i]
            for d in range(dq.shape[0]):
                dq[d] = zero
            for j in range(candidates_BN.shape[1]):
                g = g_BN[i, j]
                if g != zero:
                    gradient(q, table[candidates_BN[i, j]], g, dq)

    @compiled
    def candidates_vjp(
        q_BD: FloatArray,
        table: FloatArray,
        unique: IdArray,
        lo: int,
        hi: int,
        first_E: IdArray,
        following: IdArray,
        g_BN: FloatArray,
        dc_UD: FloatArray,
    ) -> None:
        zero = np.float32(0.0)
        N = g_BN.shape[1]
        for u in range(lo, hi):
            e = unique[u]
            row, dc = table[e], dc_UD[u]
            for d in range(dc.shape[0]):
                dc[d] = zero
            place = first_E[e]
            first_E[e] = -1
            while place >= 0:
                i = place // N
                g = g_BN[i, place - i * N]
                if g != zero:
                    gradient(row, q_BD[i], g, dc)
                place = following[place]

    return IndependentKernels(scores, queries_vjp, candidates_vjp)


@compiled
def mask_known_each(
    keys_B: IdArray,
    offsets: IdArray,
    answers: IdArray,
    candidates_BN: IdArray,
    scores_BN: FloatArray,
    value: float,
) -> None:
    """Overwrite the scores of candidates that are known answers of their query with `value`.

    `answers[offsets[k]:offsets[k + 1]]` are the known answers of query key k, ascending; key -1 has none.
    """
    for i in range(keys_B.shape[0]):
        if keys_B[i] < 0:
            continue
        first, end = offsets[keys_B[i]], offsets[keys_B[i] + 1]
        for j in range(candidates_BN.shape[1]):
            c = candidates_BN[i, j]
            lo, hi = first, end
            while lo < hi:
                middle = (lo + hi) // 2
                if answers[middle] < c:
                    lo = middle + 1
                else:
                    hi = middle
            if lo < end and answers[lo] == c:
                scores_BN[i, j] = value


@compiled
def _dot(x: FloatArray, y: FloatArray) -> Any:
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += x[d] * y[d]
    return total


@compiled
def _dot_gradient(x: FloatArray, y: FloatArray, g: float, out: FloatArray) -> None:
    for d in range(x.shape[0]):
        out[d] += g * y[d]


@compiled
def _manhattan(x: FloatArray, y: FloatArray) -> Any:
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += abs(x[d] - y[d])
    return -total


@compiled
def _manhattan_gradient(x: FloatArray, y: FloatArray, g: float, out: FloatArray) -> None:
    zero = np.float32(0.0)
    for d in range(x.shape[0]):
        out[d] -= g if x[d] > y[d] else (-g if x[d] < y[d] else zero)


@compiled
def _euclid(x: FloatArray, y: FloatArray) -> Any:
    tiny = np.float32(1e-12)
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += (x[d] - y[d]) * (x[d] - y[d])
    return -math.sqrt(max(total, tiny))


@compiled
def _euclid_gradient(x: FloatArray, y: FloatArray, g: float, out: FloatArray) -> None:
    tiny = np.float32(1e-12)
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += (x[d] - y[d]) * (x[d] - y[d])
    w = g / math.sqrt(max(total, tiny))
    for d in range(x.shape[0]):
        out[d] -= w * (x[d] - y[d])


@compiled
def _modulus(x: FloatArray, y: FloatArray) -> Any:
    K = x.shape[0] // 2
    total = np.float32(0.0)
    for k in range(K):
        re, im = x[k] - y[k], x[K + k] - y[K + k]
        total += math.sqrt(re * re + im * im)
    return -total


@compiled
def _modulus_gradient(x: FloatArray, y: FloatArray, g: float, out: FloatArray) -> None:
    tiny = np.float32(1e-20)
    K = x.shape[0] // 2
    for k in range(K):
        re, im = x[k] - y[k], x[K + k] - y[K + k]
        w = g / math.sqrt(re * re + im * im + tiny)
        out[k] -= w * re
        out[K + k] -= w * im


DOT = independent(_dot, _dot_gradient)
EUCLID = independent(_euclid, _euclid_gradient)
MANHATTAN = independent(_manhattan, _manhattan_gradient)
MODULUS = independent(_modulus, _modulus_gradient)
