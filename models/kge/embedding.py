"""A trained knowledge-graph embedding: scores of triples, best answers of queries, ranks of known triples.

Shapes: B queries, E entities, D entity width.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.core import ranking
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.core.ranks import Ranks
from graphlearn.models.kge.scorer import EUCLID, Scorer
from graphlearn.processors import default_threads
from graphlearn.types import BoolArray, FloatArray, IdArray, Side, Triples

MEMORY_LIMIT = 1 << 28
"""Bytes for a block of scores by default."""
ROWS = 65_536
"""Triples scored at once."""


@dataclass(frozen=True)
class Embedding:
    """Weights and their equation. shape: entities: [E, D]; relations: [R or 2R, width]"""

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

    def score(self, heads: IdArray, relations: IdArray, tails: IdArray) -> FloatArray:
        """The score of each triple, as the score of its tail. shape: [n] each -> [n]"""
        out = np.empty(len(heads), np.float32)
        with torch.inference_mode():
            for lo in range(0, len(heads), ROWS):
                part = slice(lo, lo + ROWS)
                queries = self.queries(heads[part], relations[part], Side.TAIL)
                out[part] = self.scorer.similarity.rows(queries, self.entities[self._ids(tails[part])]).cpu().numpy()
        return out

    def top_k(
        self,
        anchors: IdArray,
        relations: IdArray,
        side: Side,
        k: int,
        known: KnownAnswers | None = None,
        *,
        alive: BoolArray | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> tuple[IdArray, FloatArray]:
        """The k best answers of each query, best first, and their scores. shape: [B], [B] -> [B, k], [B, k]

        `side` is the end that is asked for. Answers in `known` are left out, and so are entities that are not `alive`
        (shape [E]); places that remain empty hold id -1 and score NaN. k is at most E.
        """
        k = min(k, len(self.entities))
        ids, values = np.empty((len(anchors), k), np.int64), np.empty((len(anchors), k), np.float32)
        gone = None if alive is None else torch.from_numpy(~alive).to(self.entities.device)
        size = self.block(memory_limit)
        with torch.inference_mode():
            for lo in range(0, len(anchors), size):
                part = slice(lo, lo + size)
                scores = self.scores(self.queries(anchors[part], relations[part], side))
                if known is not None:
                    rows, answers = known.rows(known.keys(anchors[part], relations[part]))
                    scores[torch.from_numpy(rows), torch.from_numpy(answers).long()] = -torch.inf
                if gone is not None:
                    scores.masked_fill_(gone, -torch.inf)
                best = torch.topk(scores, k, dim=1)
                ids[part], values[part] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        empty = np.isneginf(values)
        ids[empty], values[empty] = -1, np.nan
        return ids, values

    def rank(
        self,
        triples: Triples,
        known: dict[Side, KnownAnswers],
        *,
        alive: BoolArray | None = None,
        memory_limit: int = MEMORY_LIMIT,
        threads: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Ranks:
        """Filtered ranks of both ends of each triple; see `models.core.ranking`.

        `known` holds the answers that do not compete, for each side. Entities that are not `alive` (shape [E]) are not
        candidates, except as the answer itself. `memory_limit`: bytes for a block of scores. `threads`: 0 takes all
        cores. `progress` gets the number of triples done so far, where a side counts half.
        Raises TrainingDiverged when a score is not finite.
        """
        threads = threads or default_threads()
        n, before = len(triples), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode(), ThreadPoolExecutor(threads) as pool:

                def of(side: Side, done: int) -> tuple[ranking.RankArray, ranking.RankArray]:
                    anchors, targets = triples.heads, triples.tails
                    if side is Side.HEAD:
                        anchors, targets = targets, anchors
                    keys = known[side].keys(anchors, triples.relations)
                    ranks, candidates = np.empty(n), np.empty(n)
                    size = self.block(memory_limit)
                    for lo in range(0, n, size):
                        part = slice(lo, min(lo + size, n))
                        scores = self.scores(self.queries(anchors[part], triples.relations[part], side)).cpu().numpy()
                        ranks[part], candidates[part] = ranking.filtered_ranks(
                            scores, targets[part], known[side], keys[part], allowed=alive, pool=pool, threads=threads
                        )
                        if progress is not None:
                            progress((done + part.stop) // 2)
                    return ranks, candidates

                (tail, tail_candidates), (head, head_candidates) = of(Side.TAIL, 0), of(Side.HEAD, n)
        finally:
            torch.set_num_threads(before)
        return Ranks(triples, head, tail, head_candidates, tail_candidates)

    def queries(self, anchors: IdArray, relations: IdArray, side: Side) -> Tensor:
        """Query vectors. shape: [B], [B] -> [B, D]"""
        if self.reciprocal and side is Side.HEAD:
            relations, side = relations + self.n_relations, Side.TAIL
        rows, anchor = self.relations[self._ids(relations)], self.entities[self._ids(anchors)]
        return self.scorer.project(anchor, self.scorer.prepare(rows), side, self.dense)

    def _ids(self, ids: IdArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids)).long().to(self.entities.device)

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

    def block(self, memory_limit: int) -> int:
        """How many queries to score at once, so that their scores stay under a number of bytes."""
        copies = 3 if self.scorer.similarity is EUCLID else 1
        return int(max(1, min(1024, memory_limit // (4 * copies * len(self.entities)))))


def _tiled(run: Callable[..., None], q: FloatArray, table: FloatArray, out: FloatArray) -> None:
    """Score in blocks of entities that stay in the cache for all queries."""
    step = max(16, 2**18 // max(1, table.shape[1] * 4))
    for lo in range(0, len(table), step):
        part = np.empty((len(q), min(step, len(table) - lo)), np.float32)
        run(q, table[lo : lo + step], part)
        out[:, lo : lo + step] = part
