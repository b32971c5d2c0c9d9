"""The fast path on a CPU: a training step without autograd, in compiled kernels and matrix products.

A step has two phases. First the chunks of the batch are scored in parallel, each by one thread that reads the tables
and writes gradients to its own part of a buffer. Then the gradients of every row are summed in a fixed order and
applied, each thread taking its share of the rows. No thread reads what another writes, so results do not depend on the
number of threads and repeat bit for bit.

A query with N negatives costs 6 N D flops in matrix products, and 3 + N / chunk rows read and written.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.core.table import LocalTable
from graphlearn.models.kge.batches import Batch
from graphlearn.models.kge.engines.engine import Engine
from graphlearn.models.kge.kernels import table as table_kernels
from graphlearn.models.kge.losses import MASKED, sampled_loss
from graphlearn.models.kge.scorer import DOT, EUCLID, Scorer
from graphlearn.processors import default_threads
from graphlearn.types import FloatArray, IdArray, Side

T = TypeVar("T")


@dataclass
class Scratch:
    """Buffers of one worker. shape: q, dq: [chunk, D]; candidates: [N, D]; scores: [chunk, N]; positive: [chunk]"""

    q: FloatArray
    dq: FloatArray
    candidates: FloatArray
    scores: FloatArray
    positive: FloatArray
    places: IdArray
    """-1 for each entity; see `mask_known`. Empty without a filter."""


class FusedEngine(Engine):
    """Shared negatives, any model with a query kernel, no dropout."""

    sampling: ClassVar[str] = "shared"

    @classmethod
    def can_run(cls, scorer: Scorer) -> bool:
        """Whether the step covers the scorer with its options."""
        options = scorer.options
        dropout = options.entity_dropout or options.relation_dropout or options.query_dropout
        sampled = options.negatives > 0 and options.negative_sampling == cls.sampling
        return scorer.fused is not None and sampled and not dropout

    def __init__(self, scorer: Scorer, n_entities: int, n_relations: int, device: torch.device) -> None:
        super().__init__(scorer, n_entities, n_relations, device)
        options = self.options
        self.workers = options.threads or default_threads()
        self._pool = ThreadPoolExecutor(self.workers - 1) if self.workers > 1 else None
        self._torch_threads = torch.get_num_threads()
        B, C = options.batch_size, min(options.chunk_size, options.batch_size)
        N, D = options.negatives, scorer.entity_width
        self._relation_gradient = np.empty((B, scorer.prepared_width), np.float32)
        self._scratch = [
            Scratch(
                np.empty((C, D), np.float32),
                np.empty((C, D), np.float32),
                np.empty((self._scratch_candidates(), D), np.float32),
                np.empty((C, N), np.float32),
                np.empty(C, np.float32),
                np.empty(0, np.int32),
            )
            for _ in range(self.workers)
        ]
        self._fit()

    def grow(self, n_entities: int, n_relations: int) -> None:
        super().grow(n_entities, n_relations)
        self._fit()

    @property
    def _gradient_rows(self) -> int:
        """Rows of gradients of entities in a step: of anchors, targets and candidates."""
        B, C = self.options.batch_size, min(self.options.chunk_size, self.options.batch_size)
        return 2 * B + -(-B // C) * self.options.negatives

    def _scratch_candidates(self) -> int:
        """Candidates that a worker copies from the table."""
        return self.options.negatives

    def _fit(self) -> None:
        """What depends on the sizes of the tables."""
        rows = self._gradient_rows
        self._entity_gradient = np.empty((rows, self.scorer.entity_width), np.float32)
        self._chains = [np.empty(rows, np.int32) for _ in range(2)]
        self._loss = sampled_loss(self.options, self.n_entities)
        self._first_entity = np.full(len(self.entities), -1, np.int32)
        self._first_relation = np.full(len(self.relations), -1, np.int32)
        for scratch in self._scratch if self.options.filter_negatives else []:
            scratch.places = np.full(len(self.entities), -1, np.int32)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._torch_threads)

    def step(self, batch: Batch, rate: float) -> float:
        torch.set_num_threads(1)
        B = len(batch.targets)
        prepared, relation_rows, leaf, leaf_ids = self._prepare(batch)
        size = self.options.chunk_size
        chunks = [(c, lo, min(lo + size, B)) for c, lo in enumerate(range(0, B, size))]

        def score(worker: int) -> list[float]:
            scratch = self._scratch[worker]
            return [self._chunk(batch, scratch, prepared, relation_rows, c) for c in chunks[worker :: self.workers]]

        losses = self._everywhere(score)
        ids = np.concatenate([batch.anchors, batch.targets, self._candidate_rows(batch)])
        self._move(self.entities, ids, self._entity_gradient, self._first_entity, rate)
        g = self._relation_gradient[:B]
        if leaf is None:
            self._move(self.relations, relation_rows, g, self._first_relation, rate)
        else:
            self._move_prepared(relation_rows, g, leaf, leaf_ids, rate)
        return float(sum(losses[c % self.workers][c // self.workers] for c in range(len(chunks))))

    def _candidate_rows(self, batch: Batch) -> IdArray:
        """The ids of the candidates, in the order of their gradients, which follow those of anchors and targets."""
        return batch.candidates.ravel()

    def _prepare(self, batch: Batch) -> tuple[FloatArray, IdArray, tuple[Tensor, Tensor] | None, IdArray]:
        """Prepared relation table, row of each query in it, (leaf, prepared) for autograd, ids of the leaf's rows."""
        if not self.scorer.prepares:
            return self.relations.array, batch.relations, None, batch.relations
        ids, rows = np.unique(batch.relations, return_inverse=True)
        leaf = self.relations.gather(torch.from_numpy(ids).long()).requires_grad_()
        prepared = self.scorer.prepare(leaf)
        return prepared.detach().numpy(), rows.astype(np.int32), (leaf, prepared), ids

    def _chunk(
        self,
        batch: Batch,
        scratch: Scratch,
        prepared: FloatArray,
        relation_rows: IdArray,
        chunk: tuple[int, int, int],
    ) -> float:
        """Loss of the queries of a chunk (its number, first and end row); their gradients go to the buffers."""
        assert self.scorer.fused is not None
        forward, backward = self.scorer.fused
        _, lo, hi = chunk
        B, n = len(batch.targets), hi - lo
        table = self.entities.array
        anchors, targets, relations = batch.anchors[lo:hi], batch.targets[lo:hi], relation_rows[lo:hi]
        flip = 1.0 if batch.side is Side.TAIL else -1.0
        q, dq, scores, positive = scratch.q[:n], scratch.dq[:n], scratch.scores[:n], scratch.positive[:n]
        d_anchors, d_targets = self._entity_gradient[lo:hi], self._entity_gradient[B + lo : B + hi]

        forward(table, prepared, anchors, relations, flip, q)
        row_kernel, row_vjp = self.scorer.similarity.row_kernel
        row_kernel(q, table, targets, positive)
        self._score(batch, scratch, chunk, q, scores)
        kept = scores.copy() if self.scorer.similarity is EUCLID else scores
        loss, d_positive, d_scores = self._loss.gradient(torch.from_numpy(positive), torch.from_numpy(scores))
        self._score_vjp(batch, scratch, chunk, q, kept, d_scores, dq)
        row_vjp(q, table, targets, d_positive.numpy(), dq, d_targets)
        if self.options.regularizer == "dura" and self.options.regularization:
            loss += self.options.regularization * float(np.vdot(q, q))
            dq += np.float32(2 * self.options.regularization) * q
        backward(table, prepared, anchors, relations, flip, dq, d_anchors, self._relation_gradient[lo:hi])
        weight = self.options.regularization
        if weight:
            penalty = table_kernels.cubic_penalty if self.options.regularizer == "n3" else table_kernels.square_penalty
            paired = self.scorer.paired
            loss += penalty(table, anchors, weight, paired, d_anchors)
            loss += penalty(table, targets, weight, paired, d_targets)
            if self.options.regularizer != "dura" and not self.scorer.prepares:
                loss += penalty(self.relations.array, relations, weight, paired, self._relation_gradient[lo:hi])
        return loss

    def _score(
        self, batch: Batch, scratch: Scratch, chunk: tuple[int, int, int], q: FloatArray, scores: FloatArray
    ) -> None:
        """Scores of the negatives; known answers get the score MASKED. shape: [n, D] -> [n, N]"""
        c, lo, hi = chunk
        table_kernels.gather(self.entities.array, batch.candidates[c], scratch.candidates)
        self._pairs(q, scratch.candidates, scores)
        if batch.keys is not None and batch.known is not None:
            known = batch.known
            table_kernels.mask_known(
                batch.keys[lo:hi], known.offsets, known.answers, batch.candidates[c], scratch.places, scores, MASKED
            )

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
        """Overwrite `dq`, and note what the gradients of the candidates need. shape: [n, D], [n, N] x 2 -> [n, D]"""
        B, N, c = len(batch.targets), self.options.negatives, chunk[0]
        d_candidates = self._entity_gradient[2 * B + c * N : 2 * B + (c + 1) * N]
        self._pairs_vjp(q, scratch.candidates, d_scores, scores, dq, d_candidates)

    def _pairs(self, q_BD: FloatArray, c_ND: FloatArray, scores_BN: FloatArray) -> None:
        similarity = self.scorer.similarity
        if similarity.pair_kernel is not None:
            similarity.pair_kernel[0](q_BD, c_ND, scores_BN)
            return
        q, c, out = torch.from_numpy(q_BD), torch.from_numpy(c_ND), torch.from_numpy(scores_BN)
        if similarity is EUCLID:
            out.copy_(similarity.pairs(q, c))
        elif self.options.precision == "bfloat16":
            out.copy_(q.bfloat16() @ c.bfloat16().T)
        else:
            torch.mm(q, c.T, out=out)

    def _pairs_vjp(
        self,
        q_BD: FloatArray,
        c_ND: FloatArray,
        d_scores: Tensor,
        scores_BN: FloatArray,
        dq_BD: FloatArray,
        dc_ND: FloatArray,
    ) -> None:
        similarity = self.scorer.similarity
        if similarity.pair_kernel is not None:
            similarity.pair_kernel[1](q_BD, c_ND, d_scores.numpy(), dq_BD, dc_ND)
            return
        q, c, dq, dc = (torch.from_numpy(x) for x in (q_BD, c_ND, dq_BD, dc_ND))
        if similarity is EUCLID:
            w = d_scores / torch.from_numpy(scores_BN)
            torch.mm(w, c, out=dq).neg_().addcmul_(w.sum(1, keepdim=True), q)
            torch.mm(w.T, q, out=dc).neg_().addcmul_(w.sum(0).unsqueeze(1), c)
        elif similarity is DOT and self.options.precision == "bfloat16":
            g = d_scores.bfloat16()
            dq.copy_(g @ c.bfloat16())
            dc.copy_(g.T @ q.bfloat16())
        else:
            torch.mm(d_scores, c, out=dq)
            torch.mm(d_scores.T, q, out=dc)

    def _move(self, table: LocalTable, ids: IdArray, g: FloatArray, first: IdArray, rate: float) -> None:
        following, unique = self._chains[0][: len(ids)], self._chains[1][: len(ids)]
        n = table_kernels.link(ids, first, following, unique)
        table.begin()

        def share(worker: int) -> None:
            lo, hi = n * worker // self.workers, n * (worker + 1) // self.workers
            table_kernels.collect(unique, lo, hi, first, following, g)
            table.update_rows(ids, unique, lo, hi, g, rate)

        self._everywhere(share)

    def _move_prepared(
        self, rows: IdArray, g: FloatArray, pair: tuple[Tensor, Tensor], ids: IdArray, rate: float
    ) -> None:
        leaf, prepared = pair
        summed = torch.zeros_like(prepared).index_add_(0, torch.from_numpy(rows).long(), torch.from_numpy(g))
        prepared.backward(summed)  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        self.relations.push(torch.from_numpy(ids), leaf.grad, rate)

    def _everywhere(self, work: Callable[[int], T]) -> list[T]:
        """Run `work(worker)` for every worker, this thread included; results in worker order."""
        if self._pool is None:
            return [work(0)]
        others = [self._pool.submit(work, w) for w in range(1, self.workers)]
        mine = work(0)
        return [mine, *(o.result() for o in others)]
