"""Link ranking by DHAN: for a source, all nodes of the target type in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.core.ranking import filtered_ranks, ranking_metrics
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.pairs import PairTraining, contrast
from graphlearn.models.hetero.graph import HeteroGraph, Relation
from graphlearn.models.hetero.tasks import LinkRanking, Task
from graphlearn.types import BoolArray, FloatArray, IdArray, Split

Scorer: TypeAlias = Callable[[IdArray], FloatArray]

METRICS = ("mrr", "ndcg_10", "hits_at_1", "hits_at_10", "auc")
MEASURED = 10_000
ROWS = 512


def known_targets(relation: Relation, sources: int) -> KnownAnswers:
    """The targets of each source in any split and, if it has the same type, the source itself."""
    src, dst = relation.src, relation.dst
    if relation.source == relation.target:
        own = np.arange(sources, dtype=dst.dtype)
        src, dst = np.concatenate([src, own]), np.concatenate([dst, own])
    return KnownAnswers.group(src, 0, dst, 1)


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
        self.relation, split = graph.relation(task.relation), np.asarray(task.split)
        self.task, self.split = task, split
        super().__init__(graph, task, options, fitted, mlp=mlp)
        r = self.relation
        self.learnt = {r.name: np.flatnonzero(split == Split.TRAIN.code)}
        self.targets = self.counts[r.target]
        seen = (split <= 0) if r.weight is None else (split <= 0) & (r.weight > 0)
        self.degree = np.bincount(r.dst[seen], minlength=self.targets)
        self.known = known_targets(r, self.counts[r.source])
        n = options.candidates
        against = f"{min(n, self.targets - 1)} random {r.target}" if n else f"every {r.target}"
        self.protocol = (
            f"each edge of a split (at most {MEASURED}, drawn with the seed) is ranked against {against}, other known "
            "targets of its source left out, ties at their mean rank; means over edges"
        )

    def message_edges(self, task: Task) -> dict[str, BoolArray]:
        """Validation and test edges carry no messages."""
        return {self.relation.name: self.split <= 0}

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
        """The k best targets of each source and their scores, padded with -1. shape: [B] -> [B, k]"""
        ids = np.arange(self.counts[self.relation.source]) if nodes is None else np.asarray(nodes, np.int64)
        k = min(k, self.targets)
        found, best = np.full((len(ids), k), -1, np.int64), np.full((len(ids), k), -np.inf, np.float32)
        with self.using_mean():
            targets = self._all()
            for lo in range(0, len(ids), ROWS):
                part = ids[lo : lo + ROWS]
                scores = self._scores(part, targets)
                if exclude_known:
                    scores[self.known.rows(self.known.keys(part, 0))] = -np.inf
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                best[lo : lo + ROWS] = np.take_along_axis(scores, order, axis=1)
                found[lo : lo + ROWS] = np.where(np.isfinite(best[lo : lo + ROWS]), order, -1)
        return found, best

    def measured(self, split: Split) -> IdArray:
        """The edges of a split that are evaluated."""
        edges = np.flatnonzero(self.split == split.code)
        if len(edges) > MEASURED:
            chosen = np.random.default_rng([self.options.seed, 7]).permutation(len(edges))[:MEASURED]
            edges = np.sort(edges[chosen])
        return edges

    def evaluate(self, split: Split) -> dict[str, float]:
        """mrr, ndcg_10, hits_at_1, hits_at_10, auc, edges; see `protocol`."""
        with self.using_mean():
            targets = self._all()
            return self.figures(split, lambda nodes: self._scores(nodes, targets))

    def figures(self, split: Split, scores: Scorer) -> dict[str, float]:
        """Figures of anything that scores all targets of sources. shape of scores: [B] -> [B, N]"""
        edges, r, known = self.measured(split), self.relation, self.known
        ranks, candidates = np.empty(len(edges)), np.empty(len(edges))
        for lo in range(0, len(edges), ROWS):
            rows = slice(lo, lo + ROWS)
            src, dst = r.src[edges[rows]], r.dst[edges[rows]]
            keys = known.keys(src, 0)
            drawn = self._candidates(keys, lo)
            ranks[rows], candidates[rows] = filtered_ranks(scores(src), dst, known, keys, allowed=drawn)
        return ranking_metrics(ranks, candidates, METRICS) | {"edges": float(len(edges))}

    def _candidates(self, keys: IdArray, first: int) -> BoolArray | None:
        """The targets that a block of edges is ranked against; None: all that are not known. shape: [B] -> [B, N]"""
        n = self.options.candidates
        if not 0 < n < self.targets - 1:
            return None
        draw = np.random.default_rng([self.options.seed, 8, first]).random((len(keys), self.targets))
        draw[self.known.rows(keys)] = 2
        return np.asarray(draw <= np.partition(draw, n - 1, axis=1)[:, n - 1 : n])

    def score(self) -> float:
        """Minus the MRR on the validation split or, if that is empty, on the train split."""
        split = Split.VALID if (self.split == Split.VALID.code).any() else Split.TRAIN
        return -self.evaluate(split)["mrr"]

    def degree_figures(self, split: Split) -> dict[str, float]:
        """Figures of ranking by degree alone."""
        degree = np.log1p(self.degree).astype(np.float32)
        return self.figures(split, lambda nodes: np.broadcast_to(degree, (len(nodes), self.targets)))
