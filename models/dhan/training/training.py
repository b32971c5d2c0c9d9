"""Training of DHAN in memory; a job adds checkpoints, events and tables.

    training = make_training(graph, task, options)             (tasks.py)
    fit(training)                                              (core/fit.py)
    training.evaluate(Split.TEST)

A step depends on (seed, epoch, step) and on `training.state()`, a flat dict of tensors: weights, their moving average,
Adam's state. A training made from the same graph, task and options with `fitted=state` continues bit for bit on a CPU;
`training.weights()` is the part that predictions need, and `fitted` and `load` take either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.core.adamw_ema import AdamWEma
from graphlearn.models.core.device import choose_device
from graphlearn.models.core.restored import check_restored
from graphlearn.models.dhan.graph.edges import build_blocks, channels_of, edge_index
from graphlearn.models.dhan.graph.sampler import Sampler
from graphlearn.models.dhan.network.batch import Batch, Trace
from graphlearn.models.dhan.network.mlp import MLP
from graphlearn.models.dhan.network.model import Dhan
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.features import FeatureTable
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.tasks import Classification, MultiLabel, Task, check_task
from graphlearn.types import BoolArray, FloatArray, IdArray, Split

WHOLE, NETWORK, LINEAR = "whole", "network", "linear"
"""The model, and its parts."""


class HeteroTraining(ABC):
    """An encoder, a head, and their optimiser; can be pickled at any step. mlp: the baseline that reads no edges."""

    protocol: str

    def __init__(
        self,
        graph: HeteroGraph,
        task: Task,
        options: DhanOptions,
        fitted: Mapping[str, Tensor] | None = None,
        *,
        mlp: bool = False,
    ) -> None:
        check_task(graph, task)
        few = isinstance(task, Classification | MultiLabel)
        if options.dropout < 0:
            options = replace(options, dropout=0.5 if few else 0.1)
        self.graph, self.options, self.device = graph, options, choose_device(options.device)
        self.counts = {n.name: n.count for n in graph.nodes}
        self.channels = () if mlp else channels_of(graph, options.reverse)

        def make_encoder(generator: torch.Generator) -> Dhan | MLP:
            if mlp:
                return MLP(graph.nodes, options, generator, few)
            return Dhan(graph.nodes, self.channels, options, generator, few)

        if fitted is not None:
            check_restored(fitted, "model.encoder.", lambda: make_encoder(torch.Generator()).state_dict())
        self.kept = self.message_edges(task)
        self.edges = {c: edge_index(graph, c, self.kept.get(c.relation)) for c in self.channels}
        self.tables = {n.name: FeatureTable(n, options.weighting, self.device) for n in graph.nodes}
        self.sampler = Sampler(self.edges, self.counts) if options.fanout and not mlp else None
        self._full: Batch | None = None
        generator = torch.Generator().manual_seed(options.seed)
        self.encoder = make_encoder(generator)
        self.model = nn.ModuleDict({"encoder": self.encoder, "head": self.make_head(task, generator)}).to(self.device)
        self._begin()
        if fitted is not None:
            self.load(fitted)

    def message_edges(self, task: Task) -> dict[str, BoolArray]:
        """Masks of the edges that carry messages, for relations where not all do."""
        return {}

    @abstractmethod
    def make_head(self, task: Task, generator: torch.Generator) -> nn.Module:
        """The module that maps states to predictions."""

    def _begin(self) -> None:
        named = {n: p for n, p in self.model.named_parameters() if not n.startswith("head.linear.")}
        self.optimiser = AdamWEma(
            self.model,
            decayed=[name for name, p in named.items() if p.ndim > 1 and "norm_" not in name],
            learning_rate=self.options.learning_rate,
            weight_decay=self.options.weight_decay,
            ema=self.options.ema,
            fixed=[name for name, _ in self.model.named_parameters() if name not in named],
        )

    def full_batch(self) -> Batch:
        """The whole graph."""
        if self._full is None:
            columns = {t: table.take() for t, table in self.tables.items()}
            self._full = Batch(columns, build_blocks(self.channels, self.edges, self.counts, self.device))
        return self._full

    def sampled_batch(
        self, seeds: Mapping[str, IdArray], rng: np.random.Generator, banned: Mapping[str, BoolArray] | None = None
    ) -> tuple[Batch, dict[str, IdArray]]:
        """A sampled neighbourhood of the seeds, and its nodes by type, the seeds first, sorted."""
        assert self.sampler is not None
        nodes, edges = self.sampler.sample(seeds, self.options.fanout, rng, banned)
        columns = {t: self.tables[t].take(ids) for t, ids in nodes.items()}
        counts = {t: len(ids) for t, ids in nodes.items()}
        return Batch(columns, build_blocks(self.channels, edges, counts, self.device)), nodes

    @property
    def skipped(self) -> list[str]:
        """A sentence for each option that was ignored because the graph is too large."""
        return []

    @property
    def shares(self) -> dict[str, float]:
        """How much each part contributes to a prediction; they sum to 1."""
        return {NETWORK: 1.0}

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""

    @abstractmethod
    def loss(self, epoch: int, step: int, generator: torch.Generator | None) -> Tensor:
        """The loss that a step minimises; the generator is for dropout."""

    @abstractmethod
    def evaluate(self, split: Split) -> dict[str, float]:
        """Metrics of a split; `nodes` or `edges` is how many were measured."""

    @abstractmethod
    def measure(self, split: Split) -> dict[str, Measured]:
        """What `evaluate` measures, with samples, of the whole model and of its parts."""

    @abstractmethod
    def score(self) -> float:
        """What early stopping minimises, on the validation split, or on the training split without one."""

    def step(self, epoch: int, step: int) -> float:
        """One optimiser step; returns its loss. Raises TrainingDiverged when that is not finite."""
        number = ((self.options.seed * 1_000_003 + epoch) * 1_000_003 + step) % (1 << 64)
        generator = torch.Generator(self.device).manual_seed(number)
        self.model.train()
        return self.optimiser.step(self.loss(epoch, step, generator), epoch, "lower learning_rate")

    def using_mean(self) -> AbstractContextManager[None]:
        """Inside the context the model holds the weights that predict."""
        return self.optimiser.using_mean()

    def weights(self) -> dict[str, Tensor]:
        """What predictions need, as copies on the CPU."""
        return self.optimiser.weights()

    def state(self) -> dict[str, Tensor]:
        """All that changes while training, as copies on the CPU."""
        return self.optimiser.state()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `state()` or `weights()` of a training of the same graph and options."""
        self.optimiser.load(tensors)

    def chunks(self, nodes: IdArray, kind: str) -> Iterator[tuple[IdArray, Tensor]]:
        """Nodes of a type and their states, in order, computed with the current weights."""
        if self.sampler is None:
            states = self.encoder(self.full_batch(), (kind,))[kind]
            yield nodes, states[torch.from_numpy(nodes).to(self.device)]
            return
        size = self.options.batch_size
        for lo in range(0, len(nodes), size):
            part = nodes[lo : lo + size]
            batch, found = self.sampled_batch({kind: part}, np.random.default_rng([self.options.seed, 5, lo]))
            place = torch.from_numpy(np.searchsorted(found[kind][: len(np.unique(part))], part)).to(self.device)
            yield part, self.encoder(batch, (kind,))[kind][place]

    def embeddings(self, kind: str, nodes: IdArray | None = None) -> FloatArray:
        """States of nodes of a type, by default of all. shape: [N, hidden]"""
        self.graph.node(kind)
        ids = np.arange(self.counts[kind], dtype=np.int64) if nodes is None else np.asarray(nodes, np.int64)
        with self.using_mean():
            found = [states.cpu().numpy() for _, states in self.chunks(ids, kind)]
        return np.concatenate([np.zeros((0, self.options.hidden), np.float32), *found])

    def traced(self, kind: str, nodes: IdArray) -> tuple[Trace, Batch, dict[str, IdArray]]:
        """The attention of the encoder when it computes the states of the nodes; the batch and its nodes by type."""
        if self.sampler is None:
            batch = self.full_batch()
            found = {t: np.arange(n, dtype=np.int64) for t, n in self.counts.items()}
        else:
            batch, found = self.sampled_batch({kind: nodes}, np.random.default_rng([self.options.seed, 6]))
        trace = Trace()
        with self.using_mean():
            self.encoder(batch, (kind,), None, trace)
        return trace, batch, found
