"""Explanations: what the part of the model that decides reads.

The network: the attention to each relation, and to its neighbours. The linear model: what the node's own features, each
relation and each neighbour add to the score of the predicted class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphlearn.models.dhan.graph.edges import Block
from graphlearn.models.dhan.network.attention import Attention
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.training import LINEAR, NETWORK, HeteroTraining
from graphlearn.types import FloatArray, IdArray


@dataclass(frozen=True)
class Reason:
    """One row of an explanation.

    part: the part of the model, `network` or `linear`. kind: `features`, its own; `relation`; or `neighbour`, a
    position in its node type, else -1. Neighbours of a hub relation are the nodes that share hubs with the node, itself
    included. back: the relation is followed against its edges.

    weight: of a relation, its share in the prediction, of all relations and parts; of a neighbour, its share in the
    relation; of the own features None. contribution: in the linear model, what is added to the logit of its most
    probable class, relative to the mean over classes if a node has one class; with the bias, the contributions of the
    own features and of all relations add up to it, and those of all neighbours to that of their relation.
    """

    node: int
    part: str
    kind: Literal["features", "relation", "neighbour"]
    relation: str | None
    back: bool
    neighbour_type: str
    neighbour: int
    weight: float | None
    contribution: float | None = None


@dataclass(frozen=True)
class _View:
    """Attention of one level, or of the linear model, over the neighbours of a type's nodes."""

    block: Block
    weights: Attention


@dataclass
class _Relation:
    """Its share, and the share and contribution of its neighbours."""

    share: float = 0.0
    neighbours: dict[int, float] = field(default_factory=dict)
    contributions: dict[int, float] = field(default_factory=dict)


Relations = dict[tuple[str, bool, str], _Relation]
"""By (relation, back, type of the neighbours). The shares of neighbours add up to that of their relation."""


def explain(training: HeteroTraining, kind: str, nodes: IdArray, top: int = 5) -> list[Reason]:
    """Explain predictions by the parts that decide, in proportion to what they contribute to the prediction.

    The shares of all relations of a node sum to 1; a node without neighbours has none. Attention is averaged over heads
    and layers; both levels (within a type, between types) have the same weight, and averaging before the attention
    (option hops) is not included.
    """
    nodes, shares = np.asarray(nodes, np.int64), training.shares
    trace, _, found = training.traced(kind, nodes)
    place = np.full(training.counts[kind], -1)
    place[found[kind]] = np.arange(len(found[kind]))
    network = [_View(trace.blocks[key], weights) for key, weights in trace.attention.items() if key[2] == kind]
    linear = _Linear(training, kind, nodes) if shares.get(LINEAR) else None
    out: list[Reason] = []
    for i, node in enumerate(nodes.tolist()):
        row = int(place[node])
        if shares[NETWORK]:
            relations = _shares(network, row, found)
            out += _rows(node, NETWORK, relations, shares[NETWORK], top)
        if linear is not None:
            out.append(Reason(node, LINEAR, "features", None, False, kind, -1, None, linear.own(i)))
            out += _rows(node, LINEAR, linear.relations(i, row, found), shares[LINEAR], top)
    return out


def _rows(node: int, part: str, relations: Relations, share: float, top: int) -> Iterator[Reason]:
    """The relations of a node, the largest share first, each with the neighbours of the largest effect."""
    for (relation, back, source), found in sorted(relations.items(), key=lambda item: -item[1].share):
        if not found.share:
            continue
        added = sum(found.contributions.values()) if part == LINEAR else None
        yield Reason(node, part, "relation", relation, back, source, -1, share * found.share, added)
        effect = {o: abs(c) for o, c in found.contributions.items()} if part == LINEAR else found.neighbours
        best = sorted(effect.items(), key=lambda item: (-item[1], item[0]))[:top]
        mass = sum(found.neighbours.values())
        for other, _ in best if mass else ():
            weight, contribution = found.neighbours[other] / mass, found.contributions.get(other)
            yield Reason(node, part, "neighbour", relation, back, source, other, weight, contribution)


class _Linear:
    """The linear model's logits for its most probable class, as sums over the node's own features and its neighbours.

    After its last step of averaging, the logit of a node is restart * (that of its own features) + (1 - restart) * the
    weighted mean of its neighbours' logits before that step.
    """

    def __init__(self, training: HeteroTraining, kind: str, nodes: IdArray) -> None:
        assert isinstance(training, ClassTraining)
        linear = training.head.linear
        assert linear is not None
        batch, rows = training.full_batch(), torch.from_numpy(nodes)
        with torch.no_grad():
            own, before = linear.last_step(batch)
            logits = linear(batch)[rows.to(training.device)]
        self.best = logits.argmax(1).cpu().numpy()
        centred = training.single
        self.before = {t: self._centred(x, centred) for t, x in before.items()}
        self.start = self._centred(own[kind], centred)[nodes]
        self.restart = float(linear.restart)
        block = batch.blocks.get(("all", kind))
        self.view = None if block is None else _View(block, _averages(linear.mix[kind], block))
        self.unlinked = None if block is None else ~block.present.any(1).cpu().numpy()
        self.alone = self._centred(before[kind], centred)[nodes]
        self.nodes = nodes

    @staticmethod
    def _centred(logits: Tensor, centred: bool) -> FloatArray:
        found: FloatArray = (logits - logits.mean(1, keepdim=True) if centred else logits).cpu().numpy()
        return found

    def own(self, i: int) -> float:
        """What its own features add to the logit of a node."""
        found = self.restart * float(self.start[i, self.best[i]])
        if self.unlinked is None or self.unlinked[self.nodes[i]]:  # a node without neighbours keeps its own
            found += (1 - self.restart) * float(self.alone[i, self.best[i]])
        return found

    def relations(self, i: int, row: int, found: Mapping[str, IdArray]) -> Relations:
        """What its relations add."""
        if self.view is None:
            return {}
        out = _shares([self.view], row, found)
        for (_, _, source), relation in out.items():
            for other, share in relation.neighbours.items():
                logit = float(self.before[source][other, self.best[i]])
                relation.contributions[other] = (1 - self.restart) * share * logit
        return out


def _averages(mix: Tensor, block: Block) -> Attention:
    """The linear model as a level with equal attention to all neighbours of a channel."""
    share = torch.where(block.present, mix.detach(), -1e30).softmax(1) * block.present
    return Attention(block.share[:, None], None if block.pairs is None else block.pairs.share[:, None], share)


def _shares(views: list[_View], row: int, found: Mapping[str, IdArray]) -> Relations:
    """Shares of a row over all views; they sum to 1."""
    out: Relations = {}
    for view in views:
        mix, present = view.weights.mix[row].cpu().numpy(), view.block.present[row].cpu().numpy()
        for r, c in enumerate(view.block.channels):
            weight = float(mix[r] * present[r])
            relation = out.setdefault((c.relation, c.back, c.source), _Relation())
            relation.share += weight
            for at, alpha in _neighbours(view.block, view.weights, row, r) if present[r] else ():
                other = int(found[c.source][at])
                relation.neighbours[other] = relation.neighbours.get(other, 0.0) + weight * alpha
    total = sum(relation.share for relation in out.values()) or 1.0
    for relation in out.values():
        relation.share /= total
        relation.neighbours = {other: share / total for other, share in relation.neighbours.items()}
    return out


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
