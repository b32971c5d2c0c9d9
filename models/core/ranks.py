"""The outcome of ranking both ends of triples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphlearn.models.core import ranking
from graphlearn.models.core.bootstrap import Sample
from graphlearn.types import BoolArray, DoubleArray, IdArray, Side, Triples

METRICS = ("mrr", "mr", "amri", "hits_at_1", "hits_at_3", "hits_at_10")


@dataclass(frozen=True)
class Ranks:
    """Ranks of both ends, and how many entities were candidates for each, the answer included. shape: [n] each"""

    triples: Triples
    head: ranking.RankArray
    tail: ranking.RankArray
    head_candidates: ranking.RankArray
    tail_candidates: ranking.RankArray

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, rows: IdArray | BoolArray | slice) -> Ranks:
        """The ranks of some of the triples."""
        return Ranks(
            self.triples[rows],
            self.head[rows],
            self.tail[rows],
            self.head_candidates[rows],
            self.tail_candidates[rows],
        )

    @staticmethod
    def concat(parts: Sequence[Ranks]) -> Ranks:
        """All parts, concatenated."""
        return Ranks(
            Triples.concat([part.triples for part in parts]),
            np.concatenate([part.head for part in parts]),
            np.concatenate([part.tail for part in parts]),
            np.concatenate([part.head_candidates for part in parts]),
            np.concatenate([part.tail_candidates for part in parts]),
        )

    def metrics(self, side: Side | None = None) -> dict[str, float]:
        """METRICS and count (of ranks) of one side, or of both together; empty without any triple."""
        ranks, candidates = {
            Side.HEAD: (self.head, self.head_candidates),
            Side.TAIL: (self.tail, self.tail_candidates),
        }.get(side, (np.stack([self.head, self.tail]), np.stack([self.head_candidates, self.tail_candidates])))  # type: ignore[arg-type]
        if not ranks.size:
            return {}
        found = ranking.ranking_metrics(ranks.ravel(), candidates.ravel(), METRICS)
        return found | {"count": float(ranks.size)}

    def sample(self, side: Side | None = None) -> Sample:
        """The reciprocal ranks of each triple, for intervals of the MRR: its ranks are resampled together."""
        sides = {Side.HEAD: [self.head], Side.TAIL: [self.tail]}.get(side, [self.head, self.tail])  # type: ignore[arg-type]
        inverse = np.sum([1 / ranks for ranks in sides], axis=0)
        return Sample.of(np.stack([inverse, np.full(len(self), float(len(sides)))], axis=1), mrr)


def mrr(sums: DoubleArray) -> dict[str, DoubleArray]:
    """MRR from the sum of reciprocal ranks and the number of ranks. shape: [..., 2] -> [...]"""
    return {"mrr": sums[..., 0] / sums[..., 1]}
