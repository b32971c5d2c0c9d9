"""Link ranking: the filtered rank of true answers among candidates, and ranking metrics.

Other known answers are not candidates ("filtered", Bordes et al. 2013), and ties get their mean rank ("realistic",
Berrendorf et al. 2020). Shapes: B queries, E candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphlearn.errors import TrainingDiverged
from graphlearn.models.core.compiled import compiled
from graphlearn.models.core.known import KnownAnswers
from graphlearn.types import BoolArray, FloatArray, IdArray

RankArray: TypeAlias = npt.NDArray[np.float64]
EVERYTHING = np.ones((0, 0), np.bool_)


def filtered_ranks(
    scores_BE: FloatArray,
    targets_B: IdArray,
    known: KnownAnswers,
    keys_B: IdArray,
    *,
    allowed: BoolArray | None = None,
    pool: ThreadPoolExecutor | None = None,
    threads: int = 1,
) -> tuple[RankArray, RankArray]:
    """The rank of each target, from 1, and the number of ranked candidates, including the target. shape: [B], [B]

    `keys_B`: the keys of the queries in `known`. `allowed` restricts the candidates, for all queries ([E] or [1, E]) or
    for each one ([B, E]); a target is always a candidate. With a `pool`, rows are divided among `threads`.
    Raises TrainingDiverged if a score is not finite.
    """
    B = len(scores_BE)
    ranks, candidates = np.empty(B), np.empty(B)
    allowed = EVERYTHING if allowed is None else np.ascontiguousarray(np.atleast_2d(allowed))
    scores_BE = np.ascontiguousarray(scores_BE)
    bounds = np.linspace(0, B, threads + 1, dtype=int)

    def count(worker: int) -> int:
        part = slice(bounds[worker], bounds[worker + 1])
        mask = allowed[part] if len(allowed) > 1 else allowed
        return int(
            _count(
                scores_BE[part],
                targets_B[part],
                keys_B[part],
                known.offsets,
                known.answers,
                mask,
                ranks[part],
                candidates[part],
            )
        )

    if sum(map(count, range(threads)) if pool is None else pool.map(count, range(threads))):
        raise TrainingDiverged(
            "the model returns scores that are not finite",
            help="lower learning_rate, or raise regularization",
        )
    return ranks, candidates


@compiled
def _count(
    scores_BE: FloatArray,
    targets_B: IdArray,
    keys_B: IdArray,
    offsets: IdArray,
    answers: IdArray,
    allowed: BoolArray,
    ranks_B: Any,
    candidates_B: Any,
) -> Any:
    """`filtered_ranks` on one thread; returns the number of non-finite scores. `allowed`: 0, 1 or B rows."""
    bad = 0
    E = scores_BE.shape[1]
    masked = allowed.shape[0] > 0
    for i in range(scores_BE.shape[0]):
        row = scores_BE[i]
        target = targets_B[i]
        s = row[target]
        above = 0
        level = 0
        finite = 0
        for e in range(E):
            above += row[e] > s
            level += row[e] == s
            finite += abs(row[e]) < np.float32(3e38)
        bad += E - finite
        level -= 1
        total = E
        m = min(i, allowed.shape[0] - 1)
        if masked:
            for e in range(E):
                if not allowed[m, e] and e != target:
                    above -= row[e] > s
                    level -= row[e] == s
                    total -= 1
        if keys_B[i] >= 0:
            for p in range(offsets[keys_B[i]], offsets[keys_B[i] + 1]):
                e = answers[p]
                if e != target and (not masked or allowed[m, e]):
                    above -= row[e] > s
                    level -= row[e] == s
                    total -= 1
        ranks_B[i] = 1.0 + above + 0.5 * level
        candidates_B[i] = total
    return bad


def _hits(k: int) -> Callable[[RankArray, RankArray], float]:
    return lambda ranks, candidates: float((ranks <= k).mean())  # noqa: ARG005


def _amri(ranks: RankArray, candidates: RankArray) -> float:
    expected = float(candidates.mean() + 1) / 2
    return 1 - (float(ranks.mean()) - 1) / (expected - 1) if expected > 1 else 0.0


def _ndcg_10(ranks: RankArray, candidates: RankArray) -> float:  # noqa: ARG001
    return float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())


def _auc(ranks: RankArray, candidates: RankArray) -> float:
    return float((1 - (ranks - 1) / np.maximum(candidates - 1, 1)).mean())


METRICS: dict[str, Callable[[RankArray, RankArray], float]] = {
    "mrr": lambda ranks, candidates: float((1 / ranks).mean()),  # noqa: ARG005
    "mr": lambda ranks, candidates: float(ranks.mean()),  # noqa: ARG005
    "amri": _amri,
    "ndcg_10": _ndcg_10,
    "hits_at_1": _hits(1),
    "hits_at_3": _hits(3),
    "hits_at_10": _hits(10),
    "auc": _auc,
}
"""Ranking metrics, over queries with one true answer each.

mr: the mean rank. amri: 1 - (mr - 1) / (expected mr of random scores - 1), so that 0 is chance and 1 is perfect
(Berrendorf et al. 2020). auc: the share of the other candidates that rank below the answer.
"""


def ranking_metrics(ranks: RankArray, candidates: RankArray, names: Iterable[str]) -> dict[str, float]:
    """The named METRICS of the result of `filtered_ranks`; NaN without queries. shape: [B], [B]"""
    return {name: METRICS[name](ranks, candidates) if len(ranks) else float("nan") for name in names}
