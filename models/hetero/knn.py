"""The k-nearest-neighbour graph of features, as an additional relation (Wang et al. 2020, AM-GCN)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.hetero.comparisons import COMPARISONS, comparisons, similar_name
from graphlearn.models.hetero.features import FeatureBatch, FeatureTable
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation
from graphlearn.types import IdArray

BLOCK = 512


def affordable(node: NodeType) -> bool:
    """Whether the nodes have features and are few enough for comparing all pairs."""
    f = node.features
    if f is None or not node.count:
        return False
    ones = 0 if f.indices is None else len(f.indices)
    return comparisons(node.count, f.width - f.sparse_width, ones) <= COMPARISONS


def with_knn(graph: HeteroGraph, name: str, k: int, device: torch.device) -> HeteroGraph:
    """The graph with edges, in both directions, between each node of a type and its k nearest, if affordable."""
    node = graph.node(name)
    if k == 0 or not affordable(node):
        return graph
    src, dst = nearest(node, k, device)
    return replace(graph, relations=(*graph.relations, Relation(similar_name(name), name, name, src, dst)))


def nearest(node: NodeType, k: int, device: torch.device) -> tuple[IdArray, IdArray]:
    """Pairs, in both directions, of nodes of which one is among the k with the largest cosine to the other.

    Sparse features are weighted by tf-idf. Pairs with a cosine of 0 or less are left out. shape: -> [E], [E]
    """
    columns = FeatureTable(node, "tfidf", device).take()
    n, pairs = node.count, []
    dense = None if columns.dense is None else F.normalize(columns.dense, dim=1)
    sparse = _sparse(columns, n)
    for lo in range(0, n, BLOCK):
        rows = torch.arange(lo, min(n, lo + BLOCK), device=device)
        alike = torch.zeros(len(rows), n, device=device)
        if dense is not None:
            alike += dense[rows] @ dense.T
        if sparse is not None:
            alike += (sparse @ _rows(columns, lo, lo + len(rows)).T.contiguous()).T
        alike[rows - lo, rows] = -1
        best, at = alike.topk(min(k, n), 1)
        keep = best > 0
        pairs.append(torch.stack([at[keep], rows[:, None].expand_as(best)[keep]]))
    a, b = torch.cat(pairs, 1).cpu().numpy() if pairs else np.zeros((2, 0), np.int64)
    both = np.unique(np.concatenate([a * n + b, b * n + a]))
    return both // n, both % n


def _sparse(columns: FeatureBatch, n: int) -> Tensor | None:
    if columns.indices is None:
        return None
    assert columns.offset is not None
    assert columns.values is not None
    places = torch.stack([torch.repeat_interleave(columns.offset.diff()), columns.indices])
    size = (n, columns.width)
    return torch.sparse_coo_tensor(places, columns.values, size, check_invariants=False).coalesce()


def _rows(columns: FeatureBatch, lo: int, hi: int) -> Tensor:
    """The sparse features of nodes lo .. hi - 1 as a matrix. shape: [hi - lo, width]"""
    assert columns.offset is not None
    assert columns.indices is not None
    assert columns.values is not None
    ends = columns.offset[lo : hi + 1]
    at = slice(int(ends[0]), int(ends[-1]))
    out = torch.zeros(hi - lo, columns.width, device=columns.nodes.device)
    row = torch.repeat_interleave(ends.diff())
    return out.index_put_((row, columns.indices[at]), columns.values[at], accumulate=True)
