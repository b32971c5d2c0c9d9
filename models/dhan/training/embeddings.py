"""Unsupervised node embeddings by DHAN, from links alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.dhan.graph.sampler import Csr
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.pairs import PairTraining, contrast
from graphlearn.models.dhan.training.training import WHOLE
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.metrics import cluster_sample, k_means
from graphlearn.models.hetero.tasks import Task, Unsupervised
from graphlearn.types import IdArray, Split

HELD = 0.1
LEAST = 20


class PairHead(nn.Module):
    """A diagonal bilinear form per relation (Yang et al. 2015, DistMult)."""

    def __init__(self, relations: int, hidden: int) -> None:
        super().__init__()
        self.form = nn.Parameter(torch.ones(relations, hidden) / math.sqrt(hidden))


class EmbeddingTraining(PairTraining):
    """Reconstructs links; a tenth of each relation is held out for metrics and early stopping.

    A pair of a hub relation is two members of one hub.
    """

    def __init__(
        self,
        graph: HeteroGraph,
        task: Unsupervised,
        options: DhanOptions,
        fitted: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.task = task
        super().__init__(graph, task, options, fitted)
        self.learnt, self.held = {}, {}
        for i, r in enumerate(graph.relations):
            order = np.random.default_rng([options.seed, 9, i]).permutation(len(r))
            held = int(len(r) * HELD) if len(r) >= LEAST else 0
            self.held[r.name], self.learnt[r.name] = np.sort(order[:held]), np.sort(order[held:])
        self.hubs = {r.name: Csr(r.dst, r.hubs) for r in graph.relations if r.hubs is not None}
        self.protocol = (
            f"links: a tenth of each relation that is not learnt from, each against {options.negatives} random nodes; "
            "clusters: k-means of all embeddings of the labelled type, as many clusters as labels, best of 10 starts"
        )

    def make_head(self, task: Task, generator: torch.Generator) -> nn.Module:
        """The scorer of pairs."""
        return PairHead(len(self.graph.relations), self.options.hidden)

    def _pairs(self, name: str, edges: IdArray, rng: np.random.Generator) -> tuple[IdArray, IdArray]:
        r = self.graph.relation(name)
        if name not in self.hubs:
            return r.src[edges].astype(np.int64), r.dst[edges].astype(np.int64)
        members = self.hubs[name]
        hub = r.dst[edges]
        lo, size = members.offset[hub], members.offset[hub + 1] - members.offset[hub]
        other = members.order[lo + (rng.random(len(edges)) * size).astype(np.int64)]
        kept = r.src[other] != r.src[edges]
        return r.src[edges][kept].astype(np.int64), r.src[other][kept].astype(np.int64)

    def _scores(
        self, chunk: Mapping[str, IdArray], rng: np.random.Generator, generator: torch.Generator | None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """By relation: scores of random pairs and true pairs, and a mask of equal ones. shape: [B, K], [B], [B, K]"""
        found, wanted = [], {t: [np.zeros(0, np.int64)] for t in self.counts}
        for i, r in enumerate(self.graph.relations):
            x, y = self._pairs(r.name, chunk[r.name], rng)
            negative = rng.integers(self.counts[r.target], size=self.options.negatives)
            if not len(x):
                continue
            wanted[r.source].append(x)
            wanted[r.target] += [y, negative]
            found.append((i, r, x, y, negative))
        seeds = {t: np.unique(np.concatenate(ids)) for t, ids in wanted.items() if len(ids) > 1}
        states = self.states_without(seeds, chunk, rng, generator)
        head, out = self.model["head"], []
        assert isinstance(head, PairHead)
        for i, r, x, y, negative in found:

            def rows(kind: str, ids: IdArray) -> Tensor:
                return states[kind][torch.from_numpy(np.searchsorted(seeds[kind], ids)).to(self.device)]

            query = rows(r.source, x) * head.form[i]
            same = torch.from_numpy(y[:, None] == negative).to(self.device)
            out.append((query @ rows(r.target, negative).T, (query * rows(r.target, y)).sum(1), same))
        return out

    def loss(self, epoch: int, step: int, generator: torch.Generator | None) -> Tensor:
        """Mean over relations of the cross entropy of true pairs among random ones."""
        rng = np.random.default_rng([self.options.seed, 4, epoch, step])
        parts = self._scores(self.chunk(epoch, step), rng, generator)
        if not parts:
            return 0 * next(self.model.parameters()).sum()
        return torch.stack([contrast(*p) for p in parts]).mean()

    def _held(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        size = None if self.sampler is None else self.options.batch_size
        chunk = {name: edges[:size] for name, edges in self.held.items()}
        with self.using_mean():
            return self._scores(chunk, np.random.default_rng([self.options.seed, 10]), None)

    def evaluate(self, split: Split) -> dict[str, float]:
        """auc of held-out links, and nmi and ari of the clusters when there are labels; the same for every split."""
        return dict(self.measure(split)[WHOLE].figures)

    def measure(self, split: Split) -> dict[str, Measured]:
        """The sample is that of the clusters."""
        parts = self._held()
        wins = []
        for other, own, same in parts:
            above, equal = own[:, None] > other, own[:, None] == other
            wins.append((above.float() + equal.float() / 2)[~same])
        found = {"auc": float(torch.cat(wins).mean()) if wins else math.nan}
        labels, kind, sample = self.task.labels, self.task.type, None
        if labels is not None and kind is not None:
            nodes = np.flatnonzero(np.asarray(labels) >= 0)
            actual = np.asarray(labels)[nodes]
            clusters = k_means(self.embeddings(kind, nodes), len(np.unique(actual)), self.options.seed)
            sample = cluster_sample(actual, clusters)
            found |= sample.metrics() | {"nodes": float(len(nodes))}
        found["edges"] = float(sum(len(own) for _, own, _ in parts))
        return {WHOLE: Measured(found, sample)}

    def score(self) -> float:
        """The loss of the held-out links."""
        parts = self._held()
        return float(torch.stack([contrast(*p) for p in parts]).mean()) if parts else 0.0
