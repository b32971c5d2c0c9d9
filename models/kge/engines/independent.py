"""The fast path on a CPU for independent negatives: each query is compared with candidates of its own.

Like the fused step, but candidates are read from the table where they lie. After all queries are scored, each distinct
candidate sums its gradient over the queries that drew it, so that no array of shape [queries, negatives, width] exists.
A query with N negatives costs 6 N D flops and reads 3 N rows.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from graphlearn.models.kge.batches import Batch
from graphlearn.models.kge.engines.fused import FusedEngine, Scratch
from graphlearn.models.kge.kernels import table as table_kernels
from graphlearn.models.kge.kernels.independent import mask_known_each
from graphlearn.models.kge.losses import MASKED
from graphlearn.types import FloatArray, IdArray


class IndependentEngine(FusedEngine):
    """Independent negatives, any model with a query kernel, no dropout."""

    sampling = "independent"

    def _fit(self) -> None:
        super()._fit()
        options = self.options
        B, N = options.batch_size, options.negatives
        self._kernels = self.scorer.similarity.independent_kernels
        self._queries = np.empty((B, self.scorer.entity_width), np.float32)
        self._d_scores = np.empty((B, N), np.float32)
        self._links = [np.empty(B * N, np.int32) for _ in range(2)]

    @property
    def _gradient_rows(self) -> int:
        options = self.options
        return 2 * options.batch_size + min(options.batch_size * options.negatives, self.n_entities)

    def _scratch_candidates(self) -> int:
        return 0

    def _score(
        self, batch: Batch, scratch: Scratch, chunk: tuple[int, int, int], q: FloatArray, scores: FloatArray
    ) -> None:
        _, lo, hi = chunk
        candidates = batch.candidates[lo:hi]
        self._kernels.scores(q, self.entities.array, candidates, scores)
        self._queries[lo:hi] = q
        if batch.keys is not None and batch.known is not None:
            known = batch.known
            mask_known_each(batch.keys[lo:hi], known.offsets, known.answers, candidates, scores, MASKED)

    def _score_vjp(
        self,
        batch: Batch,
        scratch: Scratch,
        chunk: tuple[int, int, int],
        q: FloatArray,
        scores: FloatArray,
        d_scores: Tensor,
        dq: FloatArray,
    ) -> None:
        _, lo, hi = chunk
        self._d_scores[lo:hi] = d_scores.numpy()
        self._kernels.queries_vjp(q, self.entities.array, batch.candidates[lo:hi], self._d_scores[lo:hi], dq)

    def _candidate_rows(self, batch: Batch) -> IdArray:
        B, N = batch.candidates.shape
        following, unique = (link[: B * N] for link in self._links)
        n = table_kernels.link(batch.candidates.ravel(), self._first_entity, following, unique)
        d_candidates = self._entity_gradient[2 * B : 2 * B + n]

        def share(worker: int) -> None:
            lo, hi = n * worker // self.workers, n * (worker + 1) // self.workers
            self._kernels.candidates_vjp(
                self._queries,
                self.entities.array,
                unique,
                lo,
                hi,
                self._first_entity,
                following,
                self._d_scores[:B],
                d_candidates,
            )

        self._everywhere(share)
        return unique[:n]
