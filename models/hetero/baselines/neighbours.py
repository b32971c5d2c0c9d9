"""Item-based neighbours (Sarwar et al. 2001): targets similar to those that a source is linked to.

The similarity of two targets is the cosine of their sources, c / (sqrt(n m) + shrinkage) for c common sources of n and
m, of which each target keeps the largest. A target scores the sum of its similarities to the targets of the source and,
if sources and targets have one type, to the source itself. Shapes: B sources, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphlearn.models.hetero.baselines.allowance import Allowance
from graphlearn.models.hetero.baselines.ranking import ties_by_degree
from graphlearn.models.hetero.links import LinkQueries
from graphlearn.types import DoubleArray, FloatArray, IdArray

SHRINKAGE = (0.0, 20.0)
KEPT = (200, 20)
"""Similar targets that a target keeps; more if several have the least similarity kept."""
CELLS = 1 << 23
"""Similarities computed at once, at most."""
PAIRS_PER_SECOND = 2e7
"""Pairs of targets with a common source that are counted in a CPU second, roughly."""


@dataclass(frozen=True)
class _Lists:
    """Lists of numbers, in CSR."""

    offset: IdArray
    values: IdArray

    @staticmethod
    def of(owner: IdArray, values: IdArray, count: int) -> _Lists:
        order = np.lexsort((values, owner))
        return _Lists(np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]), values[order])

    @property
    def lengths(self) -> IdArray:
        return np.diff(self.offset)

    def of_all(self, owners: IdArray) -> tuple[IdArray, IdArray]:
        """(position in owners, place of the value) of all values of the owners."""
        lengths = self.lengths[owners]
        row = np.repeat(np.arange(len(owners)), lengths)
        within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, self.offset[owners][row] + within


@dataclass(frozen=True)
class _Similar:
    """The similar targets of each target, the similarities, and the least one kept for each of KEPT. shape: [T] each"""

    lists: _Lists
    similarity: DoubleArray
    least: dict[int, DoubleArray]


class ItemNeighbours:
    """Item-based neighbours; a setting is (shrinkage, similar targets kept)."""

    name = "item neighbours"
    settings = tuple((shrinkage, kept) for shrinkage in SHRINKAGE for kept in KEPT)

    def __init__(self, queries: LinkQueries, allowance: Allowance) -> None:
        self.queries, r = queries, queries.relation
        edges = queries.given if r.weight is None else queries.given & (r.weight > 0)
        links = np.unique(np.stack([r.src[edges], r.dst[edges]]).astype(np.int64), axis=1)
        self.same = r.source == r.target
        self.degree = np.bincount(links[1], minlength=queries.targets)
        self.targets = _Lists.of(links[0], links[1], queries.sources)
        links = self._affordable(links, allowance)
        self.counted = _Lists.of(links[0], links[1], queries.sources)
        self.sources = _Lists.of(links[1], links[0], queries.targets)
        self._found: dict[float, _Similar] = {}

    def _affordable(self, links: IdArray, allowance: Allowance) -> IdArray:
        """Links without some of those of sources with so many that counting pairs would take too long."""
        squares = self.targets.lengths.astype(np.float64) ** 2
        room, most = allowance.left / 4 * PAIRS_PER_SECOND, int(self.targets.lengths.max(initial=0))
        while most > 1 and np.minimum(squares, float(most) ** 2).sum() > room:
            most = max(1, most * 3 // 4)
        if most >= self.targets.lengths.max(initial=0):
            return links
        allowance.cut(f"{self.name} count at most {most:,} links of each {self.queries.relation.source}")
        order = np.random.default_rng(self.queries.seed).permutation(links.shape[1])
        order = order[np.argsort(links[0][order], kind="stable")]
        place = np.arange(len(order)) - self.targets.offset[links[0][order]]
        return links[:, np.sort(order[place < most])]

    def scores(self, sources: IdArray, settings: Sequence[tuple[float, int]]) -> Iterator[FloatArray]:
        """See `LinkMethod`."""
        T = self.queries.targets
        row, place = self.targets.of_all(sources)
        liked = self.targets.values[place]
        if self.same:
            row, liked = np.concatenate([row, np.arange(len(sources))]), np.concatenate([liked, sources])
        for shrinkage, kept in settings:
            similar = self._similar(shrinkage)
            one, at = similar.lists.of_all(liked)
            value = similar.similarity[at]
            value = np.where(value >= similar.least[kept][liked[one]], value, 0)
            cells = row[one] * T + similar.lists.values[at]
            found = np.bincount(cells, value, len(sources) * T).reshape(len(sources), T)
            yield ties_by_degree(found.astype(np.float64), self.degree)

    def _similar(self, shrinkage: float) -> _Similar:
        if shrinkage not in self._found:
            T, parts = self.queries.targets, list[tuple[IdArray, IdArray, DoubleArray]]()
            least = {kept: np.zeros(T) for kept in KEPT}
            rows = max(1, CELLS // max(1, T))
            root = np.sqrt(self.degree)
            for lo in range(0, T, rows):
                block = np.arange(lo, min(T, lo + rows))
                one, place = self.sources.of_all(block)
                two, at = self.counted.of_all(self.sources.values[place])
                cells = one[two] * T + self.counted.values[at]
                common = np.bincount(cells, minlength=len(block) * T).reshape(len(block), T)
                common[np.arange(len(block)), block] = 0
                cosine = common / np.maximum(np.outer(root[block], root) + shrinkage, 1e-12)
                best = torch.from_numpy(cosine).topk(min(max(KEPT), T), 1).values.numpy()
                for kept, bounds in least.items():
                    bounds[block] = best[:, min(kept, T) - 1]
                owner, to = np.nonzero((cosine > 0) & (cosine >= least[max(KEPT)][block][:, None]))
                parts.append((owner + lo, to, cosine[owner, to]))
            owner, to, value = (np.concatenate(column) for column in zip(*parts, strict=True))
            self._found[shrinkage] = _Similar(_Lists.of(owner, to, T), value, least)
        return self._found[shrinkage]
