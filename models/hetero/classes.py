"""Classification of nodes, whatever classifies: the nodes of a split, predicted classes, and their metrics.

Shapes: B nodes, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from graphlearn.models.core.bootstrap import Sample
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.metrics import class_figures, f1_scores, one_hot
from graphlearn.models.hetero.regression import cross_entropy
from graphlearn.models.hetero.tasks import Classification, MultiLabel
from graphlearn.types import BoolArray, FloatArray, IdArray, Split, SplitCodes

LIKELY = 0.5
"""Least probability of a class to be predicted, of several; a node without any gets the most probable one."""


@dataclass(frozen=True)
class ClassQueries:
    """The labels of nodes by split. `single`: each node has one class. shape: labels: [N, C]; split: [N]"""

    labels: FloatArray
    split: SplitCodes
    single: bool

    @staticmethod
    def of(task: Classification | MultiLabel) -> ClassQueries:
        """The labels of a task; those without a split are hidden."""
        split = np.asarray(task.split)
        labels = classes_of(task.labels, task.classes) * (split >= 0)[:, None]
        return ClassQueries(labels, split, isinstance(task, Classification))

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.labels.shape[1])

    def nodes(self, split: Split) -> IdArray:
        """The nodes of a split."""
        return np.flatnonzero(self.split == split.code)

    def probabilities(self, logits: Tensor) -> FloatArray:
        """shape: [B, C] -> [B, C]; independent per class if nodes can have several"""
        found: FloatArray = (logits.softmax(1) if self.single else logits.sigmoid()).cpu().numpy()
        return found

    def predicted(self, found: FloatArray) -> BoolArray:
        """The classes that are predicted with these probabilities. shape: [B, C] -> [B, C]"""
        best = one_hot(found.argmax(1), self.classes) > 0
        if self.single:
            return best
        likely = found >= LIKELY
        return np.where(likely.any(1, keepdims=True), likely, best)

    def figures(self, found: FloatArray, nodes: IdArray) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy (all classes of a node correct) and `nodes`, from probabilities.

        shape: [B, C], [B]
        """
        actual, predicted = self.labels[nodes] > 0, self.predicted(found)
        out = f1_scores(actual, predicted)
        out["accuracy"] = float((actual == predicted).all(1).mean()) if len(nodes) else math.nan
        return out | {"nodes": float(len(nodes))}

    def sample(self, found: FloatArray, nodes: IdArray) -> Sample:
        """For intervals, from probabilities. shape: [B, C], [B]"""
        actual, predicted = self.labels[nodes] > 0, self.predicted(found)
        right = (actual == predicted).all(1, keepdims=True)
        values = np.concatenate([actual & predicted, actual, predicted, right, np.ones_like(right)], axis=1)
        return Sample.of(values.astype(np.float64), class_figures)

    def by_class(self, found: FloatArray, nodes: IdArray) -> list[dict[str, Any]]:
        """precision, recall and f1 of each class, and `count`, the nodes that have it. Absent if undefined."""
        actual, predicted = self.labels[nodes] > 0, self.predicted(found)
        both, count, said = (actual & predicted).sum(0), actual.sum(0), predicted.sum(0)
        out = []
        for c in range(self.classes):
            row = {"class": c, "count": int(count[c])}
            ratios = (("precision", both[c], said[c]), ("recall", both[c], count[c]))
            ratios += (("f1", 2 * both[c], said[c] + count[c]),)  # type: ignore[assignment]
            out.append(row | {name: float(top / bottom) for name, top, bottom in ratios if bottom})
        return out

    def measured(self, found: FloatArray, nodes: IdArray) -> Measured:
        """All metrics of probabilities. shape: [B, C], [B]"""
        return Measured(self.figures(found, nodes), self.sample(found, nodes), self.by_class(found, nodes))

    def score(self, logits: Tensor, actual: Tensor, nodes: IdArray) -> float:
        """Half the cross entropy minus the mean of both F1; lower is better. shape: [B, C], [B, C], [B]"""
        loss = float(cross_entropy(logits, actual, self.single))
        figures = self.figures(self.probabilities(logits), nodes)
        return 0.5 * loss - (figures["macro_f1"] + figures["micro_f1"]) / 2


def classes_of(labels: IdArray | BoolArray, classes: int) -> FloatArray:
    """Labels as a matrix, zero rows for unknown ones. shape: [N] or [N, C] -> [N, C]"""
    if labels.ndim == 2:
        return labels.astype(np.float32)
    out: FloatArray = (np.arange(classes) == labels[:, None]).astype(np.float32)
    return out
