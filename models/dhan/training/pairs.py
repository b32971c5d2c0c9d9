"""Shared by link ranking and unsupervised embeddings: contrasting true pairs of nodes with random ones.

An edge carries no messages in the step that learns from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.dhan.graph.edges import build_blocks, edge_index
from graphlearn.models.dhan.network.batch import Batch
from graphlearn.models.dhan.training.training import HeteroTraining
from graphlearn.types import BoolArray, IdArray

CHUNKS = 5
"""Steps per epoch on the whole graph: each learns from a fifth of the edges and passes messages along the others."""


def contrast(scores: Tensor, own: Tensor, same: Tensor) -> Tensor:
    """Cross entropy of each true pair against random nodes shared by all pairs. shape: [B, K], [B], [B, K] bool -> []

    `same` marks random nodes that equal the true one.
    """
    logits = torch.cat([own[:, None], scores.masked_fill(same, -1e30)], 1)
    return F.cross_entropy(logits, torch.zeros(len(own), dtype=torch.int64, device=own.device))


class PairTraining(HeteroTraining):
    """learnt: by relation, the edges to learn from."""

    learnt: dict[str, IdArray]

    @property
    def steps_per_epoch(self) -> int:
        """CHUNKS on the whole graph, else one per batch of edges."""
        total = sum(len(e) for e in self.learnt.values())
        if self.sampler is None:
            return min(CHUNKS, total)
        return math.ceil(total / self.options.batch_size)

    def chunk(self, epoch: int, step: int) -> dict[str, IdArray]:
        """By relation, the edges that a step learns from."""
        out, steps = {}, self.steps_per_epoch
        for r, edges in enumerate(self.learnt.values()):
            order = np.random.default_rng([self.options.seed, 3, epoch, r]).permutation(len(edges))
            lo, hi = step * len(edges) // steps, (step + 1) * len(edges) // steps
            out[list(self.learnt)[r]] = np.sort(edges[order[lo:hi]])
        return out

    def _masked(self, chunk: Mapping[str, IdArray]) -> dict[str, BoolArray]:
        out = {}
        for name, edges in chunk.items():
            mask = np.zeros(len(self.graph.relation(name)), np.bool_)
            mask[edges] = True
            out[name] = mask
        return out

    def states_without(
        self,
        seeds: Mapping[str, IdArray],
        chunk: Mapping[str, IdArray],
        rng: np.random.Generator,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """States of the seeds (ascending, no repeats) by type, without messages along the edges of the chunk."""
        banned, wanted = self._masked(chunk), tuple(seeds)
        if self.sampler is not None:
            batch, _ = self.sampled_batch(seeds, rng, banned)
            states = self.encoder(batch, wanted, generator)
            return {t: states[t][: len(ids)] for t, ids in seeds.items()}
        edges = {}
        for c in self.channels:
            keep = self.kept.get(c.relation)
            if c.relation in banned:
                free = ~banned[c.relation]
                keep = free if keep is None else keep & free
            edges[c] = self.edges[c] if c.relation not in banned else edge_index(self.graph, c, keep)
        blocks = build_blocks(self.channels, edges, self.counts, self.device)
        states = self.encoder(Batch(self.full_batch().columns, blocks), wanted, generator)
        return {t: states[t][torch.from_numpy(ids).to(self.device)] for t, ids in seeds.items()}
