"""Every model on every device: scores, losses and penalties in torch. The reference that faster engines are held to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.core.table import Table
from graphlearn.models.kge.batches import Batch
from graphlearn.models.kge.device_batches import DeviceBatch
from graphlearn.models.kge.engines.engine import Engine
from graphlearn.models.kge.losses import MASKED, one_vs_all_loss, sampled_loss
from graphlearn.models.kge.scorer import DOT
from graphlearn.types import IdArray, Side


class AutogradEngine(Engine):
    """Gradients of the touched rows only; with `negatives` = 0, of every entity."""

    def step(self, batch: Batch | DeviceBatch, rate: float) -> float | Tensor:
        dropouts = (self.options.entity_dropout, self.options.relation_dropout, self.options.query_dropout)
        if any(dropouts):
            torch.manual_seed((self.options.seed * 1_000_003 + int(self.entities.steps) + 1) % (1 << 64))
        if isinstance(batch, Batch) and batch.candidates.size == 0:
            return self._all(batch, rate)
        return self._sampled(batch, rate)

    def _tensor(self, ids: IdArray | Tensor) -> Tensor:
        if isinstance(ids, Tensor):
            return ids
        return torch.from_numpy(np.ascontiguousarray(ids)).to(self.device, torch.int64)

    def _queries(
        self, anchors: Tensor, relations: Tensor, rows: Tensor, side: Side, dense: dict[str, Tensor]
    ) -> Tensor:
        options = self.options
        anchors = F.dropout(anchors, options.entity_dropout)
        relations = F.dropout(self.scorer.prepare(relations), options.relation_dropout)
        return F.dropout(self.scorer.queries(anchors, relations, rows, side, dense), options.query_dropout)

    def _penalty(self, rows: Tensor, weights: Tensor | float = 1.0) -> Tensor:
        if self.options.regularizer in ("l2", "dura"):
            return (rows.square().sum(-1) * weights).sum() * self.options.regularization
        if self.scorer.paired:
            re, im = rows.chunk(2, dim=-1)
            size = (re.square() + im.square() + 1e-30).pow(1.5)
        else:
            size = rows.abs().pow(3)
        return (size.sum(-1) * weights).sum() * self.options.regularization

    def _sampled(self, batch: Batch | DeviceBatch, rate: float) -> float | Tensor:
        options = self.options
        anchors, targets = self._tensor(batch.anchors), self._tensor(batch.targets)
        candidates = self._tensor(batch.candidates)
        ids, inverse = torch.unique(torch.cat([anchors, targets, candidates.flatten()]), return_inverse=True)
        relation_ids, relation_inverse = torch.unique(self._tensor(batch.relations), return_inverse=True)
        rows = self.entities.gather(ids).requires_grad_()
        relation_rows = self.relations.gather(relation_ids).requires_grad_()
        dense = self._dense()
        B = len(anchors)
        anchor_BD, target_BD = rows[inverse[:B]], rows[inverse[B : 2 * B]]
        candidate_rows = inverse[2 * B :].view(candidates.shape)
        query_BD = self._queries(anchor_BD, relation_rows, relation_inverse, batch.side, dense)
        positive_B = self.scorer.similarity.rows(query_BD, target_BD)
        criterion = sampled_loss(options, self.n_entities)
        total = torch.zeros((), device=self.device)
        for c, lo in enumerate(range(0, B, options.chunk_size)):
            part = slice(lo, min(lo + options.chunk_size, B))
            if options.negative_sampling == "shared":
                scores = self._pairs(query_BD[part], rows[candidate_rows[c]])
                chosen = batch.candidates[c]
            else:
                query = query_BD[part].unsqueeze(1)
                scores = self.scorer.similarity.rows(query, rows[candidate_rows[part]])
                chosen = batch.candidates[part]
            hidden = self._hidden(batch, part, chosen)
            if hidden is not None:
                scores = scores.masked_fill(hidden, MASKED)
            total = total + criterion.value(positive_B[part], scores)
        if options.regularization:
            total = total + self._penalty(anchor_BD) + self._penalty(target_BD)
            if options.regularizer == "dura":
                total = total + self._penalty(query_BD)
            elif not self.scorer.prepares:
                total = total + self._penalty(relation_rows, torch.bincount(relation_inverse).float())
        total.backward()  # type: ignore[no-untyped-call]
        _push(self.entities, ids, rows, rate)
        self._push_parameters(relation_ids, relation_rows, dense, rate)
        return float(total.detach()) if self.device.type == "cpu" else total.detach().double()

    def _hidden(self, batch: Batch | DeviceBatch, part: slice, chosen: IdArray | Tensor) -> Tensor | None:
        """Which candidates are known answers of their query; None without a filter. shape: [N] or [B, N] -> [B, N]"""
        if isinstance(batch, DeviceBatch):
            if batch.filter is None:
                return None
            asked_for = self._tensor(chosen).expand(part.stop - part.start, -1)
            return batch.filter.hidden(batch.anchors[part], batch.plain_relations[part], asked_for)
        if batch.keys is None or batch.known is None:
            return None
        chosen = np.broadcast_to(np.asarray(chosen), (part.stop - part.start, np.shape(chosen)[-1]))
        rows, answers = batch.known.rows(batch.keys[part])
        stride = np.int64(self.n_entities)
        taken = np.unique(rows * stride + answers)
        asked = np.arange(chosen.shape[0])[:, None] * stride + chosen
        return torch.from_numpy(np.isin(asked, taken)).to(self.device)

    def _pairs(self, query: Tensor, candidates: Tensor) -> Tensor:
        if self.options.precision == "bfloat16" and self.scorer.similarity is DOT:
            return (query.bfloat16() @ candidates.bfloat16().T).float()
        return self.scorer.similarity.pairs(query, candidates)

    def _dense(self) -> dict[str, Tensor]:
        return {name: table.weights.detach().requires_grad_() for name, table in self.dense.items()}

    def _push_parameters(self, ids: Tensor, relations: Tensor, dense: dict[str, Tensor], rate: float) -> None:
        _push(self.relations, ids, relations, rate)
        for name, value in dense.items():
            assert value.grad is not None
            self.dense[name].push(None, value.grad, rate)

    def _all(self, batch: Batch, rate: float) -> float:
        """1-vs-all: autograd for queries, products by hand for scores, so that there is only one [B, E] array."""
        assert batch.known is not None
        assert batch.keys is not None
        anchors = self._tensor(batch.anchors)
        rows, answers = batch.known.rows(batch.keys)
        row_ids, answer_ids = self._tensor(rows), self._tensor(answers)
        counts_B = torch.bincount(row_ids, minlength=len(anchors)).float()
        relation_ids, relation_inverse = torch.unique(self._tensor(batch.relations), return_inverse=True)
        anchor_BD = self.entities.gather(anchors).requires_grad_()
        relation_rows = self.relations.gather(relation_ids).requires_grad_()
        dense = self._dense()
        query_BD = self._queries(anchor_BD, relation_rows, relation_inverse, batch.side, dense)
        entities = self.entities.weights
        if self.scorer.similarity is DOT:
            half = self.options.precision == "bfloat16"
            q, table = (query_BD.detach().bfloat16(), entities.bfloat16()) if half else (query_BD.detach(), entities)
            loss, weights = one_vs_all_loss(self.options).gradient(q @ table.T, row_ids, answer_ids, counts_B)
            query_gradient = (weights @ table).float()
            table_gradient = (weights.T @ q).float()
        else:
            leaf_q, leaf_e = query_BD.detach().requires_grad_(), entities.clone().requires_grad_()
            scores = self.scorer.similarity.pairs(leaf_q, leaf_e)
            loss, weights = one_vs_all_loss(self.options).gradient(
                scores.detach().clone(), row_ids, answer_ids, counts_B
            )
            scores.backward(weights)  # type: ignore[no-untyped-call]
            assert leaf_q.grad is not None
            assert leaf_e.grad is not None
            query_gradient, table_gradient = leaf_q.grad, leaf_e.grad
        penalty = torch.zeros((), device=self.device)
        target_BD = None
        if self.options.regularization:
            target_BD = self.entities.gather(answer_ids).requires_grad_()
            penalty = self._penalty(anchor_BD, counts_B) + self._penalty(target_BD)
            if self.options.regularizer == "dura":
                penalty = penalty + self._penalty(query_BD, counts_B)
            elif not self.scorer.prepares:
                times = torch.zeros(len(relation_rows), device=self.device).index_add_(0, relation_inverse, counts_B)
                penalty = penalty + self._penalty(relation_rows, times)
        torch.autograd.backward(
            [query_BD, penalty] if target_BD is not None else [query_BD],
            [query_gradient, torch.ones_like(penalty)] if target_BD is not None else [query_gradient],
        )
        with torch.no_grad():
            assert anchor_BD.grad is not None
            table_gradient.index_add_(0, anchors, anchor_BD.grad)
            if target_BD is not None:
                assert target_BD.grad is not None
                table_gradient.index_add_(0, answer_ids, target_BD.grad)
            self.entities.push(None, table_gradient, rate)
        self._push_parameters(relation_ids, relation_rows, dense, rate)
        return loss + float(penalty.detach())


def _push(table: Table, ids: Tensor, rows: Tensor, rate: float) -> None:
    """Move the gathered rows against their gradients."""
    assert rows.grad is not None
    table.push(ids, rows.grad, rate)
