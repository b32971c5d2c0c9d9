"""Classification of nodes by DHAN, into one class or any number of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.dhan_attention import parameter
from graphlearn.models.dhan_edges import build_blocks
from graphlearn.models.dhan_labels import classes_of, label_channels
from graphlearn.models.dhan_options import DhanOptions
from graphlearn.models.dhan_training import HeteroTraining
from graphlearn.models.hetero import PARTS, Classification, HeteroGraph, MultiLabel, Part, Task
from graphlearn.models.hetero_metrics import f1_scores, one_hot
from graphlearn.types import FloatArray, IdArray


class ClassHead(nn.Module):
    """Logits from a state and label channels. shape: [B, d], [B, Q] -> [B, C]"""

    def __init__(self, hidden: int, channels: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.states = parameter(hidden, classes, generator=generator)
        self.labels = nn.Parameter(torch.zeros(channels, classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, states: Tensor, channels: Tensor) -> Tensor:
        """The sum of what both say."""
        return states @ self.states + channels @ self.labels + self.bias


class ClassTraining(HeteroTraining):
    """Single-label: softmax and cross entropy; multi-label: a sigmoid and binary cross entropy a class."""

    def __init__(
        self,
        graph: HeteroGraph,
        task: Classification | MultiLabel,
        options: DhanOptions,
        fitted: Mapping[str, Tensor] | None = None,
        *,
        perceptron: bool = False,
    ) -> None:
        self.task, self.single = task, isinstance(task, Classification)
        known = np.asarray(task.split) >= 0
        self.labels = classes_of(task.labels, task.classes) * known[:, None]
        what = "the most probable class" if self.single else "every class with a probability of at least 0.5"
        self.protocol = f"macro and micro F1 of {what} over the labelled {task.type} of a part"
        super().__init__(graph, task, options, fitted, perceptron=perceptron)
        self.targets = torch.from_numpy(self.labels).to(self.device)
        self.train = np.flatnonzero(np.asarray(task.split) == 0)

    def make_head(self, task: Task, generator: torch.Generator) -> nn.Module:
        """Computes the label channels on the way."""
        if self.options.hop_labels and self.channels:
            blocks = build_blocks(self.channels, self.arrows, self.counts, torch.device("cpu"))
            train = np.asarray(self.task.split) == 0
            found = label_channels(self.labels, train, self.task.type, self.counts, blocks, self.options.seed)
        else:
            found = torch.zeros(len(self.labels), 0)
        self.shown = found.to(self.device)
        return ClassHead(self.options.hidden, found.shape[1], self.task.classes, generator)

    @property
    def steps_per_epoch(self) -> int:
        """One on the whole graph, else one for each batch of train nodes."""
        return 1 if self.sampler is None else math.ceil(len(self.train) / self.options.batch_size)

    def loss(self, epoch: int, step: int, generator: torch.Generator | None) -> Tensor:
        """Cross entropy on the train nodes, or on a batch of them."""
        options, kind = self.options, self.task.type
        ids = self.train
        if self.sampler is None:
            rows = torch.from_numpy(ids).to(self.device)
            states = self.encoder(self.full_batch(), (kind,), generator)[kind][rows]
        else:
            order = np.random.default_rng([options.seed, 3, epoch]).permutation(len(ids))
            ids = np.sort(ids[order[step * options.batch_size : (step + 1) * options.batch_size]])
            batch, _ = self.sampled_batch({kind: ids}, np.random.default_rng([options.seed, 4, epoch, step]))
            rows = torch.from_numpy(ids).to(self.device)
            states = self.encoder(batch, (kind,), generator)[kind][: len(ids)]
        logits = self.model["head"](states, self.shown[rows])
        if self.single:
            return F.cross_entropy(logits, self.targets[rows])
        return F.binary_cross_entropy_with_logits(logits, self.targets[rows])

    def logits(self, nodes: IdArray) -> Tensor:
        """shape: [B] -> [B, C]"""
        found = []
        with self.using_mean():
            for part, states in self.chunks(np.asarray(nodes, np.int64), self.task.type):
                rows = torch.from_numpy(part).to(self.device)
                found.append(self.model["head"](states, self.shown[rows]))
        return torch.cat(found) if found else torch.zeros(0, self.task.classes)

    def probabilities(self, nodes: IdArray) -> FloatArray:
        """shape: [B] -> [B, C]; of several classes each on its own"""
        logits = self.logits(nodes)
        out: FloatArray = (logits.softmax(1) if self.single else logits.sigmoid()).cpu().numpy()
        return out

    def predict(self, nodes: IdArray | None = None, k: int = 1) -> tuple[IdArray, FloatArray]:
        """The k most probable classes of each node, by default of all nodes, and their probabilities. shape: [B, k]"""
        ids = np.arange(self.counts[self.task.type]) if nodes is None else np.asarray(nodes, np.int64)
        found = self.probabilities(ids)
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        return order, np.take_along_axis(found, order, axis=1)

    def _part(self, part: Part) -> IdArray:
        return np.flatnonzero(np.asarray(self.task.split) == PARTS.index(part))

    def figures(self, found: FloatArray, nodes: IdArray) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy of probabilities. shape: [B, C], [B]"""
        actual = self.labels[nodes] > 0
        predicted = one_hot(found.argmax(1), self.task.classes) if self.single else found >= 0.5
        out = f1_scores(actual, predicted)
        out["accuracy"] = float((actual == predicted).all(1).mean()) if len(nodes) else math.nan
        return out | {"nodes": float(len(nodes))}

    def evaluate(self, part: Part) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy (all classes of a node right), nodes."""
        nodes = self._part(part)
        return self.figures(self.probabilities(nodes), nodes)

    def score(self) -> float:
        """Half the cross entropy and minus the mean of both F1 of the validation part."""
        nodes = self._part("valid")
        if not len(nodes):
            nodes = self._part("train")
        logits, actual = self.logits(nodes), self.targets[torch.from_numpy(nodes).to(self.device)]
        if self.single:
            loss = float(F.cross_entropy(logits, actual))
        else:
            loss = float(F.binary_cross_entropy_with_logits(logits, actual))
        found = (logits.softmax(1) if self.single else logits.sigmoid()).cpu().numpy()
        figures = self.figures(found, nodes)
        return 0.5 * loss - (figures["macro_f1"] + figures["micro_f1"]) / 2
