"""Random walks from a source: targets are ranked by how often walks visit them.

A walk stops after each step with the probability `restart`, and after STEPS steps. Visits are divided by a power of the
target's degree, because walks end at popular targets anyway (RP3beta: Paudel et al. 2017). With the target relation
alone, three steps are P3 (Cooper et al. 2014). Shapes: B sources, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from graphlearn.models.hetero.baselines.ranking import ties_by_degree
from graphlearn.models.hetero.baselines.transitions import Direction, Transitions
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.links import LinkQueries
from graphlearn.types import FloatArray, IdArray

STEPS = 5
RESTARTS = (0.2, 0.6)
POWERS = (0.0, 0.3, 0.6, 0.9)
CELLS = 1 << 24
"""Nodes times walks that are followed at once."""


class RandomWalk:
    """Random walks; a setting is (whether along all relations, restart, power of the degree)."""

    name = "random walk"

    def __init__(self, graph: HeteroGraph, queries: LinkQueries) -> None:
        r = queries.relation
        keep = {r.name: queries.given}
        own = [Direction(r.name), Direction(r.name, back=True)]
        self.queries = queries
        self.walks = {False: Transitions.of(graph, keep, own)}
        if len(graph.relations) > 1:
            self.walks[True] = Transitions.of(graph, keep)
        every = sorted(self.walks, reverse=True)
        self.settings = tuple((wide, restart, power) for wide in every for restart in RESTARTS for power in POWERS)

    def scores(self, sources: IdArray, settings: Sequence[tuple[bool, float, float]]) -> Iterator[FloatArray]:
        """See `LinkMethod`."""
        degree = np.maximum(self.queries.degree, 1).astype(np.float64)
        visits: dict[tuple[bool, float], FloatArray] = {}
        for wide in dict.fromkeys(wide for wide, _, _ in settings):
            visits |= self._visits(sources, wide, {restart for w, restart, _ in settings if w == wide})
        for wide, restart, power in settings:
            yield ties_by_degree(visits[wide, restart] / degree**power, self.queries.degree)

    def _visits(self, sources: IdArray, wide: bool, restarts: set[float]) -> dict[tuple[bool, float], FloatArray]:
        """The expected number of visits of walks from each source to each target. shape: [B] -> [B, T]"""
        walk, r = self.walks[wide], self.queries.relation
        numbering = walk.numbering
        starts, targets = sources.astype(np.int64) + numbering.types[r.source], numbering.nodes(r.target)
        total = {restart: np.zeros((len(sources), self.queries.targets), np.float32) for restart in restarts}
        size = max(1, CELLS // numbering.size)
        for lo in range(0, len(starts), size):
            some = torch.from_numpy(starts[lo : lo + size])
            at = torch.zeros(numbering.size, len(some))
            at[some, torch.arange(len(some))] = 1
            for k in range(STEPS):
                at = walk.push(at)
                for restart, sums in total.items():
                    sums[lo : lo + size] += (1 - restart) ** k * at[targets].T.numpy()
        return {(wide, restart): sums for restart, sums in total.items()}
