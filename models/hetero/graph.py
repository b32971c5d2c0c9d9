"""Graphs of several node types and relations, and what can be learnt on them: the border between jobs and models.

Nodes of a type are the positions 0 .. count - 1; keys are the job's. Shapes: N nodes of a type, E edges of a relation,
D width of the dense features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from graphlearn.errors import InputError
from graphlearn.types import BoolArray, FloatArray, IdArray

Part: TypeAlias = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
Parts: TypeAlias = npt.NDArray[np.int8]
"""For each node or edge its place in PARTS, or -1."""


@dataclass(frozen=True)
class Features:
    """Features of the nodes of a type: a dense part, a sparse part in CSR, or both side by side.

    dense: [N, D], standardised. indptr: [N + 1]; indices and values: [nonzeros]; values None = ones.
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
                raise InputError(f"dense features are a matrix [nodes, width], not {self.dense.ndim}-dimensional")
            if not np.isfinite(self.dense).all():
                raise InputError("dense features hold values that are not finite")
        if self.indptr is None:
            return
        if self.indices is None or len(self.indptr) == 0 or self.indptr[-1] != len(self.indices):
            raise InputError("the sparse part of features needs indices, as many as indptr ends with")
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < self.sparse_width:
            raise InputError(f"indices of sparse features must lie in 0 .. {self.sparse_width - 1}")
        if self.values is not None and not (len(self.values) == len(self.indices) and np.isfinite(self.values).all()):
            raise InputError("values of sparse features must be finite, one for each index")
        if self.dense is not None and len(self.dense) != len(self.indptr) - 1:
            raise InputError("the dense and the sparse part of features differ in length")

    def __len__(self) -> int:
        if self.dense is not None:
            return len(self.dense)
        assert self.indptr is not None
        return len(self.indptr) - 1

    @property
    def width(self) -> int:
        """Columns of both parts together."""
        return (0 if self.dense is None else self.dense.shape[1]) + self.sparse_width


@dataclass(frozen=True)
class NodeType:
    """One type of node. features None: each node has a vector that is learnt."""

    name: str
    count: int
    features: Features | None = None

    def __post_init__(self) -> None:
        if self.features is not None and len(self.features) != self.count:
            raise InputError(f"{self.name} has {self.count} nodes, but features of {len(self.features)}")


@dataclass(frozen=True)
class Relation:
    """Edges src -> dst between nodes of two types. shape: src, dst, weight: [E]

    With `hubs`, dst are not nodes but numbers 0 .. hubs - 1 of what nodes share (a subject, a keyword, an actor), and
    target is source: nodes with a hub in common are neighbours, without an edge for each pair.
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
            raise InputError(f"weights of {self.name} must be finite and at least 0, one for each edge")
        if self.hubs is not None and self.source != self.target:
            raise InputError(
                f"the hub relation {self.name} joins nodes of one type, not {self.source} and {self.target}"
            )

    def __len__(self) -> int:
        return len(self.src)

    @property
    def paths(self) -> int:
        """Edges that the relation stands for; of a hub relation the pairs that materialising it would make."""
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
                    raise InputError(f"{side} of {r.name} is {name}, which is no node type", help=", ".join(counts))
                bound = counts[name] if r.hubs is None or side == "source" else r.hubs
                if len(ids) and not 0 <= ids.min() <= ids.max() < bound:
                    raise InputError(f"{r.name} names {side} {int(ids.max())}, but there are 0 .. {bound - 1}")

    def node(self, name: str) -> NodeType:
        """The node type of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise InputError(f"there is no node type {name}", help=", ".join(n.name for n in self.nodes))

    def relation(self, name: str) -> Relation:
        """The relation of that name."""
        for relation in self.relations:
            if relation.name == name:
                return relation
        raise InputError(f"there is no relation {name}", help=", ".join(r.name for r in self.relations))

    @property
    def edges(self) -> int:
        """Edges that are stored, hub tables included."""
        return sum(len(r) for r in self.relations)


@dataclass(frozen=True)
class Classification:
    """One class a node. labels: [N] in 0 .. classes - 1, -1 = unknown; split: [N] places in PARTS, -1 = none."""

    type: str
    labels: IdArray
    split: Parts
    classes: int


