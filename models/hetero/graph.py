"""Graphs with several node types and relations, in memory.

The nodes of a type are 0 .. count - 1. Shapes: N nodes of a type, E edges of a relation, D dense features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphlearn.errors import InputError
from graphlearn.types import FloatArray, IdArray


@dataclass(frozen=True)
class Features:
    """The features of the nodes of a type: a dense part, a sparse part in CSR, or both.

    dense: [N, D], standardised. indptr: [N + 1]. indices, values: [nonzeros]; without values, all are one.
    """

    dense: FloatArray | None = None
    indptr: IdArray | None = None
    indices: IdArray | None = None
    values: FloatArray | None = None
    sparse_width: int = 0

    def __post_init__(self) -> None:
        if self.dense is None and self.indptr is None:
            raise InputError("features need a dense or a sparse part")
        if self.dense is not None:
            if self.dense.ndim != 2:
                raise InputError(f"dense features must be a matrix [nodes, width], not {self.dense.ndim}-dimensional")
            if not np.isfinite(self.dense).all():
                raise InputError("dense features have values that are not finite")
        if self.indptr is None:
            return
        if self.indices is None or len(self.indptr) == 0 or self.indptr[-1] != len(self.indices):
            raise InputError("the sparse part of features needs as many indices as the last value of indptr")
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < self.sparse_width:
            raise InputError(f"indices of sparse features must be in 0 .. {self.sparse_width - 1}")
        if self.values is not None and not (len(self.values) == len(self.indices) and np.isfinite(self.values).all()):
            raise InputError("sparse features need one finite value per index")
        if self.dense is not None and len(self.dense) != len(self.indptr) - 1:
            raise InputError("the dense and sparse parts of features differ in length")

    def __len__(self) -> int:
        if self.dense is not None:
            return len(self.dense)
        assert self.indptr is not None
        return len(self.indptr) - 1

    @property
    def width(self) -> int:
        """The number of columns of both parts."""
        return (0 if self.dense is None else self.dense.shape[1]) + self.sparse_width


@dataclass(frozen=True)
class NodeType:
    """A node type. Without features, each node has a learnt vector."""

    name: str
    count: int
    features: Features | None = None

    def __post_init__(self) -> None:
        if self.features is not None and len(self.features) != self.count:
            raise InputError(f"{self.name} has {self.count} nodes, but features of {len(self.features)}")


@dataclass(frozen=True)
class Relation:
    """Edges src -> dst between nodes of two types. shape: src, dst, weight: [E]

    In a hub relation, dst are not nodes but hubs 0 .. hubs - 1 that nodes share (a subject, a keyword, an actor), and
    target equals source. Nodes with a common hub are neighbours, without an edge for each pair.
    """

    name: str
    source: str
    target: str
    src: IdArray
    dst: IdArray
    weight: FloatArray | None = None
    hubs: int | None = None

    def __post_init__(self) -> None:
        if len(self.src) != len(self.dst):
            raise InputError(f"source and target of {self.name} differ in length")
        if self.weight is not None and not (
            len(self.weight) == len(self.src) and np.isfinite(self.weight).all() and (self.weight >= 0).all()
        ):
            raise InputError(f"the weights of {self.name} must be finite and at least 0, one per edge")
        if self.hubs is not None and self.source != self.target:
            raise InputError(
                f"the hub relation {self.name} joins nodes of one type, not {self.source} and {self.target}"
            )

    def __len__(self) -> int:
        return len(self.src)

    @property
    def paths(self) -> int:
        """The number of edges; for a hub relation, the number of pairs that it replaces."""
        if self.hubs is None:
            return len(self.src)
        degree = np.bincount(self.dst, minlength=self.hubs).astype(np.int64)
        return int((degree * degree).sum())


@dataclass(frozen=True)
class HeteroGraph:
    """Node types and the relations between them; names are unique."""

    nodes: tuple[NodeType, ...]
    relations: tuple[Relation, ...]

    def __post_init__(self) -> None:
        names = [n.name for n in self.nodes] + [r.name for r in self.relations]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise InputError(f"two node types or relations are called {repeated[0]}")
        counts = {n.name: n.count for n in self.nodes}
        for r in self.relations:
            for side, name, ids in (("source", r.source, r.src), ("target", r.target, r.dst)):
                if name not in counts:
                    raise InputError(f"{side} of {r.name} is {name}, which is not a node type", help=", ".join(counts))
                bound = counts[name] if r.hubs is None or side == "source" else r.hubs
                if len(ids) and not 0 <= ids.min() <= ids.max() < bound:
                    raise InputError(f"{r.name} names {side} {int(ids.max())}, but there are 0 .. {bound - 1}")

    def node(self, name: str) -> NodeType:
        """The node type with this name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise InputError(f"there is no node type {name}", help=", ".join(n.name for n in self.nodes))

    def relation(self, name: str) -> Relation:
        """The relation with this name."""
        for relation in self.relations:
            if relation.name == name:
                return relation
        raise InputError(f"there is no relation {name}", help=", ".join(r.name for r in self.relations))

    @property
    def edges(self) -> int:
        """The number of stored edges, including those of hub relations."""
        return sum(len(r) for r in self.relations)
