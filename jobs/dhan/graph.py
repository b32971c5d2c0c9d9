"""From the tables of a graph to what a model learns from: splits, standardised features, the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphlearn.errors import InputError, OptionError, did_you_mean
from graphlearn.events import Emit, Note
from graphlearn.jobs.dhan.options import DhanJobOptions
from graphlearn.storage.hetero.features import FeatureArrays
from graphlearn.storage.hetero.nodes import NodeTable
from graphlearn.storage.hetero.tables import HeteroTables
from graphlearn.storage.hetero.target import Target
from graphlearn.types import BoolArray, FloatArray, Split, SplitCodes

if TYPE_CHECKING:
    from graphlearn.models.hetero.graph import Features, HeteroGraph
    from graphlearn.models.hetero.tasks import Task


def divide(tables: HeteroTables, target: Target, options: DhanJobOptions, emit: Emit) -> HeteroTables:
    """The tables with the target split into train, valid and test: by its table's column, or at random by the seed.

    Raises InputError (with the role of the target) if a split is empty or the train split has a single class.
    """
    if target.edges is not None:
        return _divide_edges(tables, target, options, emit)
    table = None if target.node is None else tables.nodes[target.node]
    for node in tables.nodes.values():
        node.report.ignored_split = node.split is not None and (options.target is None or node is not table)
    if table is None or options.target is None:
        return tables
    labels = table.labels
    assert labels is not None
    if table.split is None:
        from graphlearn.models.hetero.splits import random_split

        split = table.keep_parts(random_split(len(table), options.split, options.seed, labels.ids, labels.known))
    else:
        lost = (table.split >= 0) & ~labels.known
        table.report.unlabelled = int(np.count_nonzero(lost))
        split = np.where(lost, np.int8(-1), table.split)
    _check_splits(split, table.name, f"nodes of {table.name} with {labels.column}", given=table.split is not None)
    if not (split == Split.VALID.code).any():
        emit(Note(message=f"no node of {table.name} is in the validation split: training runs to its last epoch"))
    _check_classes(table, split, emit)
    return tables.with_split(table.name, split)


def _check_classes(table: NodeTable, split: SplitCodes, emit: Emit) -> None:
    labels = table.labels
    assert labels is not None
    if labels.ids is not None:
        seen = {s: set(np.unique(labels.ids[split == s.code]).tolist()) for s in Split}
        if len(seen[Split.TRAIN]) < 2:
            raise InputError(
                f"the train split of {table.name} has a single {labels.column}",
                role=table.name,
                help="add nodes of other classes to it",
            )
        new = (seen[Split.VALID] | seen[Split.TEST]) - seen[Split.TRAIN]
        if new:
            some = ", ".join(str(labels.classes.dictionary.keys[k].as_py()) for k in sorted(new)[:3])
            message = f"{table.name}: valid or test have classes that are not in the train split: {some}"
            emit(Note(message=message, level="warning"))


def _divide_edges(tables: HeteroTables, target: Target, options: DhanJobOptions, emit: Emit) -> HeteroTables:
    relation = tables.edges.get(target.relation)
    if relation is None:
        known = [name for name, edge in tables.edges.items() if edge.role == target.edges]
        raise OptionError(
            f"target = '{target.relation}' is not a relation of {target.edges}",
            key="target",
            help=did_you_mean(target.relation, known),
        )
    if relation.split is None:
        from graphlearn.models.hetero.splits import random_split

        split = relation.keep_parts(random_split(len(relation), options.split, options.seed))
    else:
        split = relation.split
    _check_splits(split, relation.role, f"edges of {relation.name}", given=relation.split is not None)
    if not (split == Split.VALID.code).any():
        emit(Note(message=f"no edge of {relation.name} is in the validation split: training runs to its last epoch"))
    return tables.with_split(relation.name, split)


def _check_splits(split: SplitCodes, role: str, what: str, *, given: bool) -> None:
    for wanted in (Split.TRAIN, Split.TEST):
        if not (split == wanted.code).any():
            raise InputError(
                f"there are no {what} in the {wanted} split",
                role=role,
                help=f"give some of them split = '{wanted}', or leave the column out for a random split"
                if given
                else "there are too few for the option split: add more, or a column split",
            )


def make_graph(tables: HeteroTables) -> HeteroGraph:
    """The graph as models read it: dense features standardised by the train split, in other tables by all present."""
    from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation

    nodes = [
        NodeType(
            node.name,
            len(node),
            None
            if node.features is None
            else _features(
                node.features,
                node.present if node.split is None or node.labels is None else node.split == Split.TRAIN.code,
            ),
        )
        for node in tables.nodes.values()
    ]
    relations = [
        Relation(e.name, e.source, e.target, e.src, e.dst, e.weight, None if e.hubs is None else len(e.hubs))
        for e in tables.edges.values()
    ]
    return HeteroGraph(tuple(nodes), tuple(relations))


def _features(found: FeatureArrays, rows: BoolArray | None) -> Features:
    from graphlearn.models.hetero.graph import Features

    dense = None if found.dense is None else standardise(found.dense, rows)
    return Features(dense, found.indptr, found.indices, None, found.sparse_width)


def standardise(dense: FloatArray, rows: BoolArray | None) -> FloatArray:
    """Columns minus the mean of some rows (None: all), divided by their standard deviation. shape: [N, D] -> [N, D]"""
    base = dense if rows is None or not rows.any() else dense[rows]
    mean, spread = base.mean(axis=0, dtype=np.float64), base.std(axis=0, dtype=np.float64)
    still = spread <= 1e-7 * np.maximum(1.0, np.abs(mean))
    wide = dense.std(axis=0, dtype=np.float64)
    spread = np.where(still, np.where(wide > 0, wide, 1.0), spread)  # constant in train, not elsewhere
    scaled: FloatArray = ((dense - mean) / spread).astype(np.float32)
    return scaled


def make_task(tables: HeteroTables, target: Target, *, learnt: bool) -> Task:
    """The task of a target. `learnt`: the user named it; else labels only measure clusters."""
    from graphlearn.models.hetero.tasks import Classification, LinkRanking, MultiLabel, Unsupervised

    if target.edges is not None:
        relation = tables.edges[target.relation]
        assert relation.split is not None
        return LinkRanking(relation.name, relation.split)
    table = tables.labelled
    if table is None:
        return Unsupervised()
    labels = table.labels
    assert labels is not None
    if not learnt:
        return Unsupervised(table.name, labels.ids)
    assert table.split is not None
    if labels.ids is not None:
        return Classification(table.name, labels.ids, table.split, len(labels.classes))
    assert labels.matrix is not None
    return MultiLabel(table.name, labels.matrix, table.split)
