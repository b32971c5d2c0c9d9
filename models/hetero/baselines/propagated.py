"""Logistic regression on propagated features (Wu et al. 2019, SGC; Gasteiger et al. 2019), and label propagation.

Both average over walks that return to their start with the probability `restart` after each step. Shapes: n nodes, D
features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.hetero.baselines.allowance import Allowance
from graphlearn.models.hetero.baselines.transitions import Transitions
from graphlearn.models.hetero.classes import ClassQueries
from graphlearn.models.hetero.features import FeatureBatch, FeatureTable, dense_columns, width_of
from graphlearn.models.hetero.graph import HeteroGraph
from graphlearn.models.hetero.regression import regress
from graphlearn.types import FloatArray, IdArray, Split

ROUNDS = 10
RESTARTS = (0.1, 0.05, 0.2, 0.5, 1.0)
"""1: the node's own features or label, without any relation."""
DECAYS = (3e-4, 3e-5, 3e-3, 3e-2)
CHUNK = 512
"""Columns that are propagated at once, at most."""
CELLS = 2**27
"""Largest number of propagated features of the labelled nodes; wider ones are projected at random."""
SPEED = 1e9
"""Multiplications over edges per CPU second, roughly."""
LEAST = 5
"""The least number of projections is 2 to this power."""


def regression(
    graph: HeteroGraph, kind: str, queries: ClassQueries, weighting: str, allowance: Allowance
) -> FloatArray | None:
    """Probabilities of all nodes of the type, 0 for nodes without a split; None without features. shape: -> [N, C]

    The restart and the weight decay are chosen on the validation split.
    """
    rows = np.flatnonzero(queries.split >= 0)
    train, valid = (np.flatnonzero(queries.split[rows] == s.code) for s in (Split.TRAIN, Split.VALID))
    actual = torch.from_numpy(queries.labels[rows])
    restarts, decays = (RESTARTS, DECAYS) if len(valid) else (RESTARTS[:1], DECAYS[:1])
    best, found = math.inf, torch.zeros(len(rows), queries.classes)
    parts = list(_propagated(graph, kind, rows, weighting, restarts, allowance))
    if not parts:
        return None
    for i, restart in enumerate(restarts):
        if i and not allowance.left:
            allowance.cut(f"propagated features were tried with {i} of {len(restarts)} restarts")
            break
        x = torch.cat([part[restart] for part in parts], 1)
        for weights, bias in regress(x[train], actual[train], queries.single, decays):
            logits = x @ weights + bias
            score = queries.score(logits[valid], actual[valid], rows[valid]) if len(valid) else 0.0
            if score < best:
                best, found = score, logits
    out = np.zeros((len(queries.split), queries.classes), np.float32)
    out[rows] = queries.probabilities(found)
    return out


def _propagated(
    graph: HeteroGraph, kind: str, rows: IdArray, weighting: str, restarts: tuple[float, ...], allowance: Allowance
) -> Iterator[dict[float, Tensor]]:
    """Blocks of columns by restart. shape: [n] -> [n, columns]"""
    walk = Transitions.of(graph)
    tables = {n.name: FeatureTable(n, weighting, torch.device("cpu")).take() for n in graph.nodes}
    total = sum(width_of(columns) for columns in tables.values())
    room = min(CELLS / max(1, len(rows) * len(restarts)), allowance.left / 2 * SPEED / (ROUNDS * walk.steps + 1))
    width = total if room >= total else 2 ** max(LEAST, int(math.log2(max(1, room))))
    if width < total:
        allowance.cut(f"{width:,} random projections of the {total:,} features were propagated")
    at = torch.from_numpy(rows + walk.numbering.types[kind])
    for x in _projections(walk, tables, width) if width < total else _columns(walk, tables):
        sums = {restart: restart * x[at] for restart in restarts}
        for k in range(1, ROUNDS + 1):
            x = walk.mean(x)
            for restart, found in sums.items():
                found += (1 - restart) ** k * (restart if k < ROUNDS else 1) * x[at]
        yield sums


def _chunk(walk: Transitions) -> int:
    """Columns that are propagated at once."""
    return max(16, min(CHUNK, CELLS // max(1, walk.numbering.size)))


def _columns(walk: Transitions, tables: Mapping[str, FeatureBatch]) -> Iterator[Tensor]:
    """The features of each type, 0 for nodes of other types. shape: -> [N, columns]"""
    size = _chunk(walk)
    for kind, columns in tables.items():
        for lo in range(0, width_of(columns), size):
            hi = min(width_of(columns), lo + size)
            x = torch.zeros(walk.numbering.size, hi - lo)
            x[walk.numbering.nodes(kind)] = dense_columns(columns, lo, hi)
            yield x


def _projections(walk: Transitions, tables: Mapping[str, FeatureBatch], width: int) -> Iterator[Tensor]:
    """Random projections of the features, which keep inner products in expectation. shape: -> [N, columns]"""
    size, generator = _chunk(walk), torch.Generator().manual_seed(0)
    for first in range(0, width, size):
        wanted = min(size, width - first)
        x = torch.zeros(walk.numbering.size, wanted)
        for kind, columns in tables.items():
            for lo in range(0, width_of(columns), CHUNK):
                own = dense_columns(columns, lo, min(width_of(columns), lo + CHUNK))
                signs = torch.randint(0, 2, (own.shape[1], wanted), generator=generator) * 2.0 - 1
                x[walk.numbering.nodes(kind)] += own @ signs / math.sqrt(width)
        yield x


def label_propagation(graph: HeteroGraph, kind: str, queries: ClassQueries) -> FloatArray:
    """Probabilities of all nodes: the share of each class among the training labels that walks meet. shape: -> [N, C]

    The restart, and whether rare classes are weighted up, are chosen on the validation split.
    """
    walk = Transitions.of(graph)
    nodes, train, valid = walk.numbering.nodes(kind), queries.nodes(Split.TRAIN), queries.nodes(Split.VALID)
    actual = torch.from_numpy(queries.labels)
    start = torch.zeros(walk.numbering.size, queries.classes + 1)
    start[torch.from_numpy(train) + nodes.start] = torch.cat([actual[train], torch.ones(len(train), 1)], 1)
    prior = actual[train].mean(0)
    best, found = math.inf, np.zeros((0, 0), np.float32)
    for restart in RESTARTS[:-1]:
        x = start
        for _ in range(ROUNDS):
            x = (1 - restart) * walk.mean(x) + restart * start
        met, mass = x[nodes, :-1], x[nodes, -1:]
        share = torch.where(mass > 0, met / mass.clamp_min(1e-30), prior)
        for weights in (torch.ones(queries.classes), 1 / prior.clamp_min(1e-6)):
            chances = share * weights
            if queries.single or weights[0] != 1:
                chances = chances / chances.sum(1, keepdim=True).clamp_min(1e-30)
            probable = chances.numpy()
            f1 = queries.figures(probable[valid], valid) if len(valid) else {"macro_f1": 0.0, "micro_f1": 0.0}
            score = -f1["macro_f1"] - f1["micro_f1"]
            if score < best:
                best, found = score, probable
    return found
