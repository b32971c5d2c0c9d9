"""The peers that we compare with: PyKEEN, and DGL-KE's training scheme in plain torch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphlearn.types import Triples


class DglKeScheme:
    """DGL-KE's training step in plain torch: chunks of positives share negatives, autograd, row Adagrad.

    It replaces DGL-KE itself, which requires an old Python. One process, torch's own threads, logistic loss.
    """

    def __init__(self, model: str, entities: int, relations: int, dim: int, negatives: int, rate: float = 0.1) -> None:
        g = torch.Generator().manual_seed(0)
        self.model, self.negatives, self.rate = model, negatives, rate
        self.entities = torch.randn(entities, dim, generator=g) * 0.1
        width = dim // 2 if model == "rotate" else dim
        self.relations = torch.randn(relations, width, generator=g) * 0.1
        self.state = [torch.zeros(entities), torch.zeros(relations)]

    def _query(self, h: Tensor, r: Tensor) -> Tensor:
        if self.model == "transe":
            return h + r
        if self.model == "distmult":
            return h * r
        h_re, h_im = h.chunk(2, dim=-1)
        r_re, r_im = (r.cos(), r.sin()) if self.model == "rotate" else r.chunk(2, dim=-1)
        return torch.cat([h_re * r_re - h_im * r_im, h_re * r_im + h_im * r_re], dim=-1)

    def _pairs(self, q: Tensor, c: Tensor) -> Tensor:
        if self.model == "transe":
            return -torch.cdist(q, c, p=1.0)
        if self.model == "rotate":
            re, im = (q.unsqueeze(1) - c.unsqueeze(0)).chunk(2, dim=-1)
            return -torch.sqrt(re.square() + im.square() + 1e-12).sum(-1)
        return q @ c.T

    def _rows(self, q: Tensor, t: Tensor) -> Tensor:
        if self.model == "transe":
            return -(q - t).abs().sum(-1)
        if self.model == "rotate":
            re, im = (q - t).chunk(2, dim=-1)
            return -torch.sqrt(re.square() + im.square() + 1e-12).sum(-1)
        return (q * t).sum(-1)

    def step(self, heads: Tensor, relations: Tensor, tails: Tensor, chunk: int = 200) -> float:
        """Train on one batch with corrupted tails. Returns the loss."""
        rows = [
            x.detach().requires_grad_() for x in (self.entities[heads], self.relations[relations], self.entities[tails])
        ]
        query = self._query(rows[0], rows[1])
        loss = torch.nn.functional.softplus(-self._rows(query, rows[2])).sum()
        touched = [(heads, rows[0], 0), (relations, rows[1], 1), (tails, rows[2], 0)]
        for lo in range(0, len(heads), chunk):
            ids = torch.randint(len(self.entities), (self.negatives,))
            candidates = self.entities[ids].requires_grad_()
            scores = self._pairs(query[lo : lo + chunk], candidates)
            loss = loss + torch.nn.functional.softplus(scores).mean(1).sum()
            touched.append((ids, candidates, 0))
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for ids, leaf, which in touched:
                assert leaf.grad is not None
                table, state = (self.entities, self.relations)[which], self.state[which]
                state.index_add_(0, ids, leaf.grad.square().mean(1))
                table.index_add_(0, ids, leaf.grad / (state[ids].sqrt() + 1e-10).unsqueeze(1), alpha=-self.rate)
        return float(loss.detach())

    def speed(self, train: Triples, seconds: float, batch: int = 1000) -> float:
        """Triples per CPU-second."""
        rng = np.random.default_rng(0)
        columns = [torch.from_numpy(c).long() for c in (train.heads, train.relations, train.tails)]

        def one() -> None:
            rows = torch.from_numpy(rng.integers(0, len(train), batch))
            self.step(*(c[rows] for c in columns))

        one()
        started, count = time.process_time(), 0
        while time.process_time() - started < seconds:
            one()
            count += batch
        return count / (time.process_time() - started)


def pykeen_factory(splits: dict[str, Triples], entities: int, relations: int) -> dict[str, Any]:
    """PyKEEN triples factories from id triples."""
    from pykeen.triples import CoreTriplesFactory

    return {
        name: CoreTriplesFactory(
            torch.from_numpy(np.stack([t.heads, t.relations, t.tails], 1)).long(), entities, relations
        )
        for name, t in splits.items()
    }


def pykeen_speed(model: str, factories: dict[str, Any], dim: int, negatives: int, batch: int) -> float:
    """Triples per CPU-second of the second epoch of PyKEEN's sLCWA loop, over 2,048 triples."""
    from pykeen.models import ComplEx, DistMult, RotatE, TransE
    from pykeen.training import SLCWATrainingLoop
    from pykeen.triples import CoreTriplesFactory

    train = factories["train"]
    part = CoreTriplesFactory(train.mapped_triples[:2048], train.num_entities, train.num_relations)
    kinds = {"complex": ComplEx, "distmult": DistMult, "rotate": RotatE, "transe": TransE}
    extra = {"scoring_fct_norm": 1} if model == "transe" else {}
    real = dim // 2 if model in ("complex", "rotate") else dim
    net = kinds[model](triples_factory=part, embedding_dim=real, random_seed=0, **extra)
    loop = SLCWATrainingLoop(
        model=net,
        triples_factory=part,
        optimizer=torch.optim.Adagrad(net.parameters(), lr=0.1),
        automatic_memory_optimization=False,
        negative_sampler="basic",
        negative_sampler_kwargs={"num_negs_per_pos": negatives},
    )
    arguments = {"batch_size": batch, "use_tqdm": False, "use_tqdm_batch": False}
    loop.train(triples_factory=part, num_epochs=1, **arguments)
    started = time.process_time()
    loop.train(triples_factory=part, num_epochs=2, continue_training=True, **arguments)  # num_epochs: of both calls
    return 2048 / (time.process_time() - started)


def pykeen_evaluation_speed(model: str, factories: dict[str, Any], dim: int, triples: int) -> float:
    """Test triples per second of PyKEEN's filtered evaluation of both sides."""
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import ComplEx, RotatE, TransE

    kinds = {"complex": ComplEx, "rotate": RotatE, "transe": TransE}
    extra = {"scoring_fct_norm": 1} if model == "transe" else {}
    real = dim // 2 if model in ("complex", "rotate") else dim
    net = kinds[model](triples_factory=factories["train"], embedding_dim=real, random_seed=0, **extra)
    part = factories["test"].mapped_triples[:triples]
    known = [factories["train"].mapped_triples, factories["valid"].mapped_triples, factories["test"].mapped_triples]
    started = time.perf_counter()
    RankBasedEvaluator().evaluate(net, part, batch_size=16, additional_filter_triples=known, use_tqdm=False)
    return triples / (time.perf_counter() - started)
