"""CPU kernels of the fused training step, compiled by numba; every one releases the GIL and runs on one thread.

Names: E entities, B queries of a chunk, N shared candidates, D entity width, P relation width after `prepare`
(see `scorer.py`), K = D / 2. A complex row of width D is [real parts (K) | imaginary parts (K)].
`anchors_B` are entity ids, `relations_B` rows of the prepared relation table, `flip` is -1.0 for head queries and
+1.0 for tail queries. Gradients are written, not accumulated, unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from graphlearn.types import FloatArray, IdArray

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Compile on first call. Fast maths may reorder sums, never across threads: results repeat exactly."""
    return cast(
        F, numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp", "afn"})(function)
    )


# -- queries: q = f(anchor, relation) and its vector-Jacobian product ------------------------------------------------


@_compiled
def translate(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """TransE: q = h + r for tails, t - r for heads."""
    sign = np.float32(flip)
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for d in range(q.shape[0]):
            q[d] = a[d] + sign * r[d]


@_compiled
def translate_vjp(
    entities: FloatArray,
    prepared: FloatArray,
    anchors_B: IdArray,
    relations_B: IdArray,
    flip: float,
    dq_BD: FloatArray,
    da_BD: FloatArray,
    dr_BP: FloatArray,
) -> None:
    """Gradient of `translate`."""
    sign = np.float32(flip)
    for i in range(anchors_B.shape[0]):
        dq, da, dr = dq_BD[i], da_BD[i], dr_BP[i]
        for d in range(dq.shape[0]):
            da[d] = dq[d]
            dr[d] = sign * dq[d]


@_compiled
def multiply(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """DistMult: q = a * r on both sides."""
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for d in range(q.shape[0]):
            q[d] = a[d] * r[d]


@_compiled
def multiply_vjp(
    entities: FloatArray,
    prepared: FloatArray,
    anchors_B: IdArray,
    relations_B: IdArray,
    flip: float,
    dq_BD: FloatArray,
    da_BD: FloatArray,
    dr_BP: FloatArray,
) -> None:
    """Gradient of `multiply`."""
    for i in range(anchors_B.shape[0]):
        a, r = entities[anchors_B[i]], prepared[relations_B[i]]
        dq, da, dr = dq_BD[i], da_BD[i], dr_BP[i]
        for d in range(dq.shape[0]):
            da[d] = dq[d] * r[d]
            dr[d] = dq[d] * a[d]


@_compiled
def rotate(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """ComplEx and RotatE: q = a * r for tails, a * conj(r) for heads (complex products)."""
    sign = np.float32(flip)
    K = q_BD.shape[1] // 2
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for k in range(K):
            im = sign * r[K + k]
            q[k] = a[k] * r[k] - a[K + k] * im
            q[K + k] = a[k] * im + a[K + k] * r[k]


@_compiled
def rotate_vjp(
    entities: FloatArray,
    prepared: FloatArray,
    anchors_B: IdArray,
    relations_B: IdArray,
    flip: float,
    dq_BD: FloatArray,
    da_BD: FloatArray,
    dr_BP: FloatArray,
) -> None:
    """Gradient of `rotate`."""
    sign = np.float32(flip)
    K = dq_BD.shape[1] // 2
    for i in range(anchors_B.shape[0]):
        a, r = entities[anchors_B[i]], prepared[relations_B[i]]
        dq, da, dr = dq_BD[i], da_BD[i], dr_BP[i]
        for k in range(K):
            re, im = dq[k], dq[K + k]
            r_im = sign * r[K + k]
            da[k] = re * r[k] + im * r_im
            da[K + k] = im * r[k] - re * r_im
            dr[k] = re * a[k] + im * a[K + k]
            dr[K + k] = sign * (im * a[k] - re * a[K + k])


@_compiled
def swap(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """SimplE: e = [head role | tail role], r = [r | r inverse]; q = half of the product with roles exchanged."""
    half = np.float32(0.5)
    K = q_BD.shape[1] // 2
    near, far = (K, 0) if flip > 0 else (0, K)
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for k in range(K):
            q[k] = half * r[near + k] * a[K + k]
            q[K + k] = half * r[far + k] * a[k]


@_compiled
def swap_vjp(
    entities: FloatArray,
    prepared: FloatArray,
    anchors_B: IdArray,
    relations_B: IdArray,
    flip: float,
    dq_BD: FloatArray,
    da_BD: FloatArray,
    dr_BP: FloatArray,
) -> None:
    """Gradient of `swap`."""
    half = np.float32(0.5)
    K = dq_BD.shape[1] // 2
    near, far = (K, 0) if flip > 0 else (0, K)
    for i in range(anchors_B.shape[0]):
        a, r = entities[anchors_B[i]], prepared[relations_B[i]]
        dq, da, dr = dq_BD[i], da_BD[i], dr_BP[i]
        for k in range(K):
            da[K + k] = half * dq[k] * r[near + k]
            dr[near + k] = half * dq[k] * a[K + k]
            da[k] = half * dq[K + k] * r[far + k]
            dr[far + k] = half * dq[K + k] * a[k]


@_compiled
def cross(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """CP: e = [head role | tail role], r of width K; only the head role of h meets the tail role of t."""
    zero = np.float32(0.0)
    K = q_BD.shape[1] // 2
    role, other = (0, K) if flip > 0 else (K, 0)
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for k in range(K):
            q[other + k] = a[role + k] * r[k]
            q[role + k] = zero


@_compiled
def cross_vjp(
    entities: FloatArray,
    prepared: FloatArray,
    anchors_B: IdArray,
    relations_B: IdArray,
    flip: float,
    dq_BD: FloatArray,
    da_BD: FloatArray,
    dr_BP: FloatArray,
) -> None:
    """Gradient of `cross`."""
    zero = np.float32(0.0)
    K = dq_BD.shape[1] // 2
    role, other = (0, K) if flip > 0 else (K, 0)
    for i in range(anchors_B.shape[0]):
        a, r = entities[anchors_B[i]], prepared[relations_B[i]]
        dq, da, dr = dq_BD[i], da_BD[i], dr_BP[i]
        for k in range(K):
            da[role + k] = dq[other + k] * r[k]
            da[other + k] = zero
            dr[k] = dq[other + k] * a[role + k]


# -- distances between queries and candidates ------------------------------------------------------------------------


@_compiled
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


@_compiled
def manhattan_vjp(q_BD: FloatArray, c_ND: FloatArray, g_BN: FloatArray, dq_BD: FloatArray, dc_ND: FloatArray) -> None:
    """Gradient of `manhattan`; `dc_ND` is overwritten with the sum over queries.

    Where a difference is exactly zero it takes one of the two one-sided slopes.
    """
    zero = np.float32(0.0)
    dc_ND[:] = zero
    D = q_BD.shape[1]
    for i in range(q_BD.shape[0]):
        q, dq = q_BD[i], dq_BD[i]
        for d in range(D):
            dq[d] = zero
        for j in range(c_ND.shape[0]):
            g = g_BN[i, j]
            if g == zero:
                continue
            c, dc = c_ND[j], dc_ND[j]
            for d in range(D):
                step = g if q[d] > c[d] else -g
                dq[d] -= step
                dc[d] += step


@_compiled
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


@_compiled
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


# -- regularisers on the rows of a positive ---------------------------------------------------------------------------


@_compiled
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


@_compiled
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


# -- small helpers ----------------------------------------------------------------------------------------------------


@_compiled
def gather(table: FloatArray, ids_N: IdArray, out_ND: FloatArray) -> None:
    """Rows of a table, copied."""
    for i in range(ids_N.shape[0]):
        row, out = table[ids_N[i]], out_ND[i]
        for d in range(out.shape[0]):
            out[d] = row[d]


@_compiled
def dot_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: inner products of queries and their target rows."""
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += q[d] * t[d]
        out_B[i] = total


@_compiled
def dot_rows_vjp(
    q_BD: FloatArray, table: FloatArray, targets_B: IdArray, g_B: FloatArray, dq_BD: FloatArray, dt_BD: FloatArray
) -> None:
    """Gradient of `dot_rows`: adds to `dq_BD`, writes `dt_BD`."""
    for i in range(q_BD.shape[0]):
        q, t, dq, dt, g = q_BD[i], table[targets_B[i]], dq_BD[i], dt_BD[i], g_B[i]
        for d in range(q.shape[0]):
            dq[d] += g * t[d]
            dt[d] = g * q[d]


@_compiled
def manhattan_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: minus L1 distances."""
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += abs(q[d] - t[d])
        out_B[i] = -total


@_compiled
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


@_compiled
def euclid_rows(q_BD: FloatArray, table: FloatArray, targets_B: IdArray, out_B: FloatArray) -> None:
    """Scores of the answers: minus L2 distances."""
    tiny = np.float32(1e-12)
    for i in range(q_BD.shape[0]):
        q, t = q_BD[i], table[targets_B[i]]
        total = np.float32(0.0)
        for d in range(q.shape[0]):
            total += (q[d] - t[d]) * (q[d] - t[d])
        out_B[i] = -math.sqrt(max(total, tiny))


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
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


# -- sparse row updates ------------------------------------------------------------------------------------------------


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
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
    one = np.float32(1.0)
    D = table.shape[1]
    for u in range(lo, hi):
        i = rows[u]
        e, row = ids[i], g[i]
        mean, weights = mean_ED[e], table[e]
        total = np.float32(0.0)
        for d in range(D):
            total += row[d] * row[d]
        square_E[e] = b2 * square_E[e] + (one - b2) * total / np.float32(D)
        c = np.float32(rate / correct1) / (math.sqrt(square_E[e] / np.float32(correct2)) + eps)
        for d in range(D):
            m = b1 * mean[d] + (one - b1) * row[d]
            mean[d] = m
            weights[d] -= c * m


# -- ranking -----------------------------------------------------------------------------------------------------------


@_compiled
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
