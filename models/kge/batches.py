"""What a training step sees: the order of queries and the negatives of an epoch.

Everything random comes from (seed, epoch, step), so any step can be reproduced without the steps before it: a resumed
run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.options import KgeOptions
from graphlearn.types import BoolArray, FloatArray, IdArray, Side, Triples


@dataclass(frozen=True)
class Batch:
    """Queries of one optimiser step. shape: anchors, relations, targets: [B]; candidates: [chunks, N] or [B, N].

    `side` is the end that is asked for; `relations` are rows of the relation table (inverse relations follow all
    others). `keys` are the keys of the queries in `known`, for masking or for 1-vs-all answers; None when negatives are
    not filtered.
    """

    anchors: IdArray
    relations: IdArray
    targets: IdArray
    side: Side
    candidates: IdArray
    keys: IdArray | None
    known: KnownAnswers | None

    @property
    def examples(self) -> int:
        """Queries of the step, each with one answer; with `sides = 'both'` a triple is two."""
        return len(self.targets)


class Sampler:
    """Batches of an epoch over training triples, with `options.negatives` shared or independent negatives."""

    def __init__(self, train: Triples, n_entities: int, n_relations: int, options: KgeOptions) -> None:
        self.train, self.n_entities, self.n_relations, self.options = train, n_entities, n_relations, options
        self.known: dict[Side, KnownAnswers] = {}
        if options.filter_negatives or options.negatives == 0:
            for side in self._sides():
                self.known[side] = KnownAnswers.of([train], side, n_relations)
        self.cumulative: FloatArray | None = None
        if options.degree_exponent and options.negatives:
            degree = np.bincount(train.heads, minlength=n_entities) + np.bincount(train.tails, minlength=n_entities)
            weight = np.maximum(degree, 1).astype(np.float64) ** options.degree_exponent
            self.cumulative = np.cumsum(weight / weight.sum())

    def _sides(self) -> list[Side]:
        sides = self.options.sides
        return [Side(sides)] if sides in ("head", "tail") else [Side.TAIL, Side.HEAD]

    @property
    def queries_per_epoch(self) -> int:
        """Rows of scores in an epoch: queries, or distinct queries for 1-vs-all."""
        if self.options.negatives == 0:
            return sum(len(self.known[s]) for s in self._sides()) // (2 if self.options.sides == "alternate" else 1)
        return len(self.train) * (2 if self.options.sides == "both" else 1)

    def steps(self, epoch: int) -> int:
        """Optimiser steps in an epoch."""
        return sum(1 for _ in self.plan(epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on."""
        orders: dict[Side, IdArray] = {}
        for step, (side, lo, hi) in enumerate(self.plan(epoch)):
            if side not in orders:
                rng = np.random.default_rng([self.options.seed, epoch, 1 if side is Side.HEAD else 0])
                orders[side] = rng.permutation(self._rows(side))
            if step >= start:
                rows = orders[side][lo:hi]
                yield self._all(rows, side) if self.options.negatives == 0 else self._sampled(rows, side, epoch, step)

    def _rows(self, side: Side) -> int:
        return len(self.known[side]) if self.options.negatives == 0 else len(self.train)

    def plan(self, epoch: int) -> Iterator[tuple[Side, int, int]]:
        """(side, first row, end row) of each step. Sides take turns; with `alternate` each gets half of the rows."""
        size = self.options.batch_size
        sides = self._sides()
        for k in range(-(-max(self._rows(s) for s in sides) // size)):
            turn = [sides[(k + epoch) % 2]] if self.options.sides == "alternate" else sides
            for side in turn:
                if k * size < self._rows(side):
                    yield side, k * size, min((k + 1) * size, self._rows(side))

    def _sampled(self, rows: IdArray, side: Side, epoch: int, step: int) -> Batch:
        options = self.options
        heads, relations, tails = self.train.heads[rows], self.train.relations[rows], self.train.tails[rows]
        anchors, targets = (heads, tails) if side is Side.TAIL else (tails, heads)
        draws = -(-len(rows) // options.chunk_size) if options.negative_sampling == "shared" else len(rows)
        rng = np.random.default_rng([options.seed, epoch, 2, step])
        candidates = self._draw(rng, (draws, options.negatives))
        known = self.known.get(side)
        keys = known.keys(anchors, relations) if known is not None else None
        return Batch(anchors, self._inverse(relations, side), targets, self._ask(side), candidates, keys, known)

    def _all(self, keys: IdArray, side: Side) -> Batch:
        known = self.known[side]
        codes = known.codes[keys]
        anchors = (codes // self.n_relations).astype(self.train.heads.dtype)
        relations = (codes % self.n_relations).astype(self.train.heads.dtype)
        _, targets = known.rows(keys)
        nothing = np.empty((0, 0), anchors.dtype)
        return Batch(anchors, self._inverse(relations, side), targets, self._ask(side), nothing, keys, known)

    def _draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> IdArray:
        dtype = self.train.heads.dtype
        if self.cumulative is None:
            return rng.integers(0, self.n_entities, shape, dtype=dtype)
        drawn = np.searchsorted(self.cumulative, rng.random(shape), side="right")
        return np.minimum(drawn, self.n_entities - 1).astype(dtype)

    def _inverse(self, relations: IdArray, side: Side) -> IdArray:
        if self.options.reciprocal and side is Side.HEAD:
            return (relations + self.n_relations).astype(relations.dtype)
        return relations

    def _ask(self, side: Side) -> Side:
        return Side.TAIL if self.options.reciprocal else side


def table_rows(n_relations: int, options: KgeOptions) -> int:
    """Rows of the relation table: one per relation, and with reciprocal relations one more for its inverse."""
    return n_relations * (2 if options.reciprocal else 1)


def accidental(candidates: IdArray, targets: IdArray) -> BoolArray:
    """Where an independent negative is the answer itself. shape: [B, N], [B] -> [B, N]"""
    return np.asarray(candidates == targets[:, None])
