"""Link ranking by DHAN: for a source, all nodes of the target type in order."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.pairs import PairTraining, contrast
from graphlearn.models.dhan.training.training import WHOLE
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.links import ROWS, LinkQueries, RankedLinks
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.tasks import LinkRanking, Task
from graphlearn.types import BoolArray, FloatArray, IdArray, Split


class LinkHead(nn.Module):
    """Score of pairs: a bilinear form of both states, and how many links the target has."""

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.form = nn.Parameter(torch.eye(hidden) + 0.1 * torch.randn(hidden, hidden, generator=generator))
        self.popularity = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor, degree: Tensor) -> Tensor:
        """shape: [B, d], [N, d], [N] -> [B, N]"""
        return (x @ self.form) @ y.T / math.sqrt(x.shape[1]) + self.popularity * degree

    def pairs(self, x: Tensor, y: Tensor, degree: Tensor) -> Tensor:
        """shape: [B, d], [B, d], [B] -> [B]"""
        return ((x @ self.form) * y).sum(1) / math.sqrt(x.shape[1]) + self.popularity * degree


class LinkTraining(PairTraining):
    """Learns the train edges of a relation."""

    def __init__(
        self,
        graph: HeteroGraph,
        task: LinkRanking,
        options: DhanOptions,
        fitted: Mapping[str, Tensor] | None = None,
        *,
        mlp: bool = False,
    ) -> None:
        self.task, self.queries = task, LinkQueries.of(graph, task, options.candidates, options.seed)
        self.relation, self.split = self.queries.relation, self.queries.split
        super().__init__(graph, task, options, fitted, mlp=mlp)
        self.learnt = {self.relation.name: np.flatnonzero(self.split == Split.TRAIN.code)}
        self.targets, self.degree = self.queries.targets, self.queries.degree
        self.protocol = self.queries.protocol

    def message_edges(self, task: Task) -> dict[str, BoolArray]:
        """Validation and test edges carry no messages."""
        return {self.relation.name: self.queries.given}

    def make_head(self, task: Task, generator: torch.Generator) -> nn.Module:
        """The scorer of pairs."""
        return LinkHead(self.options.hidden, generator)

    def _popular(self, nodes: IdArray, without: IdArray | None = None) -> Tensor:
        degree = self.degree
        if without is not None:
            degree = degree - np.bincount(self.relation.dst[without], minlength=self.targets)
        return torch.from_numpy(np.log1p(np.maximum(degree[nodes], 0)).astype(np.float32)).to(self.device)

    def loss(self, epoch: int, step: int, generator: torch.Generator | None) -> Tensor:
        """Each true target among `negatives` random ones."""
        r, chunk = self.relation, self.chunk(epoch, step)
        edges = chunk[r.name]
        rng = np.random.default_rng([self.options.seed, 4, epoch, step])
        negative = rng.integers(self.targets, size=self.options.negatives)
        src, dst = r.src[edges].astype(np.int64), r.dst[edges].astype(np.int64)
        sources, targets = np.unique(src), np.unique(np.concatenate([dst, negative]))
        both = np.unique(np.concatenate([sources, targets])) if r.source == r.target else None
        seeds = {r.source: sources, r.target: targets} if both is None else {r.source: both}
        states = self.states_without(seeds, chunk, rng, generator)

        def rows(kind: str, ids: IdArray) -> Tensor:
            return states[kind][torch.from_numpy(np.searchsorted(seeds[kind], ids)).to(self.device)]

        x, y, z = rows(r.source, src), rows(r.target, dst), rows(r.target, negative)
        head = self.model["head"]
        assert isinstance(head, LinkHead)
        own = head.pairs(x, y, self._popular(dst, edges))
        same = torch.from_numpy(dst[:, None] == negative).to(self.device)
        return contrast(head(x, z, self._popular(negative, edges)), own, same)

    def _all(self) -> Tensor:
        ids = np.arange(self.targets, dtype=np.int64)
        return torch.cat([states for _, states in self.chunks(ids, self.relation.target)])

    def _scores(self, nodes: IdArray, targets: Tensor) -> FloatArray:
        unique, place = np.unique(nodes, return_inverse=True)
        states = torch.cat([s for _, s in self.chunks(unique, self.relation.source)])
        rows = states[torch.from_numpy(place.reshape(-1)).to(self.device)]
        degree = self._popular(np.arange(self.targets))
        out: FloatArray = self.model["head"](rows, targets, degree).cpu().numpy()
        return out

    def pair_scores(self, sources: IdArray, targets: IdArray) -> FloatArray:
        """Scores of given pairs. shape: [B], [B] -> [B]"""
        r, head = self.relation, self.model["head"]
        assert isinstance(head, LinkHead)
        with self.using_mean():
            ends = []
            for kind, ids in ((r.source, np.asarray(sources, np.int64)), (r.target, np.asarray(targets, np.int64))):
                unique, place = np.unique(ids, return_inverse=True)
                states = torch.cat([s for _, s in self.chunks(unique, kind)])
                ends.append(states[torch.from_numpy(place.reshape(-1)).to(self.device)])
            out: FloatArray = head.pairs(ends[0], ends[1], self._popular(np.asarray(targets, np.int64))).cpu().numpy()
        return out

    def predict(
        self, nodes: IdArray | None = None, k: int = 10, exclude_known: bool = True
    ) -> tuple[IdArray, FloatArray]:
        """The k best targets of each source and their scores, padded with -1. shape: [B] -> [B, k]

        `exclude_known` leaves out the targets in edges that it learnt from, never held-out ones.
        """
        ids = np.arange(self.counts[self.relation.source]) if nodes is None else np.asarray(nodes, np.int64)
        k, learnt = min(k, self.targets), self.queries.learnt
        found, best = np.full((len(ids), k), -1, np.int64), np.full((len(ids), k), -np.inf, np.float32)
        with self.using_mean():
            targets = self._all()
            for lo in range(0, len(ids), ROWS):
                part = ids[lo : lo + ROWS]
                scores = self._scores(part, targets)
                if exclude_known:
                    scores[learnt.rows(learnt.keys(part, 0))] = -np.inf
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                best[lo : lo + ROWS] = np.take_along_axis(scores, order, axis=1)
                found[lo : lo + ROWS] = np.where(np.isfinite(best[lo : lo + ROWS]), order, -1)
        return found, best

    def ranked(self, edges: IdArray, whole: IdArray | None = None) -> RankedLinks:
        """Ranks of the targets of some edges. See `LinkQueries.rank_all`."""
        with self.using_mean():
            targets = self._all()
            return self.queries.rank(edges, lambda nodes: self._scores(nodes, targets), whole)

    def evaluate(self, split: Split) -> dict[str, float]:
        """mrr, ndcg_10, hits_at_1, hits_at_10, auc, edges; see `protocol`."""
        return self.ranked(self.queries.measured(split)).figures()

    def measure(self, split: Split) -> dict[str, Measured]:
        """The whole model."""
        return {WHOLE: self.ranked(self.queries.measured(split)).measured()}

    def score(self) -> float:
        """Minus the MRR on the validation split or, if that is empty, on the train split."""
        split = Split.VALID if (self.split == Split.VALID.code).any() else Split.TRAIN
        return -self.evaluate(split)["mrr"]
