"""Compiled queries q = f(anchor, relation), each with its vector-Jacobian product.

Names: E entities, B queries of a chunk, N shared candidates, D entity width, P relation width after `prepare`
(see `scorer.py`), K = D / 2. A complex row of width D is [real parts (K) | imaginary parts (K)].
`anchors_B` are entity ids, `relations_B` rows of the prepared relation table, `flip` is -1.0 for head queries and
+1.0 for tail queries. Gradients are written, not accumulated.
"""

from __future__ import annotations

import numpy as np

from graphlearn.models.core.compiled import compiled
from graphlearn.types import FloatArray, IdArray


@compiled
def translate(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """TransE: q = h + r for tails, t - r for heads."""
    sign = np.float32(flip)
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for d in range(q.shape[0]):
            q[d] = a[d] + sign * r[d]


@compiled
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


@compiled
def multiply(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """DistMult: q = a * r on both sides."""
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for d in range(q.shape[0]):
            q[d] = a[d] * r[d]


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
def cross(
    entities: FloatArray, prepared: FloatArray, anchors_B: IdArray, relations_B: IdArray, flip: float, q_BD: FloatArray
) -> None:
    """CP: e = [head role | tail role], r of width K; the head role of h is compared with the tail role of t."""
    zero = np.float32(0.0)
    K = q_BD.shape[1] // 2
    role, other = (0, K) if flip > 0 else (K, 0)
    for i in range(anchors_B.shape[0]):
        a, r, q = entities[anchors_B[i]], prepared[relations_B[i]], q_BD[i]
        for k in range(K):
            q[other + k] = a[role + k] * r[k]
            q[role + k] = zero


@compiled
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
