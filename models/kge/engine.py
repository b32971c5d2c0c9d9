"""The tables of a model and one optimiser step on them.

`AutogradEngine` runs every model on every device and is the reference; `FusedEngine` (fused.py) is the fast path of a
CPU. `make_engine` chooses. Both draw the same batches and, under one seed, follow the same loss curve.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.core.device import choose_device
from graphlearn.models.kge.batches import Batch, table_rows
from graphlearn.models.kge.device_batches import DeviceBatch
from graphlearn.models.kge.losses import MASKED, one_vs_all_loss, sampled_loss
from graphlearn.models.kge.optimisers import RowOptimiser
from graphlearn.models.kge.scorer import DOT, Scorer
from graphlearn.types import IdArray, Side


class Engine(ABC):
    """Entity table [E, D], relation table [R, width] and dense parameters, with their optimiser state."""

    def __init__(self, scorer: Scorer, n_entities: int, n_relations: int, device: torch.device) -> None:
        self.scorer, self.options, self.device = scorer, scorer.options, device
        self.n_entities, self.n_relations = n_entities, n_relations
        generator = torch.Generator().manual_seed(self.options.seed)
        self.entities = scorer.initial_entities(n_entities, generator).to(device)
        self.relations = scorer.initial_relations(table_rows(n_relations, self.options), generator).to(device)
        self.dense = {name: value.to(device) for name, value in scorer.initial_dense(generator).items()}
        kind = self.options.optimizer
        self.optimisers = {name: RowOptimiser(kind, table) for name, table in self.weights().items()}

    def weights(self) -> dict[str, Tensor]:
        """Everything that is learnt, by name."""
        return {"entities": self.entities, "relations": self.relations, **self.dense}

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state, flat: what a checkpoint holds."""
        out = dict(self.weights())
        for name, optimiser in self.optimisers.items():
            out |= {f"optimiser.{name}.{key}": value for key, value in optimiser.state.items()}
        return out

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy weights, and optimiser state where given, into place."""
        for name, value in self.state().items():
            if name in tensors:
                value.copy_(tensors[name])

    @abstractmethod
    def step(self, batch: Batch, rate: float) -> float | Tensor:
        """One optimiser step; returns the sum of the losses and penalties of its training examples.

        A tensor of the device where reading it at once would make the device wait.
        """

    def close(self) -> None:  # noqa: B027
        """Give back threads, where the engine has any."""


class AutogradEngine(Engine):
    """Scores, losses and penalties as torch computes them, with gradients for the touched rows only."""

    def step(self, batch: Batch | DeviceBatch, rate: float) -> float | Tensor:
        for optimiser in self.optimisers.values():
            optimiser.begin()
        dropouts = (self.options.entity_dropout, self.options.relation_dropout, self.options.query_dropout)
        if any(dropouts):
            steps = int(self.optimisers["entities"].state["steps"])
            torch.manual_seed(self.options.seed * 1_000_003 + steps)
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
        rows = self.entities[ids].requires_grad_()
        relation_rows = self.relations[relation_ids].requires_grad_()
        dense = {name: value.detach().requires_grad_() for name, value in self.dense.items()}
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
        self._apply("entities", ids, rows, rate)
        self._apply("relations", relation_ids, relation_rows, rate)
        for name, value in dense.items():
            self._apply(name, None, value, rate)
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

    def _apply(self, name: str, ids: Tensor | None, leaf: Tensor, rate: float) -> None:
        if leaf.grad is None:
            return
        with torch.no_grad():
            if ids is None or self.device.type != "cpu":
                self.optimisers[name].update(ids, leaf.grad, rate)
            else:  # one pass over the rows in place of ten
                rows = ids.numpy()
                every = np.arange(len(rows))
                self.optimisers[name].update_fused(rows, every, 0, len(rows), leaf.grad.contiguous().numpy(), rate)

    def _all(self, batch: Batch, rate: float) -> float:
        """1-vs-all: autograd for queries, products by hand for the scores, so that one [B, E] array lives."""
        assert batch.known is not None
        assert batch.keys is not None
        anchors = self._tensor(batch.anchors)
        rows, answers = batch.known.rows(batch.keys)
        row_ids, answer_ids = self._tensor(rows), self._tensor(answers)
        counts_B = torch.bincount(row_ids, minlength=len(anchors)).float()
        relation_ids, relation_inverse = torch.unique(self._tensor(batch.relations), return_inverse=True)
        anchor_BD = self.entities[anchors].requires_grad_()
        relation_rows = self.relations[relation_ids].requires_grad_()
        dense = {name: value.detach().requires_grad_() for name, value in self.dense.items()}
        query_BD = self._queries(anchor_BD, relation_rows, relation_inverse, batch.side, dense)
        entities = self.entities.clone() if self.scorer.similarity is not DOT else self.entities
        if self.scorer.similarity is DOT:
            half = self.options.precision == "bfloat16"
            q, table = (query_BD.detach().bfloat16(), entities.bfloat16()) if half else (query_BD.detach(), entities)
            loss, weights = one_vs_all_loss(self.options).gradient(q @ table.T, row_ids, answer_ids, counts_B)
            query_gradient = (weights @ table).float()
            table_gradient = (weights.T @ q).float()
        else:
            leaf_q, leaf_e = query_BD.detach().requires_grad_(), entities.requires_grad_()
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
            target_BD = self.entities[answer_ids].requires_grad_()
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
            self._update_all(table_gradient, rate)
        self._apply("relations", relation_ids, relation_rows, rate)
        for name, value in dense.items():
            self._apply(name, None, value, rate)
        return loss + float(penalty.detach())

    def _update_all(self, gradient: Tensor, rate: float) -> None:
        optimiser = self.optimisers["entities"]
        if self.device.type != "cpu":
            optimiser.update(None, gradient, rate)
            return
        every = np.arange(self.n_entities, dtype=np.int32)
        optimiser.update_fused(every, every, 0, self.n_entities, gradient.numpy(), rate)


def make_engine(scorer: Scorer, n_entities: int, n_relations: int) -> Engine:
    """The fastest engine that can run the scorer with its options on the chosen device."""
    from graphlearn.models.kge.fused import FusedEngine

    device = choose_device(scorer.options.device)
    if device.type == "cpu" and FusedEngine.can_run(scorer):
        return FusedEngine(scorer, n_entities, n_relations, device)
    return AutogradEngine(scorer, n_entities, n_relations, device)
