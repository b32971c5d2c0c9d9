"""Learning tasks on a graph. `split`: split codes. Shapes: N nodes of a type, E edges, C classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphlearn.errors import InputError
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.types import BoolArray, IdArray, Split, SplitCodes


@dataclass(frozen=True)
class Classification:
    """One class per node. labels: [N] in 0 .. classes - 1, -1 = unknown; split: [N], -1 = none."""

    type: str
    labels: IdArray
    split: SplitCodes
    classes: int


@dataclass(frozen=True)
class MultiLabel:
    """Several classes per node. labels: [N, C]; split: [N], -1 = none or unknown."""

    type: str
    labels: BoolArray
    split: SplitCodes

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.labels.shape[1])


@dataclass(frozen=True)
class LinkRanking:
    """Ranking the targets of a relation for its sources. split: [E], -1 = used for messages only.

    Messages pass along training edges and those with -1, never along validation and test edges.
    """

    relation: str
    split: SplitCodes


@dataclass(frozen=True)
class Unsupervised:
    """Embeddings of all nodes from links alone. labels ([N], -1 = unknown) of one type only evaluate the clustering."""

    type: str | None = None
    labels: IdArray | None = None


Task: TypeAlias = Classification | MultiLabel | LinkRanking | Unsupervised


def check_task(graph: HeteroGraph, task: Task) -> None:
    """Raise InputError for a task that does not fit the graph, or from which nothing can be learnt or measured."""
    if isinstance(task, Unsupervised):
        if not graph.edges:
            raise InputError("there are no edges to learn embeddings from")
        if task.labels is not None and (task.type is None or len(task.labels) != graph.node(task.type).count):
            raise InputError("the labels for the clustering report need a node type with as many nodes")
        return
    if isinstance(task, LinkRanking):
        relation = graph.relation(task.relation)
        if relation.hubs is not None:
            raise InputError(f"{relation.name} is a hub table and has no targets to rank")
        wanted, what = len(relation), f"edges of {relation.name}"
    else:
        wanted, what = graph.node(task.type).count, f"nodes of {task.type}"
        if len(task.labels) != wanted:
            raise InputError(f"there are {wanted} {what}, but {len(task.labels)} labels")
    if len(task.split) != wanted:
        raise InputError(f"there are {wanted} {what}, but the split has {len(task.split)}")
    for split in (Split.TRAIN, Split.TEST):
        if not (task.split == split.code).any():
            raise InputError(f"no {what} are in the {split} split", help=f"give some of them split = '{split}'")
    if isinstance(task, Classification):
        used = task.labels[task.split >= 0]
        if used.min() < 0 or used.max() >= task.classes:
            raise InputError(f"{what} with a split need labels in 0 .. {task.classes - 1}")
        if len(np.unique(task.labels[task.split == Split.TRAIN.code])) < 2:
            raise InputError(f"the train split of {what} has only one class", help="add nodes of other classes to it")
    if isinstance(task, MultiLabel):
        if task.labels.ndim != 2:
            raise InputError("labels with several classes per node must be a matrix [nodes, classes]")
        if not task.labels[task.split == Split.TRAIN.code].any():
            raise InputError(f"no {what} in the train split have a label")