@dataclass(frozen=True)
class MultiLabel:
    """Any number of classes a node. labels: [N, C]; split: [N] places in PARTS, -1 = none or unknown."""

    type: str
    labels: BoolArray
    split: Parts

    @property
    def classes(self) -> int:
        """Columns of the labels."""
        return int(self.labels.shape[1])


@dataclass(frozen=True)
class LinkRanking:
    """Targets of a relation are ranked for their sources. split: [E] places in PARTS, -1 = only passes messages.

    Messages run along train edges and those of -1, never along validation and test edges.
    """

    relation: str
    split: Parts


@dataclass(frozen=True)
class Unsupervised:
    """Embeddings of every node from links alone. labels ([N], -1 = unknown) of one type only measure the clustering."""

    type: str | None = None
    labels: IdArray | None = None


Task: TypeAlias = Classification | MultiLabel | LinkRanking | Unsupervised


def check_task(graph: HeteroGraph, task: Task) -> None:
    """Raises InputError for a task that does not fit the graph, or from which nothing could be learnt or measured."""
    if isinstance(task, Unsupervised):
        if not graph.edges:
            raise InputError("there are no edges to learn embeddings from")
        if task.labels is not None and (task.type is None or len(task.labels) != graph.node(task.type).count):
            raise InputError("labels of the clustering report need a node type of as many nodes")
        return
    if isinstance(task, LinkRanking):
        relation = graph.relation(task.relation)
        if relation.hubs is not None:
            raise InputError(f"{relation.name} is a hub table, it has no targets to rank")
        wanted, what = len(relation), f"edges of {relation.name}"
    else:
        wanted, what = graph.node(task.type).count, f"nodes of {task.type}"
        if len(task.labels) != wanted:
            raise InputError(f"there are {wanted} {what}, but {len(task.labels)} labels")
    if len(task.split) != wanted:
        raise InputError(f"there are {wanted} {what}, but the split has {len(task.split)}")
    for place, part in ((0, "train"), (2, "test")):
        if not (task.split == place).any():
            raise InputError(f"no {what} are in the {part} part", help=f"give some of them split = '{part}'")
    if isinstance(task, Classification):
        used = task.labels[task.split >= 0]
        if used.min() < 0 or used.max() >= task.classes:
            raise InputError(f"{what} with a split need labels in 0 .. {task.classes - 1}")
        if len(np.unique(task.labels[task.split == 0])) < 2:
            raise InputError(f"the train part of {what} has one class only", help="there is nothing to tell apart")
    if isinstance(task, MultiLabel):
        if task.labels.ndim != 2:
            raise InputError("labels of several classes are a matrix [nodes, classes]")
        if not task.labels[task.split == 0].any():
            raise InputError(f"no {what} in the train part has a label")


def random_split(
    count: int,
    fractions: Sequence[float],
    seed: int,
    strata: npt.NDArray[Any] | None = None,
    known: BoolArray | None = None,
) -> Parts:
    """Places in PARTS at random; with strata each of them is split by the fractions on its own. Unknown ones are -1."""
    rng = np.random.default_rng([seed, 11])
    ids = np.flatnonzero(np.ones(count, np.bool_) if known is None else known)
    order = ids[rng.permutation(len(ids))]
    group = np.zeros(count, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].reshape(-1)
    order = order[np.argsort(group[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order], side="left")
    size = np.bincount(group[order], minlength=int(group.max(initial=0)) + 1)[group[order]]
    shares = np.cumsum(np.asarray(fractions, np.float64)) / sum(fractions)
    place = np.searchsorted(shares[:-1], (rank + 0.5) / np.maximum(size, 1), side="right")
    out = np.full(count, -1, np.int8)
    out[order] = place
    return out


COMPARISONS = 50_000_000_000
"""Multiplications that comparing all nodes of a type with each other may cost."""


def comparisons(rows: int, dense: int, ones: int) -> int:
    """Multiplications to compare every node with every other: each row with all numbers that are stored."""
    return rows * (rows * dense + ones)
