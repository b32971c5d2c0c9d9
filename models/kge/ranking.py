"""Filtered link-prediction ranking: every entity competes, other known answers step aside, ties take their mean rank.

MRR, MR, Hits@k as in Bordes et al. 2013; the mean ("realistic") rank of ties and AMRI as in Berrendorf et al. 2020.
Shapes: B queries, E entities.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphlearn.errors import TrainingDiverged
from graphlearn.models.kge.kernels import table as table_kernels
from graphlearn.models.kge.known import KnownAnswers
from graphlearn.models.kge.scorer import EUCLID, Scorer
from graphlearn.types import IdArray, Side, Triples

HITS = (1, 3, 10)


@dataclass(frozen=True)
class Embedding:
    """A trained model, ready to score. shape: entities: [E, D]; relations: [R or 2R, width]"""

    scorer: Scorer
    entities: Tensor
    relations: Tensor
    dense: dict[str, Tensor]
    n_relations: int

    def weights(self) -> dict[str, Tensor]:
        """Its tensors by name, as they are stored."""
        return {"entities": self.entities, "relations": self.relations, **self.dense}

    @property
    def reciprocal(self) -> bool:
        """Whether heads are asked for through inverse relations."""
        return self.scorer.options.reciprocal

    def queries(self, anchors: IdArray, relations: IdArray, side: Side) -> Tensor:
        """Query vectors. shape: [B], [B] -> [B, D]"""
        if self.reciprocal and side is Side.HEAD:
            relations, side = relations + self.n_relations, Side.TAIL
        device = self.entities.device
        rows = self.relations[torch.from_numpy(np.ascontiguousarray(relations)).long().to(device)]
        anchor = self.entities[torch.from_numpy(np.ascontiguousarray(anchors)).long().to(device)]
        return self.scorer.project(anchor, self.scorer.prepare(rows), side, self.dense)

    def scores(self, queries: Tensor) -> Tensor:
        """Scores of all entities, in float32. shape: [B, D] -> [B, E]"""
        similarity = self.scorer.similarity
        if similarity.pair_kernel is None or self.entities.device.type != "cpu":
            return similarity.pairs(queries, self.entities)
        out = torch.empty(len(queries), len(self.entities))
        q, table, target = queries.numpy(), self.entities.numpy(), out.numpy()
        workers = torch.get_num_threads()
        bounds = np.linspace(0, len(q), workers + 1, dtype=int)
        run = similarity.pair_kernel[0]
        if workers == 1 or len(q) < workers:
            _tiled(run, q, table, target)
        else:
            with ThreadPoolExecutor(workers) as pool:
                spans = [slice(a, b) for a, b in pairwise(bounds)]
                list(pool.map(lambda s: _tiled(run, q[s], table, target[s]), spans))
        return out

    def block(self, limit_bytes: int) -> int:
        """Queries to score at once so that their scores stay under a memory limit."""
        copies = 3 if self.scorer.similarity is EUCLID else 1
        return int(max(1, min(1024, limit_bytes // (4 * copies * len(self.entities)))))


def _tiled(
    run: Callable[..., None], q: npt.NDArray[np.float32], table: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """Score in blocks of entities that stay in the cache while all queries pass by."""
    step = max(16, 2**18 // max(1, table.shape[1] * 4))
    for lo in range(0, len(table), step):
        part = np.empty((len(q), min(step, len(table) - lo)), np.float32)
        run(q, table[lo : lo + step], part)
        out[:, lo : lo + step] = part


@dataclass(frozen=True)
class Ranks:
    """Ranks of both sides, and how many entities competed for each, the answer included. shape: [n] each"""

    triples: Triples
    head: npt.NDArray[np.float64]
    tail: npt.NDArray[np.float64]
    head_candidates: npt.NDArray[np.float64]
    tail_candidates: npt.NDArray[np.float64]

    def metrics(
        self, side: Side | None = None, rows: IdArray | npt.NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """mrr, mr, amri, hits_at_1, _3, _10 and count of one side, or of both together."""
        ranks, candidates = {
            Side.HEAD: (self.head, self.head_candidates),
            Side.TAIL: (self.tail, self.tail_candidates),
        }.get(side, (np.stack([self.head, self.tail]), np.stack([self.head_candidates, self.tail_candidates])))  # type: ignore[arg-type]
        if rows is not None:
            ranks, candidates = ranks[..., rows], candidates[..., rows]
        return summary(ranks.ravel(), candidates.ravel())


def summary(ranks: npt.NDArray[np.float64], candidates: npt.NDArray[np.float64]) -> dict[str, float]:
    """Metrics of ranks. AMRI = 1 - (MR - 1) / (expected MR of random scores - 1): 0 is chance, 1 perfect."""
    if not len(ranks):
        return {}
    expected = float(candidates.mean() + 1) / 2
    mean = float(ranks.mean())
    out = {"mrr": float((1 / ranks).mean()), "mr": mean}
    out["amri"] = 1 - (mean - 1) / (expected - 1) if expected > 1 else 0.0
    out |= {f"hits_at_{k}": float((ranks <= k).mean()) for k in HITS}
    return out | {"count": float(len(ranks))}


def rank(
    model: Embedding,
    triples: Triples,
    known: dict[Side, KnownAnswers],
    *,
    memory_limit: int = 1 << 28,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Ranks:
    """Filtered ranks of both ends of each triple.

    `known` holds, for each side, the answers that do not compete; it should include the triples themselves.
    `memory_limit`: bytes for score blocks. `progress` is told the triples done so far (a side counts half).
    Raises TrainingDiverged when a score is not finite.
    """
    threads = threads or os.cpu_count() or 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ThreadPoolExecutor(threads) as pool:
            done = {}
            candidates = {}
            for half, side in enumerate((Side.TAIL, Side.HEAD)):
                done[side], candidates[side] = _rank_side(
                    model,
                    triples,
                    side,
                    known[side],
                    memory_limit,
                    pool,
                    threads,
                    _half(progress, half, len(triples)),
                )
    finally:
        torch.set_num_threads(before)
    return Ranks(triples, done[Side.HEAD], done[Side.TAIL], candidates[Side.HEAD], candidates[Side.TAIL])


def _half(progress: Callable[[int], None] | None, half: int, n: int) -> Callable[[int], None] | None:
    """Progress of one side as progress of both."""
    return None if progress is None else lambda done: progress((done + half * n) // 2)


def _rank_side(
    model: Embedding,
    triples: Triples,
    side: Side,
    known: KnownAnswers,
    memory_limit: int,
    pool: ThreadPoolExecutor,
    threads: int,
    progress: Callable[[int], None] | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    anchors, targets = (triples.heads, triples.tails) if side is Side.TAIL else (triples.tails, triples.heads)
    keys = known.keys(anchors, triples.relations)
    ranks = np.empty(len(triples))
    size = model.block(memory_limit)
    for lo in range(0, len(triples), size):
        hi = min(lo + size, len(triples))
        scores = model.scores(model.queries(anchors[lo:hi], triples.relations[lo:hi], side)).cpu().numpy()
        bounds = np.linspace(0, hi - lo, threads + 1, dtype=int)

        def count(
            w: int, lo: int = lo, scores: npt.NDArray[np.float32] = scores, bounds: npt.NDArray[np.int_] = bounds
        ) -> int:
            a, b = bounds[w], bounds[w + 1]
            part = slice(lo + a, lo + b)
            bad = table_kernels.count_ranks(
                scores[a:b], targets[part], keys[part], known.offsets, known.answers, ranks[part]
            )
            return int(bad)

        if sum(pool.map(count, range(threads))):
            raise TrainingDiverged(
                "the model gives scores that are not finite numbers",
                help="lower learning_rate, or raise regularization",
            )
        if progress is not None:
            progress(hi)
    others = np.zeros(len(triples))
    seen = keys >= 0
    others[seen] = (known.offsets[1:] - known.offsets[:-1])[keys[seen]] - 1
    return ranks, len(model.entities) - others


def top_k(
    model: Embedding,
    anchors: IdArray,
    relations: IdArray,
    side: Side,
    k: int,
    known: KnownAnswers | None,
    *,
    memory_limit: int = 1 << 28,
) -> Iterator[tuple[IdArray, npt.NDArray[np.float32]]]:
    """The k best answers of each query, best first, in blocks. shape: yields ids [b, k], scores [b, k]

    With `known`, known answers are left out; places that remain empty hold id -1 and score NaN.
    """
    k = min(k, len(model.entities))
    size = model.block(memory_limit)
    with torch.inference_mode():
        for lo in range(0, len(anchors), size):
            part = slice(lo, lo + size)
            scores = model.scores(model.queries(anchors[part], relations[part], side))
            if known is not None:
                rows, answers = known.rows(known.keys(anchors[part], relations[part]))
                scores[torch.from_numpy(rows), torch.from_numpy(answers).long()] = -torch.inf
            best = torch.topk(scores, k, dim=1)
            values, ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
            empty = np.isneginf(values)
            yield np.where(empty, -1, ids), np.where(empty, np.nan, values).astype(np.float32)


def score_triples(model: Embedding, triples: Triples) -> npt.NDArray[np.float32]:
    """The score of each triple, as tails are asked for. shape: [n]"""
    with torch.inference_mode():
        parts = []
        for lo in range(0, len(triples), 65536):
            t = triples[lo : lo + 65536]
            tails = model.entities[torch.from_numpy(t.tails).long().to(model.entities.device)]
            parts.append(
                model.scorer.similarity.rows(model.queries(t.heads, t.relations, Side.TAIL), tails).cpu().numpy()
            )
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
