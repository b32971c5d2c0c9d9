"""What every run is measured against: models that see the same features, but no graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphlearn.models.dhan.classes import ClassTraining
from graphlearn.models.dhan.links import LinkTraining
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training import HeteroTraining
from graphlearn.models.hetero.graph import PARTS, HeteroGraph, LinkRanking, Part, Task, Unsupervised
from graphlearn.models.net3.training import EarlyStop
from graphlearn.types import FloatArray

EPOCHS = 200
"""Of the MLP on classes at least; a few seconds, with early stopping."""
Figures = dict[Part, dict[str, float]]


def fit(training: HeteroTraining) -> int:
    """Trains with early stopping and leaves the best weights in the training; how many epochs were run."""
    options = training.options
    stop, epoch = EarlyStop(options.patience), 0
    for epoch in range(options.epochs):
        training.train_epoch(epoch)
        last = epoch == options.epochs - 1
        every = options.evaluate_every
        if (last or (every and (epoch + 1) % every == 0)) and stop.update(training.score(), training):
            break
    training.load(stop.best)
    return epoch + 1


def baselines(
    graph: HeteroGraph, task: Task, options: DhanOptions, parts: Sequence[Part] = PARTS
) -> dict[str, Figures]:
    """By method and part. Classes: "MLP", "majority". Links: "MLP dot product", "degree". Embeddings: nothing."""
    if isinstance(task, Unsupervised):
        return {}
    if isinstance(task, LinkRanking):
        pairs = LinkTraining(graph, task, options, perceptron=True)
        fit(pairs)
        degree: Figures = {part: pairs.degree_figures(part) for part in parts}
        return {"MLP dot product": {part: pairs.evaluate(part) for part in parts}, "degree": degree}
    enough = replace(options, epochs=max(EPOCHS, options.epochs))  # dhan's linear part is not short of them either
    training = ClassTraining(graph, task, enough, perceptron=True)
    fit(training)
    majority = majority_of(training)
    out: dict[str, Figures] = {"MLP": {part: training.evaluate(part) for part in parts}, "majority": {}}
    for part in parts:
        nodes = np.flatnonzero(np.asarray(task.split) == PARTS.index(part))
        out["majority"][part] = training.figures(np.broadcast_to(majority, (len(nodes), task.classes)), nodes)
    return out


def majority_of(training: ClassTraining) -> FloatArray:
    """Share of each class in the train part; the most frequent one is raised to half at least, so that it is chosen."""
    share = training.labels[training.train].mean(0, dtype=np.float32)
    share[share.argmax()] = max(0.5, float(share.max()))
    return np.asarray(share, np.float32)
