"""Edges as DHAN reads them: channels of the schema, and blocks of all channels into one node type.

A *channel* is a relation in one direction. Channels follow from the schema alone, not from the edges in a batch. A
*block* holds the edges of R channels into the N nodes of one type, sorted by group = target * R + channel. Sources are
rows of the concatenated states of all source types, followed by the hubs of the block.

Shapes: E edges, P pairs (member, hub), S rows of sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.hetero.graph import HeteroGraph, Relation
from graphlearn.types import BoolArray, FloatArray, IdArray


@dataclass(frozen=True)
class Channel:
    """A relation in one direction. back: against its edges."""

    relation: str
    source: str
    target: str
    hub: bool = False
    back: bool = False

    @property
    def name(self) -> str:
        """The name of the relation, marked if reversed."""
        return f"{self.relation} (back)" if self.back else self.relation

    @property
    def level(self) -> str:
        """intra: within a type; inter: between two."""
        return "intra" if self.source == self.target else "inter"


@dataclass(frozen=True)
class EdgeIndex:
    """Edges of a channel: positions in its source and target type, or of members and hubs; `edge`: in the relation."""

    src: IdArray
    dst: IdArray
    weight: FloatArray | None
    edge: IdArray
    hubs: int = 0


def symmetric(relation: Relation) -> bool:
    """Whether each edge has its reverse, with the same weight."""
    if relation.source != relation.target or relation.hubs is not None:
        return False
    n = int(max(relation.src.max(initial=-1), relation.dst.max(initial=-1))) + 1
    weight = np.ones(len(relation)) if relation.weight is None else relation.weight
    there, back = relation.src.astype(np.int64) * n + relation.dst, relation.dst.astype(np.int64) * n + relation.src
    a, b = np.lexsort((weight, there)), np.lexsort((weight, back))
    return bool((there[a] == back[b]).all() and np.allclose(weight[a], weight[b]))


def channels_of(graph: HeteroGraph, reverse: bool) -> tuple[Channel, ...]:
    """Every relation along its edges and, with `reverse`, against them unless it is symmetric."""
    out = []
    for r in graph.relations:
        out.append(Channel(r.name, r.source, r.target, r.hubs is not None))
        if reverse and r.hubs is None and not symmetric(r):
            out.append(Channel(r.name, r.target, r.source, back=True))
    return tuple(out)


def edge_index(graph: HeteroGraph, channel: Channel, keep: BoolArray | None = None) -> EdgeIndex:
    """The edges of a channel, or those in the mask `keep`. Edges of weight 0 are omitted."""
    r = graph.relation(channel.relation)
    chosen = np.ones(len(r), np.bool_) if keep is None else keep
    if r.weight is not None:
        chosen = chosen & (r.weight > 0)
    edge = np.flatnonzero(chosen)
    src, dst = (r.dst, r.src) if channel.back else (r.src, r.dst)
    weight = None if r.weight is None else r.weight[edge]
    return EdgeIndex(src[edge], dst[edge], weight, edge, r.hubs or 0)


@dataclass(frozen=True)
class Pairs:
    """Members of hubs, sorted by hub. Hubs are numbered across channels; offset holds the borders of their segments."""

    src: Tensor
    hub: Tensor
    channel: Tensor
    offset: Tensor
    share: Tensor
    log_weight: Tensor | None
    edge: Tensor


@dataclass(frozen=True)
class Block:
    """Edges of R channels into one type, sorted by group.

    src, dst, channel, group, edge: [E]; offset: [N * R + 1]; share: weight / sum of the group's weights; present:
    [N, R]; log_weight None = no weights. `hubs` follow the other sources.
    """

    target: str
    channels: tuple[Channel, ...]
    sources: tuple[str, ...]
    sizes: tuple[int, ...]
    count: int
    rows: int
    src: Tensor
    dst: Tensor
    channel: Tensor
    group: Tensor
    offset: Tensor
    share: Tensor
    log_weight: Tensor | None
    edge: Tensor
    present: Tensor
    pairs: Pairs | None
    hubs: int

    @property
    def R(self) -> int:  # noqa: N802
        """Number of channels."""
        return len(self.channels)


def _offsets(group: IdArray, count: int) -> IdArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(group, minlength=count))])


def _share(group: IdArray, weight: FloatArray, count: int) -> FloatArray:
    total = np.bincount(group, weight, count)
    return np.asarray(weight / total[group] if len(group) else weight, np.float32)


def _column(parts: Sequence[IdArray]) -> IdArray:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64, copy=False)


def build_block(
    target: str,
    channels: Sequence[Channel],
    edges: Mapping[Channel, EdgeIndex],
    counts: Mapping[str, int],
    device: torch.device,
) -> Block:
    """The block of the channels into `target`; counts: rows of each node type."""
    R, count = len(channels), counts[target]
    sources = tuple(dict.fromkeys(c.source for c in channels))
    starts = dict(zip(sources, np.cumsum([0, *(counts[s] for s in sources)]).tolist(), strict=False))
    rows = sum(counts[s] for s in sources)
    src, dst, kind, weight, edge = [], [], [], [], []
    members, hubs, hub_kind, hub_weight, hub_edge = [], [], [], [], []
    total, weighted = 0, False
    for r, c in enumerate(channels):
        a = edges[c]
        w = np.ones(len(a.src), np.float32) if a.weight is None else a.weight
        weighted |= a.weight is not None
        if c.hub:
            members.append(a.src + starts[c.source])
            hubs.append(a.dst + total)
            hub_kind.append(np.full(len(a.src), r))
            hub_weight.append(w)
            hub_edge.append(a.edge)
            src.append(a.dst + rows + total)
            dst.append(a.src)
            total += a.hubs
        else:
            src.append(a.src + starts[c.source])
            dst.append(a.dst)
        kind.append(np.full(len(a.src), r))
        weight.append(w)
        edge.append(a.edge)

    def put(values: IdArray | FloatArray | BoolArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    pairs = None
    if any(c.hub for c in channels):
        hub = _column(hubs)
        order = np.argsort(hub, kind="stable")
        hub, w = hub[order], np.concatenate(hub_weight)[order]
        pairs = Pairs(
            put(_column(members)[order]),
            put(hub),
            put(_column(hub_kind)[order]),
            put(_offsets(hub, total)),
            put(_share(hub, w, total)),
            put(np.log(w)) if weighted else None,
            put(_column(hub_edge)[order]),
        )
    group = _column(dst) * R + _column(kind)
    order = np.argsort(group, kind="stable")
    group, w = group[order], np.concatenate([np.zeros(0, np.float32), *weight])[order]
    offset = _offsets(group, count * R)
    return Block(
        target,
        tuple(channels),
        sources,
        tuple(counts[s] for s in sources),
        count,
        rows,
        put(_column(src)[order]),
        put(_column(dst)[order]),
        put(_column(kind)[order]),
        put(group),
        put(offset),
        put(_share(group, w, count * R)),
        put(np.log(w)) if weighted else None,
        put(_column(edge)[order]),
        put((np.diff(offset) > 0).reshape(count, R)),
        pairs,
        total,
    )


def build_blocks(
    channels: Sequence[Channel], edges: Mapping[Channel, EdgeIndex], counts: Mapping[str, int], device: torch.device
) -> dict[tuple[str, str], Block]:
    """Blocks by (level, type): the intra and inter channels of each type, and "all" of them together."""
    out = {}
    for name in counts:
        into = [c for c in channels if c.target == name]
        for level in ("intra", "inter", "all"):
            chosen = into if level == "all" else [c for c in into if c.level == level]
            if chosen:
                out[level, name] = build_block(name, chosen, edges, counts, device)
    return out
