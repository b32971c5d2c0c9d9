"""Link ranking, whatever ranks: the queries of a split, the candidates of each, and the metrics of their ranks.

A query asks for the target of an edge among all nodes of the target type. Shapes: B queries, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from graphlearn.models.core.bootstrap import Sample
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.core.ranking import RankArray, filtered_ranks, ranking_metrics
from graphlearn.models.hetero.graph import HeteroGraph, Relation
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.tasks import LinkRanking
from graphlearn.types import BoolArray, DoubleArray, FloatArray, IdArray, Split

Scorer: TypeAlias = Callable[[IdArray], FloatArray]
"""Scores of all targets for some sources. shape: [B] -> [B, T]"""

METRICS = ("mrr", "ndcg_10", "hits_at_1", "hits_at_10", "auc")
MEASURED = 10_000
"""Queries of a split that are measured, at most."""
ROWS = 512
"""Queries that are scored at once."""


@dataclass(frozen=True)
class RankedLinks:
    """Ranks of the targets of some edges. shape: [B] each"""

    edges: IdArray
    sources: IdArray
    ranks: RankArray
    candidates: RankArray

    def of(self, edges: IdArray) -> RankedLinks:
        """Those of some of the edges. Both must be sorted."""
        rows = np.searchsorted(self.edges, edges)
        return RankedLinks(edges, self.sources[rows], self.ranks[rows], self.candidates[rows])

    def figures(self) -> dict[str, float]:
        """METRICS, and `edges`, the number of edges."""
        return ranking_metrics(self.ranks, self.candidates, METRICS) | {"edges": float(len(self.ranks))}

    def measured(self) -> Measured:
        """METRICS with their sample, in which the queries of a source form a group."""
        each = [1 / self.ranks, np.where(self.ranks <= 10, 1 / np.log2(self.ranks + 1), 0)]
        each += [self.ranks <= 1, self.ranks <= 10, 1 - (self.ranks - 1) / np.maximum(self.candidates - 1, 1)]
        values = np.stack([*each, np.ones(len(self.ranks))], axis=1)
        return Measured(self.figures(), Sample.of(values, means, self.sources), ranked=self)


def means(sums: DoubleArray) -> dict[str, DoubleArray]:
    """METRICS from their sums over queries and the number of queries. shape: [..., 6]"""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: sums[..., i] / sums[..., -1] for i, name in enumerate(METRICS)}


def known_targets(relation: Relation, sources: int, edges: IdArray | None = None) -> KnownAnswers:
    """The targets of each source, in all edges or some, and, if it has the same type, the source itself."""
    src, dst = (relation.src, relation.dst) if edges is None else (relation.src[edges], relation.dst[edges])
    if relation.source == relation.target:
        own = np.arange(sources, dtype=dst.dtype)
        src, dst = np.concatenate([src, own]), np.concatenate([dst, own])
    return KnownAnswers.group(src, 0, dst, 1)


@dataclass(frozen=True)
class LinkQueries:
    """The edges of a relation by split. candidates: random ones that a target is ranked against; 0: all.

    shape: split: [edges]
    """

    relation: Relation
    split: np.ndarray[tuple[int], np.dtype[np.int8]]
    sources: int
    targets: int
    candidates: int
    seed: int

    @staticmethod
    def of(graph: HeteroGraph, task: LinkRanking, candidates: int, seed: int) -> LinkQueries:
        """The queries of a task."""
        r = graph.relation(task.relation)
        counts = {n.name: n.count for n in graph.nodes}
        return LinkQueries(r, np.asarray(task.split), counts[r.source], counts[r.target], candidates, seed)

    @property
    def given(self) -> BoolArray:
        """The edges that a model may use: those of the train split, and those without a split. shape: [edges]"""
        return self.split <= 0

    @cached_property
    def known(self) -> KnownAnswers:
        """All known targets of each source, which are not candidates of its other targets."""
        return known_targets(self.relation, self.sources)

    @cached_property
    def learnt(self) -> KnownAnswers:
        """The targets of each source in the given edges, which a prediction leaves out."""
        return known_targets(self.relation, self.sources, np.flatnonzero(self.given))

    @cached_property
    def degree(self) -> IdArray:
        """How many of the given edges each target has. shape: [T]"""
        r = self.relation
        seen = self.given if r.weight is None else self.given & (r.weight > 0)
        return np.bincount(r.dst[seen], minlength=self.targets)

    @property
    def protocol(self) -> str:
        """How a split is measured."""
        n, target = self.candidates, self.relation.target
        against = f"{min(n, self.targets - 1)} random {target}" if n else f"every {target}"
        return (
            f"each edge of a split (at most {MEASURED}, drawn with the seed) is ranked against {against}, other known "
            "targets of its source left out, ties at their mean rank; means over edges"
        )

    def measured(self, split: Split, most: int = MEASURED) -> IdArray:
        """The edges of a split that are measured."""
        edges = np.flatnonzero(self.split == split.code)
        if len(edges) > most:
            chosen = np.random.default_rng([self.seed, 7]).permutation(len(edges))[:most]
            edges = np.sort(edges[chosen])
        return edges

    def rank(self, edges: IdArray, scores: Scorer, whole: IdArray | None = None) -> RankedLinks:
        """Rank the targets of some edges. See `rank_all`."""
        (found,) = self.rank_all(edges, lambda nodes: [scores(nodes)], whole)
        return found

    def rank_all(
        self, edges: IdArray, scores: Callable[[IdArray], Iterable[FloatArray]], whole: IdArray | None = None
    ) -> list[RankedLinks]:
        """Rank the targets of some edges by several scorers at once; `scores` returns the scores of each.

        `whole`: sorted edges that these are some of. Their candidates are then the same as if all were ranked.
        """
        r, known, parts = self.relation, self.known, list[list[tuple[RankArray, RankArray]]]()
        whole = edges if whole is None else whole
        for lo in range(0, len(whole), ROWS):
            block = whole[lo : lo + ROWS]
            chosen = np.isin(block, edges)
            if not chosen.any():
                continue
            keys = known.keys(r.src[block], 0)
            drawn = self._drawn(keys, lo)
            rows, keys = block[chosen], keys[chosen]
            if drawn is not None:
                drawn = drawn[chosen]
            parts.append([filtered_ranks(s, r.dst[rows], known, keys, allowed=drawn) for s in scores(r.src[rows])])
        if not parts:
            return [RankedLinks(edges, r.src[edges], np.zeros(0), np.zeros(0))]
        return [
            RankedLinks(edges, r.src[edges], *(np.concatenate(column) for column in zip(*method, strict=True)))
            for method in zip(*parts, strict=True)
        ]

    def _drawn(self, keys: IdArray, first: int) -> BoolArray | None:
        """The targets that a block of edges is ranked against; None: all that are not known. shape: [B] -> [B, T]"""
        n = self.candidates
        if not 0 < n < self.targets - 1:
            return None
        draw = np.random.default_rng([self.seed, 8, first]).random((len(keys), self.targets))
        draw[self.known.rows(keys)] = 2
        return np.asarray(draw <= np.partition(draw, n - 1, axis=1)[:, n - 1 : n])
