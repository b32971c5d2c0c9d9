"""Baselines of every run: simple methods on the same graph, tuned on the validation split and trained to convergence.

Classes: the most frequent class, label propagation, logistic regression on propagated features, an MLP that reads no
edges. Links: the degree, item-based neighbours, random walks, a dot product of MLPs. Embeddings: none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np

from graphlearn.models.core.early_stop import EarlyStop
from graphlearn.models.core.fit import train_epoch
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.hetero.baselines.allowance import Allowance
from graphlearn.models.hetero.baselines.neighbours import ItemNeighbours
from graphlearn.models.hetero.baselines.propagated import label_propagation, regression
from graphlearn.models.hetero.baselines.ranking import TUNED, LinkMethod, Popularity, measure_all
from graphlearn.models.hetero.baselines.walk import RandomWalk
from graphlearn.models.hetero.classes import ClassQueries
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.links import LinkQueries
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.tasks import Classification, LinkRanking, MultiLabel, Task, Unsupervised
from graphlearn.types import FloatArray, Split

EPOCHS, PATIENCE = 500, 20
"""Of the MLPs, which converge long before the last epoch."""
RATES, DROPOUTS = (0.01, 0.002), (0.5, 0.1)
"""Learning rates and dropout that are tried."""
Metrics: TypeAlias = dict[Split, Measured]
MlpTraining = TypeVar("MlpTraining", ClassTraining, LinkTraining)


def baselines(
    graph: HeteroGraph,
    task: Task,
    options: DhanOptions,
    splits: Sequence[Split] = tuple(Split),
    allowance: Allowance | None = None,
) -> dict[str, Metrics]:
    """What is measured, by method and split. What does not fit into the allowance is left out."""
    allowance = allowance or Allowance()
    if isinstance(task, Unsupervised):
        return {}
    if isinstance(task, LinkRanking):
        return _links(graph, task, options, splits, allowance)
    return _classes(graph, task, options, splits, allowance)


def _classes(
    graph: HeteroGraph,
    task: Classification | MultiLabel,
    options: DhanOptions,
    splits: Sequence[Split],
    allowance: Allowance,
) -> dict[str, Metrics]:
    queries = ClassQueries.of(task)
    found = {"majority": majority_of(queries), "label propagation": label_propagation(graph, task.type, queries)}
    propagated = regression(graph, task.type, queries, options.weighting, allowance.part(0.6))
    if propagated is not None:
        found["propagated features"] = propagated
    mlp = _converged(
        "MLP",
        options,
        allowance,
        lambda wanted: ClassTraining(graph, task, wanted, mlp=True),
        lambda training: training.score(),
    )
    if mlp is not None:
        found["MLP"] = mlp.probabilities(np.arange(len(queries.split)))
    return {
        method: {split: queries.measured(values[nodes], nodes) for split in splits for nodes in [queries.nodes(split)]}
        for method, values in found.items()
    }


def _links(
    graph: HeteroGraph, task: LinkRanking, options: DhanOptions, splits: Sequence[Split], allowance: Allowance
) -> dict[str, Metrics]:
    queries = LinkQueries.of(graph, task, options.candidates, options.seed)
    most = allowance.part(0.6)
    methods: list[LinkMethod] = [Popularity(queries), ItemNeighbours(queries, most), RandomWalk(graph, queries)]
    ranked = dict(measure_all(methods, queries, splits, most))
    tuned = queries.measured(Split.VALID, TUNED)
    if not len(tuned):
        tuned = queries.measured(Split.TRAIN, TUNED)
    mlp = _converged(
        "MLP dot product",
        options,
        allowance,
        lambda wanted: LinkTraining(graph, task, wanted, mlp=True),
        lambda training: -training.ranked(tuned).figures()["mrr"],
    )
    if mlp is not None:
        whole = {split: queries.measured(split) for split in splits}
        others = next(iter(ranked.values()), None)
        edges = whole if others is None else {split: found.edges for split, found in others.items()}
        ranked["MLP dot product"] = {split: mlp.ranked(some, whole[split]) for split, some in edges.items()}
    return {method: {split: found.measured() for split, found in by.items()} for method, by in ranked.items() if by}


def _converged(
    name: str,
    options: DhanOptions,
    allowance: Allowance,
    make: Callable[[DhanOptions], MlpTraining],
    score: Callable[[MlpTraining], float],
) -> MlpTraining | None:
    """The best of the MLPs with different learning rates and dropout, each trained until its score stops improving.

    The first one has precedence when there is little time; None if there is none.
    """
    grid = list(itertools.product(RATES, DROPOUTS))
    best, trained = math.inf, None
    for i, (rate, dropout) in enumerate(grid):
        if not allowance.left:
            allowance.cut(f"{name} was tried with {i} of {len(grid)} settings" if i else f"{name} was left out")
            break
        wanted = replace(options, learning_rate=rate, dropout=dropout, epochs=EPOCHS, fanout=(), linear=False)
        training = make(wanted)
        stop, epoch = EarlyStop(PATIENCE), 0
        for epoch in range(EPOCHS):
            train_epoch(training, epoch)
            if stop.update(score(training), training) or not allowance.left:
                break
        if not i and stop.since < PATIENCE and not allowance.left:
            allowance.cut(f"{name} was stopped before it converged, after {epoch + 1} epochs")
        if trained is None or stop.best_score < best:
            training.load(stop.best)
            best, trained = stop.best_score, training
    return trained


def majority_of(queries: ClassQueries) -> FloatArray:
    """For each node, the share of each class in the training split, at least 0.5 for the most frequent one.

    shape: -> [N, C]
    """
    share = queries.labels[queries.nodes(Split.TRAIN)].mean(0, dtype=np.float32)
    share[share.argmax()] = max(0.5, float(share.max()))
    out: FloatArray = np.broadcast_to(share.astype(np.float32), queries.labels.shape)
    return out
