"""Compiled scores of queries against their answers (`…_rows`) and against shared candidates, with gradients.

Names: E entities, B queries of a chunk, N shared candidates, D entity width, P relation width after `prepare`
(see `scorer.py`), K = D / 2. A complex row of width D is [real parts (K) | imaginary parts (K)].
Gradients are written, not accumulated, unless a docstring says otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from graphlearn.models.core.compiled import compiled
from graphlearn.types import FloatArray, IdArray


@compiled
def manhattan(q_BD: FloatArray, c_ND: FloatArray, scores_BN: FloatArray) -> None:
    """Scores of TransE with the L1 norm: minus the sum of absolute differences."""
    for i in range(q_BD.shape[0]):
        q = q_BD[i]
        for j in range(c_ND.shape[0]):
            c = c_ND[j]
            total = np.float32(0.0)
            for d in range(q.shape[0]):
                total += abs(q[d] - c[d])
            scores_BN[i, j] = -total


@compiled
def manhattan_vjp(q_BD: FloatArray, c_ND: FloatArray, g_BN: FloatArray, dq_BD: FloatArray, dc_ND: FloatArray) -> None:
    """Gradient of `manhattan`; `dc_ND` is overwritten with the sum over queries.

    With P the sum of g where q > c and G the sum of all g, a gradient of signs is 2 P - G. P is summed with candidates
    along the rows, so that the sums of four queries stay in registers and one row of `above` is all that is written.
    Where a difference is exactly zero it takes one of the two one-sided slopes.
    """
    zero, two = np.float32(0.0), np.float32(2.0)
    T = 16  # queries of a tile: their g stays in the first-level cache
    B, D = q_BD.shape
    N = c_ND.shape[0]
    W = -(-N // 32) * 32  # whole vectors; the padding has g = 0
    c_DW, above_DW = np.zeros((D, W), np.float32), np.zeros((D, W), np.float32)
    g_TW, g_T, q_T = np.zeros((T, W), np.float32), np.zeros(T, np.float32), np.zeros(T, np.float32)
    g_N = np.zeros(N, np.float32)
    for j in range(N):
        for d in range(D):
            c_DW[d, j] = c_ND[j, d]
    for lo in range(0, B, T):
        n = min(T, B - lo)
        for i in range(T):
            total = zero
            for j in range(N):
                g = g_BN[lo + i, j] if i < n else zero
                g_TW[i, j] = g
                g_N[j] += g
                total += g
            g_T[i] = total
        for d in range(D):
            c, above = c_DW[d], above_DW[d]
            for i in range(n):
                q_T[i] = q_BD[lo + i, d]
            for i in range(0, T, 4):
                q0, q1, q2, q3 = q_T[i], q_T[i + 1], q_T[i + 2], q_T[i + 3]
                g0, g1, g2, g3 = g_TW[i], g_TW[i + 1], g_TW[i + 2], g_TW[i + 3]
                p0, p1, p2, p3 = zero, zero, zero, zero
                for j in range(W):
                    a0 = g0[j] if q0 > c[j] else zero
                    a1 = g1[j] if q1 > c[j] else zero
                    a2 = g2[j] if q2 > c[j] else zero
                    a3 = g3[j] if q3 > c[j] else zero
                    p0 += a0
                    p1 += a1
                    p2 += a2
                    p3 += a3
                    above[j] += (a0 + a1) + (a2 + a3)
                q_T[i], q_T[i + 1] = g_T[i] - two * p0, g_T[i + 1] - two * p1
                q_T[i + 2], q_T[i + 3] = g_T[i + 2] - two * p2, g_T[i + 3] - two * p3
            for i in range(n):
                dq_BD[lo + i, d] = q_T[i]
    for j in range(N):
        for d in range(D):
            dc_ND[j, d] = two * above_DW[d, j] - g_N[j]


@compiled
def modulus(q_BD: FloatArray, c_ND: FloatArray, scores_BN: FloatArray) -> None:
    """Scores of RotatE: minus the sum of the moduli of complex differences."""
    K = q_BD.shape[1] // 2
    for i in range(q_BD.shape[0]):
        q_re, q_im = q_BD[i, :K], q_BD[i, K:]
        for j in range(c_ND.shape[0]):
            c_re, c_im = c_ND[j, :K], c_ND[j, K:]
            total = np.float32(0.0)
            for k in range(K):
                re, im = q_re[k] - c_re[k], q_im[k] - c_im[k]
                total += math.sqrt(re * re + im * im)
            scores_BN[i, j] = -total


@compiled
def modulus_vjp(q_BD: FloatArray, c_ND: FloatArray, g_BN: FloatArray, dq_BD: FloatArray, dc_ND: FloatArray) -> None:
    """Gradient of `modulus`; `dc_ND` is overwritten with the sum over queries. At a zero difference it is 0."""
    zero = np.float32(0.0)
    tiny = np.float32(1e-20)
    dc_ND[:] = zero
    K = q_BD.shape[1] // 2
    step = np.empty(2 * K, np.float32)
    for i in range(q_BD.shape[0]):
        q, dq = q_BD[i], dq_BD[i]
        for d in range(2 * K):
            dq[d] = zero
        for j in range(c_ND.shape[0]):
            g = g_BN[i, j]
            if g == zero:
                continue
            c, dc = c_ND[j], dc_ND[j]
            for k in range(K):
                re, im = q[k] - c[k], q[K + k] - c[K + k]
                w = g / math.sqrt(re * re + im * im + tiny)
                step[k] = w * re
                step[K + k] = w * im
            for d in range(2 * K):
                dq[d] -= step[d]
                dc[d] += step[d]


@compiled
def dot_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: inner products of queries and their target rows."""
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += q[d] * t[d]
        out_B[i] = total


