"""Explanations: the share of each relation in a prediction, and its neighbours with the largest weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphlearn.models.dhan.graph.edges import Block
from graphlearn.models.dhan.network.attention import Attention
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.training import HeteroTraining
from graphlearn.types import IdArray


@dataclass(frozen=True)
class Reason:
    """One row of an explanation. relation: its share in the prediction. neighbour: its share in the relation.

    neighbour is a position in its node type, -1 in a row of a relation. Neighbours of a hub relation are the nodes that
    share hubs with the node, itself included. back: the relation is followed against its edges.
    """

    node: int
    kind: Literal["relation", "neighbour"]
    relation: str
    back: bool
    neighbour_type: str
    neighbour: int
    weight: float


@dataclass(frozen=True)
class _View:
    """Attention of one level, or of the linear model, over the neighbours of a type's nodes."""

    block: Block
    weights: Attention
    linear: bool


Relations = dict[tuple[str, bool, str], tuple[float, dict[int, float]]]
"""(relation, back, type of the neighbours): share, and the weights of the neighbours, which sum to the share."""


def explain(training: HeteroTraining, kind: str, nodes: IdArray, top: int = 5) -> list[Reason]:
    """Explain predictions by the attention of the network, averaged over heads and layers, and by the weights of the
    linear model's channels, each in proportion to its contribution to the prediction.

    Shares of all relations of a node sum to 1; a node without neighbours has no rows. Both levels (within a type,
    between types) have the same weight. Averaging before the attention (option hops) is not included.
    """
    nodes = np.asarray(nodes, np.int64)
    trace, batch, found = training.traced(kind, nodes)
    place = np.full(training.counts[kind], -1)
    place[found[kind]] = np.arange(len(found[kind]))
    views = [_View(trace.blocks[key], s, False) for key, s in trace.attention.items() if key[2] == kind]
    share = 0.0
    head = training.head if isinstance(training, ClassTraining) else None
    if head is not None and head.linear is not None and ("all", kind) in batch.blocks:
        share = float(head.share)
        views.append(
            _View(batch.blocks["all", kind], _averages(head.linear.mix[kind], batch.blocks["all", kind]), True)
        )
    out: list[Reason] = []
    for node in nodes.tolist():
        row = int(place[node])
        rows: Relations = {}
        for linear, counts in ((False, 1 - share), (True, share)):
            if counts:
                _add(rows, _shares([v for v in views if v.linear == linear], row, found), counts)
        for (relation, back, source), (weight, others) in sorted(rows.items(), key=lambda i: -i[1][0]):
            if not weight:
                continue
            out.append(Reason(node, "relation", relation, back, source, -1, weight))
            mass = sum(others.values())
            best = sorted(others.items(), key=lambda i: (-i[1], i[0]))[:top]
            out += [Reason(node, "neighbour", relation, back, source, o, w / mass) for o, w in best if mass]
    return out


def _averages(mix: Tensor, block: Block) -> Attention:
    """The linear model as a level with equal attention to all neighbours of a channel."""
    share = torch.where(block.present, mix.detach(), -1e30).softmax(1) * block.present
    return Attention(block.share[:, None], None if block.pairs is None else block.pairs.share[:, None], share)


def _shares(views: list[_View], row: int, found: Mapping[str, IdArray]) -> Relations:
    """Shares of a row over all views; they sum to 1."""
    rows: Relations = {}
    for view in views:
        mix, present = view.weights.mix[row].cpu().numpy(), view.block.present[row].cpu().numpy()
        for r, c in enumerate(view.block.channels):
            weight = float(mix[r] * present[r])
            others: dict[int, float] = {}
            if present[r]:
                for at, alpha in _neighbours(view.block, view.weights, row, r):
                    other = int(found[c.source][at])
                    others[other] = others.get(other, 0.0) + weight * alpha
            _add(rows, {(c.relation, c.back, c.source): (weight, others)}, 1.0)
    total = sum(weight for weight, _ in rows.values())
    scaled: Relations = {}
    _add(scaled, rows, 1 / total if total else 0.0)
    return scaled


def _add(rows: Relations, more: Relations, counts: float) -> None:
    for key, (weight, others) in more.items():
        share, mine = rows.get(key, (0.0, {}))
        for other, value in others.items():
            mine[other] = mine.get(other, 0.0) + counts * value
        rows[key] = (share + counts * weight, mine)


def _neighbours(block: Block, weights: Attention, row: int, r: int) -> Iterator[tuple[int, float]]:
    """Rows of the channel's source type and their weights, hubs resolved into their members."""
    group = row * block.R + r
    lo, hi = (int(v) for v in block.offset[group : group + 2])
    alpha: npt.NDArray[np.float32] = weights.alpha[lo:hi].mean(1).cpu().numpy()
    start = 0
    for t in block.sources:
        if t == block.channels[r].source:
            break
        start += block.sizes[block.sources.index(t)]
    for at, weight in zip(block.src[lo:hi].tolist(), alpha.tolist(), strict=True):
        if at < block.rows:
            yield at - start, weight
            continue
        assert block.pairs is not None
        assert weights.hub is not None
        first, last = (int(v) for v in block.pairs.offset[at - block.rows : at - block.rows + 2])
        within = weights.hub[first:last].mean(1).tolist()
        for member, share in zip(block.pairs.src[first:last].tolist(), within, strict=True):
            yield member - start, weight * share
