"""What DHAN looked at: the share of each relation, and the neighbours that weigh most in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphlearn.models.dhan_attention import Seen
from graphlearn.models.dhan_edges import Block
from graphlearn.models.dhan_training import HeteroTraining
from graphlearn.types import IdArray


@dataclass(frozen=True)
class Reason:
    """One row of an explanation. relation: its share in the node's attention. neighbour: its share within the relation.

    neighbour is a position in its node type, -1 in a row of a relation. Neighbours of a hub relation are the nodes that
    share hubs with the node, itself included. back: the relation is read against its edges.
    """

    node: int
    kind: Literal["relation", "neighbour"]
    relation: str
    back: bool
    neighbour_type: str
    neighbour: int
    weight: float


def explain(training: HeteroTraining, kind: str, nodes: IdArray, top: int = 5) -> list[Reason]:
    """Why the states of nodes of a type are what they are: means over heads and layers of the attention.

    Shares of all relations of a node add up to 1, or to 0 for a node without neighbours; those of the levels (within a
    type, between types) count equally. Averages along paths (option hops) are not part of it.
    """
    nodes = np.asarray(nodes, np.int64)
    trace, _, found = training.traced(kind, nodes)
    batch_nodes = found[kind]
    place = np.full(training.counts[kind], -1)
    place[batch_nodes] = np.arange(len(batch_nodes))
    seen = {(layer, level): s for (layer, level, t), s in trace.seen.items() if t == kind}
    blocks = trace.blocks
    out: list[Reason] = []
    for node in nodes.tolist():
        row = int(place[node])
        rows: dict[tuple[str, bool, str], tuple[float, dict[int, float]]] = {}
        total = 0.0
        for (layer, level), s in seen.items():
            block = blocks[layer, level, kind]
            mix = s.mix[row].cpu().numpy()
            present = block.present[row].cpu().numpy()
            total += float((mix * present).sum())
            for r, c in enumerate(block.channels):
                share, others = rows.get((c.relation, c.back, c.source), (0.0, {}))
                if present[r]:
                    for at, weight in _neighbours(block, s, row, r):
                        other = int(found[c.source][at])
                        others[other] = others.get(other, 0.0) + weight
                rows[c.relation, c.back, c.source] = (share + float(mix[r] * present[r]), others)
        for (relation, back, source), (share, others) in sorted(rows.items(), key=lambda i: -i[1][0]):
            weight = share / total if total else 0.0
            out.append(Reason(node, "relation", relation, back, source, -1, weight))
            mass = sum(others.values())
            best = sorted(others.items(), key=lambda i: (-i[1], i[0]))[:top]
            out += [Reason(node, "neighbour", relation, back, source, o, w / mass) for o, w in best]
    return out


def _neighbours(block: Block, seen: Seen, row: int, r: int) -> Iterator[tuple[int, float]]:
    """Rows of the channel's source type and their weights, hubs resolved into their members."""
    group = row * block.R + r
    lo, hi = (int(v) for v in block.offset[group : group + 2])
    alpha: npt.NDArray[np.float32] = seen.alpha[lo:hi].mean(1).cpu().numpy()
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
        assert seen.hub is not None
        first, last = (int(v) for v in block.pairs.offset[at - block.rows : at - block.rows + 2])
        within = seen.hub[first:last].mean(1).tolist()
        for member, share in zip(block.pairs.src[first:last].tolist(), within, strict=True):
            yield member - start, weight * share
