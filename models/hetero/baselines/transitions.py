"""Walks over a graph with several node types: the probability of each step, and steps of many walks at once.

All nodes are numbered through: type after type, then the hubs of each hub relation. From a node, a step follows one of
the relations in one direction, each that the node has with the same probability, and then one of its edges, in
proportion to the weights. Shapes: N nodes and hubs, E steps, B columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.hetero.graph import HeteroGraph, Relation
from graphlearn.types import BoolArray, DoubleArray, IdArray


@dataclass(frozen=True)
class Direction:
    """A relation along its edges, or against them (`back`)."""

    relation: str
    back: bool = False


@dataclass(frozen=True)
class Numbering:
    """The first number of each node type, and of the hubs of each hub relation; `size`: N."""

    types: Mapping[str, int]
    hubs: Mapping[str, int]
    counts: Mapping[str, int]
    size: int

    @staticmethod
    def of(graph: HeteroGraph) -> Numbering:
        """The numbering of a graph."""
        counts = {node.name: node.count for node in graph.nodes}
        hubs = {r.name: r.hubs for r in graph.relations if r.hubs is not None}
        ends = np.cumsum([0, *counts.values(), *hubs.values()]).tolist()
        starts = dict(zip([*counts, *hubs], ends[:-1], strict=True))
        return Numbering({t: starts[t] for t in counts}, {r: starts[r] for r in hubs}, counts, ends[-1])

    def nodes(self, kind: str) -> slice:
        """The numbers of a node type."""
        start = self.types[kind]
        return slice(start, start + self.counts[kind])

    def ends(self, relation: Relation) -> tuple[IdArray, IdArray]:
        """The edges of a relation. shape: [edges] each"""
        target = self.types[relation.target] if relation.hubs is None else self.hubs[relation.name]
        return relation.src.astype(np.int64) + self.types[relation.source], relation.dst.astype(np.int64) + target


@dataclass(frozen=True)
class _Rows:
    """A sparse matrix in CSR. shape: offset [N + 1]; column, value: [E]"""

    offset: Tensor
    column: Tensor
    value: Tensor

    @staticmethod
    def of(row: IdArray, column: IdArray, value: DoubleArray, size: int) -> _Rows:
        order = np.argsort(row, kind="stable")
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=size))])
        return _Rows(
            torch.from_numpy(offset), torch.from_numpy(column[order]), torch.from_numpy(value[order].astype(np.float32))
        )

    def __matmul__(self, x: Tensor) -> Tensor:
        if not len(self.column):
            return x.new_zeros(len(self.offset) - 1, x.shape[1])
        return F.embedding_bag(self.column, x, self.offset[:-1], mode="sum", per_sample_weights=self.value)


@dataclass(frozen=True)
class Transitions:
    """The matrix P of the probabilities of steps: row = from, column = to. Rows sum to 1, or to 0 without edges."""

    numbering: Numbering
    steps: int
    _from: _Rows
    _to: _Rows

    @staticmethod
    def of(
        graph: HeteroGraph, keep: Mapping[str, BoolArray] | None = None, only: Sequence[Direction] | None = None
    ) -> Transitions:
        """The steps along the edges in the masks `keep` (by relation; default all), or along `only` some directions."""
        numbering = Numbering.of(graph)
        parts = list(_steps(graph, numbering, keep or {}, only))
        rows, columns, chances = (np.concatenate([np.zeros(0), *column]) for column in zip(*parts, strict=True))
        row, column = rows.astype(np.int64), columns.astype(np.int64)
        total = np.bincount(row, chances, numbering.size)
        chance = chances / np.where(total > 0, total, 1)[row]
        size = numbering.size
        return Transitions(
            numbering, len(row), _Rows.of(row, column, chance, size), _Rows.of(column, row, chance, size)
        )

    def mean(self, x: Tensor) -> Tensor:
        """The expected value of x after a step, P x. shape: [N, B] -> [N, B]"""
        return self._from @ x

    def push(self, chances: Tensor) -> Tensor:
        """The distribution of walks after a step, Pᵀ x. shape: [N, B] -> [N, B]"""
        return self._to @ chances


def _steps(
    graph: HeteroGraph, numbering: Numbering, keep: Mapping[str, BoolArray], only: Sequence[Direction] | None
) -> Iterator[tuple[IdArray, IdArray, DoubleArray]]:
    """(from, to, share of the edge in its relation) of each direction."""
    none = np.zeros(0, np.int64)
    yield none, none, np.zeros(0)
    for r in graph.relations:
        chosen = np.ones(len(r), np.bool_) if r.name not in keep else keep[r.name]
        weight = np.ones(len(r)) if r.weight is None else r.weight.astype(np.float64)
        chosen = chosen & (weight > 0)
        src, dst = (ends[chosen] for ends in numbering.ends(r))
        for a, b, back in ((src, dst, False), (dst, src, True)):
            if only is None or Direction(r.name, back) in only:
                total = np.bincount(a, weight[chosen], numbering.size)
                yield a, b, weight[chosen] / total[a]
