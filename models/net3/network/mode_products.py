"""Products of a tensor along one mode, and the normalised matrices of a graph.

Shapes: D channels, N1..NM modes, B windows last, G gates, Q rows of the matrix.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from graphlearn.errors import InputError
from graphlearn.types import FloatArray, IdArray

Graph: TypeAlias = tuple[IdArray, IdArray, FloatArray]
"""Edges of one mode: source ids, target ids, weights. An edge carries values from its source to its target."""

SPARSE_ABOVE = 512


def mode_product(x: Tensor, a: Tensor, mode: int) -> Tensor:
    """Multiply mode `mode` by a matrix, dense or sparse.

    shape: [D, N1, ..., NM, B], a [Q, N_mode] -> [D, N1, .., Q, .., NM, B]
    """
    shape = x.shape
    before = math.prod(shape[: mode + 1])
    if a.is_sparse:
        folded = x.reshape(before, shape[mode + 1], -1).transpose(0, 1).reshape(shape[mode + 1], -1)
        out = torch.sparse.mm(a, folded).reshape(a.shape[0], before, -1).transpose(0, 1)
    else:
        out = a @ x.reshape(before, shape[mode + 1], -1)
    result: Tensor = out.reshape(*shape[: mode + 1], a.shape[0], *shape[mode + 2 :])
    return result


def gate_product(x: Tensor, a: Tensor, mode: int) -> Tensor:
    """`mode_product` with a matrix per gate. shape: [G, D, N1, ..., NM, B], a [G, Q, N_mode] -> [G, D, .., Q, .., B]"""
    shape = x.shape
    folded = x.reshape(shape[0], math.prod(shape[1 : mode + 2]), shape[mode + 2], -1)
    return (a.unsqueeze(1) @ folded).reshape(*shape[: mode + 2], a.shape[1], *shape[mode + 3 :])


def normalise(graph: Graph, n: int, *, directions: str = "along") -> list[Tensor]:
    """A = D_in^-1/2 A D_out^-1/2 with A[target, source] = weight; degrees are sums of absolute weights.

    For a symmetric graph this is D^-1/2 A D^-1/2. A directed one gives a second matrix, against its edges, when
    `directions` is "both". Repeated edges are summed; nodes without an edge get zeros. Above 512 nodes a matrix with
    few entries is sparse. Raises InputError for ids outside 0 .. n - 1 and weights that are not finite.
    """
    source, target = np.asarray(graph[0], np.int64), np.asarray(graph[1], np.int64)
    weight = np.asarray(graph[2], np.float64)
    if not len(source) == len(target) == len(weight):
        raise InputError("source, target and weight of a graph differ in length")
    ends = np.concatenate([source, target])
    if ends.size and not 0 <= ends.min() <= ends.max() < n:
        raise InputError(f"a graph names node {int(ends.max())}, but its mode has the nodes 0 .. {n - 1}")
    if not np.isfinite(weight).all():
        raise InputError("a graph has weights that are not finite")
    into = np.bincount(target, np.abs(weight), n)
    out_of = np.bincount(source, np.abs(weight), n)
    scale = np.sqrt(into[target] * out_of[source])
    entries = np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)
    code, at = np.unique(target * n + source, return_inverse=True)
    entries = np.bincount(at, entries, len(code)) if len(code) else entries
    rows, columns = code // n, code % n
    ids = torch.from_numpy(np.stack([rows, columns]))
    a = torch.sparse_coo_tensor(ids, torch.from_numpy(entries.astype(np.float32)), (n, n), check_invariants=True)
    a = a.coalesce()
    back = a.transpose(0, 1).coalesce()
    symmetric = torch.equal(a.indices(), back.indices()) and torch.allclose(a.values(), back.values(), atol=1e-6)
    found = [a] if symmetric or directions == "along" else [a, back]
    return found if n > SPARSE_ABOVE and len(code) < 0.05 * n * n else [m.to_dense() for m in found]
