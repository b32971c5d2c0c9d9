"""The outcome of ranking both ends of triples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphlearn.models.core import ranking
from graphlearn.types import IdArray, Side, Triples

METRICS = ("mrr", "mr", "amri", "hits_at_1", "hits_at_3", "hits_at_10")


@dataclass(frozen=True)
class Ranks:
    """Ranks of both ends, and how many entities were candidates for each, the answer included. shape: [n] each"""

    triples: Triples
    head: ranking.RankArray
    tail: ranking.RankArray
    head_candidates: ranking.RankArray
    tail_candidates: ranking.RankArray

    def metrics(
        self, side: Side | None = None, rows: IdArray | npt.NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """METRICS and count of one side, or of both together; empty without any triple."""
        ranks, candidates = {
            Side.HEAD: (self.head, self.head_candidates),
            Side.TAIL: (self.tail, self.tail_candidates),
        }.get(side, (np.stack([self.head, self.tail]), np.stack([self.head_candidates, self.tail_candidates])))  # type: ignore[arg-type]
        if rows is not None:
            ranks, candidates = ranks[..., rows], candidates[..., rows]
        if not ranks.size:
            return {}
        found = ranking.ranking_metrics(ranks.ravel(), candidates.ravel(), METRICS)
        return found | {"count": float(ranks.size)}
