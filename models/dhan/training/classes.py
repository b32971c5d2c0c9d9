"""Node classification by DHAN, with one class or any number of classes per node."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.core.device import choose_device
from graphlearn.models.dhan.graph.edges import build_blocks
from graphlearn.models.dhan.linear.fit import affordable, fit_linear
from graphlearn.models.dhan.linear.model import LinearModel
from graphlearn.models.dhan.network.attention import parameter
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.labels import label_channels
from graphlearn.models.dhan.training.training import LINEAR, NETWORK, WHOLE, HeteroTraining
from graphlearn.models.hetero.classes import ClassQueries
from graphlearn.models.hetero.comparisons import similar_name
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.knn import with_knn
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.regression import cross_entropy
from graphlearn.models.hetero.tasks import Classification, MultiLabel, Task
from graphlearn.types import FloatArray, IdArray, Split


class ClassHead(nn.Module):
    """Logits from a state and label channels. shape: [B, d], [B, Q] -> [B, C]"""

    def __init__(self, hidden: int, channels: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.states = parameter(hidden, classes, generator=generator)
        self.labels = nn.Parameter(torch.zeros(channels, classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.linear: LinearModel | None = None
        self.share: Tensor
        self.register_buffer("share", torch.full((), 0.5))

    def forward(self, states: Tensor, channels: Tensor) -> Tensor:
        """The sum of both logits."""
        return states @ self.states + channels @ self.labels + self.bias


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class ClassTraining(HeteroTraining):
    """Single-label: softmax and cross entropy; multi-label: a sigmoid and binary cross entropy per class."""

    def __init__(
        self,
        graph: HeteroGraph,
        task: Classification | MultiLabel,
        options: DhanOptions,
        fitted: Mapping[str, Tensor] | None = None,
        *,
        mlp: bool = False,
    ) -> None:
        self.task, self.queries = task, ClassQueries.of(task)
        self.labels, self.single = self.queries.labels, self.queries.single
        what = (
            "the most probable class"
            if self.single
            else "classes with a probability of at least 0.5, or the most probable one"
        )
        self.protocol = f"macro and micro F1 of {what} over the labelled {task.type} of a split"
        if not mlp:
            graph = with_knn(graph, task.type, options.knn, choose_device(options.device))
        super().__init__(graph, task, options, fitted, mlp=mlp)
        self.targets = torch.from_numpy(self.labels).to(self.device)
        self.train = self.queries.nodes(Split.TRAIN)
        if fitted is None:
            self.fit_linear()

    def make_head(self, task: Task, generator: torch.Generator) -> nn.Module:
        """Also computes the label channels."""
        if self.options.hop_labels and self.channels:
            blocks = build_blocks(self.channels, self.edges, self.counts, torch.device("cpu"))
            train = np.asarray(self.task.split) == Split.TRAIN.code
            found = label_channels(self.labels, train, self.task.type, self.counts, blocks, self.options.seed)
        else:
            found = torch.zeros(len(self.labels), 0)
        self.shown = found.to(self.device)
        head = ClassHead(self.options.hidden, found.shape[1], self.task.classes, generator)
        if not (self.options.linear and self.channels) or self.sampler is not None:
            return head
        batch = self.full_batch()
        if affordable(
            batch,
            int(np.isin(np.asarray(self.task.split), (Split.TRAIN.code, Split.VALID.code)).sum()),
            self.task.classes,
        ):
            into = {t: block.R for (level, t), block in batch.blocks.items() if level == "all"}
            head.linear = LinearModel(self.graph.nodes, into, self.task.type, self.task.classes)
        return head

    def fit_linear(self) -> None:
        """Fit the linear model; training steps do not change it."""
        linear = self.head.linear
        if linear is not None:
            train, valid = self.queries.nodes(Split.TRAIN), self.queries.nodes(Split.VALID)
            fit_linear(
                linear,
                self.full_batch(),
                self.targets,
                torch.from_numpy(train).to(self.device),
                torch.from_numpy(valid).to(self.device),
                self.single,
                lambda found: self._score(found, valid),
            )

    @property
    def head(self) -> ClassHead:
        """Maps states to logits."""
        head = self.model["head"]
        assert isinstance(head, ClassHead)
        return head

    @property
    def skipped(self) -> list[str]:
        """The k-nearest-neighbour relation and the linear model."""
        kind, options, out = self.task.type, self.options, list[str]()
        if not self.channels:
            return out
        linked = {r.name for r in self.graph.relations}
        if options.knn and self.graph.node(kind).features is not None and similar_name(kind) not in linked:
            out.append(f"{kind} has too many nodes to compare them all: no knn relation is added")
        if options.linear and self.sampler is None and self.head.linear is None:
            out.append("the graph is too large for the linear model (option linear): the network is used alone")
        return out

    @property
    def shares(self) -> dict[str, float]:
        """With a linear model, how much it and the network contribute to a prediction."""
        if self.head.linear is None:
            return {NETWORK: 1.0}
        share = float(self.head.share)
        return {NETWORK: 1 - share, LINEAR: share}

    @property
    def steps_per_epoch(self) -> int:
        """1 on the whole graph, else one per batch of training nodes."""
        return 1 if self.sampler is None else math.ceil(len(self.train) / self.options.batch_size)

    def loss(self, epoch: int, step: int, generator: torch.Generator | None) -> Tensor:
        """Cross entropy on the training nodes, or on a batch of them."""
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
        logits = self.head(states, self.shown[rows])
        return cross_entropy(logits, self.targets[rows], self.single)

    def logits(self, nodes: IdArray) -> Tensor:
        """Log-probabilities up to a constant, of the network and the linear model combined. shape: [B] -> [B, C]"""
        return self._mix(*self._both(nodes), float(self.head.share))

    def _mix(self, deep: Tensor, wide: Tensor | None, share: float) -> Tensor:
        if wide is None:
            return deep
        if self.single:
            deep, wide = deep.log_softmax(1), wide.log_softmax(1)
        return (1 - share) * deep + share * wide

    def _both(self, nodes: IdArray) -> tuple[Tensor, Tensor | None]:
        found, linear = [], self.head.linear
        with self.using_mean():
            wide = None
            if linear is not None:
                wide = linear(self.full_batch())[torch.from_numpy(np.asarray(nodes, np.int64)).to(self.device)]
            for part, states in self.chunks(np.asarray(nodes, np.int64), self.task.type):
                rows = torch.from_numpy(part).to(self.device)
                found.append(self.head(states, self.shown[rows]))
        return (torch.cat(found) if found else torch.zeros(0, self.task.classes)), wide

    def probabilities(self, nodes: IdArray) -> FloatArray:
        """shape: [B] -> [B, C]; independent per class when there are several"""
        return self.queries.probabilities(self.logits(nodes))

    def predict(self, nodes: IdArray | None = None, k: int = 1) -> tuple[IdArray, FloatArray]:
        """The k most probable classes of each node, by default of all nodes, and their probabilities. shape: [B, k]"""
        ids = np.arange(self.counts[self.task.type]) if nodes is None else np.asarray(nodes, np.int64)
        found = self.probabilities(ids)
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        return order, np.take_along_axis(found, order, axis=1)

    def evaluate(self, split: Split) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy (all classes of a node correct), nodes."""
        nodes = self.queries.nodes(split)
        return self.queries.figures(self.probabilities(nodes), nodes)

    def measure(self, split: Split) -> dict[str, Measured]:
        """Also the network and the linear model on their own, if both are there."""
        nodes = self.queries.nodes(split)
        deep, wide = self._both(nodes)
        found = {WHOLE: self._mix(deep, wide, float(self.head.share))}
        if wide is not None:
            found |= {NETWORK: deep, LINEAR: wide}
        queries = self.queries
        return {part: queries.measured(queries.probabilities(logits), nodes) for part, logits in found.items()}

    def _score(self, logits: Tensor, nodes: IdArray) -> float:
        return self.queries.score(logits, self.targets[torch.from_numpy(nodes).to(self.device)], nodes)

    def score(self) -> float:
        """Half the cross entropy minus the mean of both F1 on the validation split, of the network alone.

        Also selects the share of the linear model.
        """
        nodes = self.queries.nodes(Split.VALID)
        measured = len(nodes) > 0
        if not measured:
            nodes = self.queries.nodes(Split.TRAIN)
        deep, wide = self._both(nodes)
        if measured and wide is not None:
            self.head.share.fill_(min(SHARES, key=lambda share: self._score(self._mix(deep, wide, share), nodes)))
        return self._score(deep, nodes)