@compiled
def dot_rows_vjp(
    q_BD: FloatArray, table: FloatArray, targets_B: IdArray, g_B: FloatArray, dq_BD: FloatArray, dt_BD: FloatArray
) -> None:
    """Gradient of `dot_rows`: adds to `dq_BD`, writes `dt_BD`."""
    for i in range(q_BD.shape[0]):
        q, t, dq, dt, g = q_BD[i], table[targets_B[i]], dq_BD[i], dt_BD[i], g_B[i]
        for d in range(q.shape[0]):
            dq[d] += g * t[d]
            dt[d] = g * q[d]


@compiled
def manhattan_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: minus L1 distances."""
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += abs(q[d] - t[d])
        out_B[i] = -total


@compiled
def manhattan_rows_vjp(
    q_BD: FloatArray, table: FloatArray, targets_B: IdArray, g_B: FloatArray, dq_BD: FloatArray, dt_BD: FloatArray
) -> None:
    """Gradient of `manhattan_rows`: adds to `dq_BD`, writes `dt_BD`. At a zero difference it is 0."""
    zero = np.float32(0.0)
    for i in range(q_BD.shape[0]):
        q, t, dq, dt, g = q_BD[i], table[targets_B[i]], dq_BD[i], dt_BD[i], g_B[i]
        for d in range(q.shape[0]):
            x = q[d] - t[d]
            step = g if x > zero else (-g if x < zero else zero)
            dq[d] -= step
            dt[d] = step


@compiled
def euclid_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: minus L2 distances."""
    tiny = np.float32(1e-12)
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += (q[d] - t[d]) * (q[d] - t[d])
        out_B[i] = -math.sqrt(max(total, tiny))


@compiled
def euclid_rows_vjp(
    q_BD: FloatArray, table: FloatArray, targets_B: IdArray, g_B: FloatArray, dq_BD: FloatArray, dt_BD: FloatArray
) -> None:
    """Gradient of `euclid_rows`: adds to `dq_BD`, writes `dt_BD`."""
    tiny = np.float32(1e-12)
    for i in range(q_BD.shape[0]):
        q, t, dq, dt = q_BD[i], table[targets_B[i]], dq_BD[i], dt_BD[i]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += (q[d] - t[d]) * (q[d] - t[d])
        w = g_B[i] / math.sqrt(max(total, tiny))
        for d in range(q.shape[0]):
            step = w * (q[d] - t[d])
            dq[d] -= step
            dt[d] = step


@compiled
def modulus_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: minus sums of complex moduli."""
    K = q_BD.shape[1] // 2
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for k in range(K):
            re, im = q[k] - t[k], q[K + k] - t[K + k]
            total += math.sqrt(re * re + im * im)
        out_B[i] = -total


@compiled
def modulus_rows_vjp(
    q_BD: FloatArray, table: FloatArray, targets_B: IdArray, g_B: FloatArray, dq_BD: FloatArray, dt_BD: FloatArray
) -> None:
    """Gradient of `modulus_rows`: adds to `dq_BD`, writes `dt_BD`. At a zero difference it is 0."""
    tiny = np.float32(1e-20)
    K = q_BD.shape[1] // 2
    for i in range(q_BD.shape[0]):
        q, t, dq, dt, g = q_BD[i], table[targets_B[i]], dq_BD[i], dt_BD[i], g_B[i]
        for k in range(K):
            re, im = q[k] - t[k], q[K + k] - t[K + k]
            w = g / math.sqrt(re * re + im * im + tiny)
            dt[k] = w * re
            dt[K + k] = w * im
        for d in range(2 * K):
            dq[d] -= dt[d]
