"""Node features as models use them: weighted once, then copied to the device by rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.hetero.graph import Features, NodeType
from graphlearn.types import IdArray


@dataclass(frozen=True)
class FeatureBatch:
    """Features of nodes of a type, on the device. dense: [N, D]; offset: [N + 1], the ends of the sparse rows."""

    dense: Tensor | None
    offset: Tensor | None
    indices: Tensor | None
    values: Tensor | None
    nodes: Tensor
    """Positions of the rows in their type, for looking up learnt vectors."""
    width: int = 0
    """The number of columns of the sparse part."""


def _weights(features: Features, weighting: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    assert features.indptr is not None
    assert features.indices is not None
    count = len(features.indices)
    values = np.ones(count, np.float64) if features.values is None else features.values.astype(np.float64)
    if weighting == "raw":
        return values.astype(np.float32)
    rows = np.repeat(np.arange(len(features)), np.diff(features.indptr))
    if weighting == "mean":
        total = np.bincount(rows, np.abs(values), len(features))
        return np.asarray(values / np.maximum(total[rows], 1e-12), np.float32)
    seen = np.bincount(features.indices, minlength=features.sparse_width)
    values = values * np.log(len(features) / np.maximum(seen, 1))[features.indices]
    length = np.sqrt(np.bincount(rows, values * values, len(features)))
    return np.asarray(values / np.maximum(length[rows], 1e-12), np.float32)


class FeatureTable:
    """The weighted features of a type; `take` copies rows to the device."""

    def __init__(self, node: NodeType, weighting: str, device: torch.device) -> None:
        self.count, self.features, self.device = node.count, node.features, device
        self.values = None
        if node.features is not None and node.features.indptr is not None:
            self.values = _weights(node.features, weighting)

    def take(self, nodes: IdArray | None = None) -> FeatureBatch:
        """The rows of the nodes, by default all."""

        def put(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | IdArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

        ids = np.arange(self.count, dtype=np.int64) if nodes is None else np.asarray(nodes, np.int64)
        features = self.features
        if features is None:
            return FeatureBatch(None, None, None, None, put(ids))
        dense = None if features.dense is None else put(features.dense if nodes is None else features.dense[ids])
        if features.indptr is None:
            return FeatureBatch(dense, None, None, None, put(ids))
        assert features.indices is not None
        assert self.values is not None
        if nodes is None:
            offset, at = features.indptr.astype(np.int64), slice(None)
            indices, values = features.indices[at].astype(np.int64), self.values
        else:
            lengths = np.diff(features.indptr)[ids]
            offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            places = np.arange(offset[-1]) + np.repeat(features.indptr[ids] - offset[:-1], lengths)
            indices, values = features.indices[places].astype(np.int64), self.values[places]
        return FeatureBatch(dense, put(offset), put(indices), put(values), put(ids), features.sparse_width)


def width_of(columns: FeatureBatch) -> int:
    """Columns of a type's features."""
    return (0 if columns.dense is None else columns.dense.shape[1]) + columns.width


def dense_columns(columns: FeatureBatch, lo: int, hi: int) -> Tensor:
    """Columns lo .. hi - 1 of features, the dense part first. shape: [N, hi - lo]"""
    out = torch.zeros(len(columns.nodes), hi - lo, device=columns.nodes.device)
    first = 0 if columns.dense is None else columns.dense.shape[1]
    if columns.dense is not None and lo < first:
        out[:, : min(hi, first) - lo] = columns.dense[:, lo:hi]
    if columns.indices is not None:
        assert columns.offset is not None
        assert columns.values is not None
        at = columns.indices + (first - lo)
        inside = (at >= 0) & (at < hi - lo)
        row = torch.repeat_interleave(columns.offset.diff())
        out[row[inside], at[inside]] = columns.values[inside]
    return out
