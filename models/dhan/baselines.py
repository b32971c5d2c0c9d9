"""Baselines of every run: an MLP that reads the same features but no edges, and the simplest guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphlearn.models.core.fit import fit
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.tasks import LinkRanking, Task, Unsupervised
from graphlearn.types import FloatArray, Split

EPOCHS = 200
"""Least number of epochs of the MLP on classes; takes a few seconds, with early stopping."""
Metrics = dict[Split, dict[str, float]]


def baselines(
    graph: HeteroGraph, task: Task, options: DhanOptions, splits: Sequence[Split] = tuple(Split)
) -> dict[str, Metrics]:
    """Metrics by method and split. Classes: "MLP", "majority". Links: "MLP dot product", "degree". Embeddings: none."""
    if isinstance(task, Unsupervised):
        return {}
    if isinstance(task, LinkRanking):
        pairs = LinkTraining(graph, task, options, mlp=True)
        fit(pairs)
        degree: Metrics = {split: pairs.degree_figures(split) for split in splits}
        return {"MLP dot product": {split: pairs.evaluate(split) for split in splits}, "degree": degree}
    enough = replace(options, epochs=max(EPOCHS, options.epochs))  # the linear model of DHAN is fitted to convergence
    training = ClassTraining(graph, task, enough, mlp=True)
    fit(training)
    majority = majority_of(training)
    out: dict[str, Metrics] = {"MLP": {split: training.evaluate(split) for split in splits}, "majority": {}}
    for split in splits:
        nodes = np.flatnonzero(np.asarray(task.split) == split.code)
        out["majority"][split] = training.figures(np.broadcast_to(majority, (len(nodes), task.classes)), nodes)
    return out


def majority_of(training: ClassTraining) -> FloatArray:
    """Share of each class in the training split, at least 0.5 for the most frequent one, so that it is predicted."""
    share = training.labels[training.train].mean(0, dtype=np.float32)
    share[share.argmax()] = max(0.5, float(share.max()))
    return np.asarray(share, np.float32)
