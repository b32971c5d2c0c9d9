"""Batches drawn on the device of the tables: triples, negatives and the filter never leave the GPU.

The counterpart of `batches.Sampler`, with the same plan of steps. Everything random comes from (seed, epoch, step)
through the device's generator, so a resumed run repeats exactly on that device; a CPU draws other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.batches import Sampler
from graphlearn.models.kge.options import KgeOptions
from graphlearn.types import IdArray, Side, Triples


@dataclass(frozen=True)
class DeviceFilter:
    """`KnownAnswers` of one side on a device, as two sorted columns. shape: codes [Q], pairs [answers], int64

    A query is coded as anchor * n_relations + relation, a pair as (row of its query) * n_entities + answer.
    """

    codes: Tensor
    pairs: Tensor
    n_relations: int
    n_entities: int

    @staticmethod
    def of(known: KnownAnswers, n_entities: int, device: torch.device) -> DeviceFilter:
        """A copy of the answers on a device."""
        keys = np.repeat(np.arange(len(known), dtype=np.int64), np.diff(known.offsets))
        pairs = keys * n_entities + known.answers
        return DeviceFilter(
            torch.from_numpy(known.codes).to(device),
            torch.from_numpy(pairs).to(device),
            known.n_relations,
            n_entities,
        )

    def hidden(self, anchors: Tensor, relations: Tensor, candidates: Tensor) -> Tensor:
        """Which candidates are known answers of their query. shape: [B], [B], [B, N] -> bool [B, N]"""
        code = anchors * self.n_relations + relations
        place = torch.searchsorted(self.codes, code).clamp_max_(len(self.codes) - 1)
        asked = place.unsqueeze(1) * self.n_entities + candidates
        at = torch.searchsorted(self.pairs, asked).clamp_max_(len(self.pairs) - 1)
        return (self.pairs[at] == asked) & (self.codes[place] == code).unsqueeze(1)


@dataclass(frozen=True)
class DeviceBatch:
    """`batches.Batch` in tensors of the device (int64).

    `plain_relations` are the relations that the filter knows: those of inverse queries are not shifted.
    """

    anchors: Tensor
    relations: Tensor
    targets: Tensor
    side: Side
    candidates: Tensor
    plain_relations: Tensor
    filter: DeviceFilter | None

    @property
    def examples(self) -> int:
        """Queries of the step, each with one answer; with `sides = 'both'` a triple is two."""
        return len(self.targets)


class DeviceSampler:
    """Batches of an epoch with sampled negatives. Takes the arguments of `batches.Sampler`, and a device."""

    def __init__(
        self, train: Triples, n_entities: int, n_relations: int, options: KgeOptions, device: torch.device
    ) -> None:
        self.host = Sampler(train, n_entities, n_relations, options)
        self.options, self.n_entities, self.n_relations, self.device = options, n_entities, n_relations, device
        self.heads, self.relations, self.tails = (
            self._column(column) for column in (train.heads, train.relations, train.tails)
        )
        self.filters = {side: DeviceFilter.of(known, n_entities, device) for side, known in self.host.known.items()}
        self.cumulative: Tensor | None = None
        if self.host.cumulative is not None:
            self.cumulative = torch.from_numpy(self.host.cumulative).to(device)

    def _column(self, ids: IdArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids)).to(self.device, torch.int64)

    def steps(self, epoch: int) -> int:
        """Optimiser steps in an epoch."""
        return self.host.steps(epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[DeviceBatch]:
        """The batches of an epoch, from step `start` on."""
        orders: dict[Side, Tensor] = {}
        for step, (side, lo, hi) in enumerate(self.host.plan(epoch)):
            if side not in orders:
                generator = self._generator(epoch, 1 if side is Side.HEAD else 0)
                orders[side] = torch.randperm(len(self.heads), generator=generator, device=self.device)
            if step >= start:
                yield self._batch(orders[side][lo:hi], side, self._generator(epoch, 2 + step))

    def _generator(self, *place: int) -> torch.Generator:
        seed = int(np.random.SeedSequence([self.options.seed, *place]).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(self.device).manual_seed(seed)

    def _batch(self, rows: Tensor, side: Side, generator: torch.Generator) -> DeviceBatch:
        options = self.options
        heads, relations, tails = self.heads[rows], self.relations[rows], self.tails[rows]
        anchors, targets = (heads, tails) if side is Side.TAIL else (tails, heads)
        draws = -(-len(rows) // options.chunk_size) if options.negative_sampling == "shared" else len(rows)
        shape = (draws, options.negatives)
        if self.cumulative is None:
            candidates = torch.randint(self.n_entities, shape, generator=generator, device=self.device)
        else:
            drawn = torch.rand(shape, generator=generator, device=self.device, dtype=torch.float64)
            candidates = torch.searchsorted(self.cumulative, drawn, right=True).clamp_max_(self.n_entities - 1)
        shifted = relations + self.n_relations if options.reciprocal and side is Side.HEAD else relations
        asked = Side.TAIL if options.reciprocal else side
        return DeviceBatch(anchors, shifted, targets, asked, candidates, relations, self.filters.get(side))
