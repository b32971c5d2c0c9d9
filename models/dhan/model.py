"""DHAN: dual hierarchical attention on graphs of any number of node types and relations. Zhao et al., TKDE 2023.

Features of each type are projected, averaged along paths (a linear operation, so the projected ones are averaged: the
same numbers as averaging the features once, at d columns instead of all), and go through attention levels within and
between types. Shapes: N nodes of a type, d hidden, K hops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.dhan.attention import Level, Seen, drop, mean_sources, parameter, weighted_sums
from graphlearn.models.dhan.edges import Block, Channel
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.graph import Features, NodeType
from graphlearn.types import IdArray


@dataclass(frozen=True)
class Columns:
    """Features of some nodes of a type on the device. dense: [N, D]; rows of the sparse part end at offset [N + 1]."""

    dense: Tensor | None
    offset: Tensor | None
    indices: Tensor | None
    values: Tensor | None
    nodes: Tensor
    """Positions of the rows in their type; what learnt rows are looked up with."""
    width: int = 0
    """Columns of the sparse part."""


def _weights(features: Features, weighting: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    assert features.indptr is not None
    assert features.indices is not None
    count = len(features.indices)
    values = np.ones(count, np.float64) if features.values is None else features.values.astype(np.float64)
    if weighting == "raw":
        return values.astype(np.float32)
    rows = np.repeat(np.arange(len(features)), np.diff(features.indptr))
    if weighting == "mean":
        total = np.bincount(rows, np.abs(values), len(features))
        return np.asarray(values / np.maximum(total[rows], 1e-12), np.float32)
    seen = np.bincount(features.indices, minlength=features.sparse_width)
    values = values * np.log(len(features) / np.maximum(seen, 1))[features.indices]
    length = np.sqrt(np.bincount(rows, values * values, len(features)))
    return np.asarray(values / np.maximum(length[rows], 1e-12), np.float32)


class Table:
    """Features of a type, weighted once; `take` puts rows on the device."""

    def __init__(self, node: NodeType, weighting: str, device: torch.device) -> None:
        self.count, self.features, self.device = node.count, node.features, device
        self.values = None
        if node.features is not None and node.features.indptr is not None:
            self.values = _weights(node.features, weighting)

    def take(self, nodes: IdArray | None = None) -> Columns:
        """Rows of the nodes; all rows without nodes."""

        def put(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | IdArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

        ids = np.arange(self.count, dtype=np.int64) if nodes is None else np.asarray(nodes, np.int64)
        features = self.features
        if features is None:
            return Columns(None, None, None, None, put(ids))
        dense = None if features.dense is None else put(features.dense if nodes is None else features.dense[ids])
        if features.indptr is None:
            return Columns(dense, None, None, None, put(ids))
        assert features.indices is not None
        assert self.values is not None
        if nodes is None:
            offset, at = features.indptr.astype(np.int64), slice(None)
            indices, values = features.indices[at].astype(np.int64), self.values
        else:
            lengths = np.diff(features.indptr)[ids]
            offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            places = np.arange(offset[-1]) + np.repeat(features.indptr[ids] - offset[:-1], lengths)
            indices, values = features.indices[places].astype(np.int64), self.values[places]
        return Columns(dense, put(offset), put(indices), put(values), put(ids), features.sparse_width)


@dataclass(frozen=True)
class Batch:
    """What the encoder reads: features by type and blocks by (level, type), see `build_blocks`."""

    columns: Mapping[str, Columns]
    blocks: Mapping[tuple[str, str], Block]


@dataclass
class Trace:
    """What the encoder looked at, for explanations: by (layer, level, type)."""

    seen: dict[tuple[int, str, str], Seen] = field(default_factory=dict)
    blocks: dict[tuple[int, str, str], Block] = field(default_factory=dict)


QUIET, LOUD = 0.01, 0.2
"""Deviation of sparse weights at the start. With few labels a word that no train node has should say little."""


class Input(nn.Module):
    """Features of a type to d columns; a learnt row for each node of a type without features."""

    def __init__(self, node: NodeType, options: DhanOptions, generator: torch.Generator, quiet: bool) -> None:
        super().__init__()
        self.p = options.input_dropout
        d, features = options.hidden, node.features
        if features is None:
            self.rows = parameter(node.count, d, generator=generator, deviation=0.1)
            return
        self.bias = nn.Parameter(torch.zeros(d))
        if features.dense is not None:
            self.dense = parameter(features.dense.shape[1], d, generator=generator)
        if features.indptr is not None:
            spread = QUIET if quiet else LOUD
            if options.published:
                spread = math.sqrt(2 / (features.sparse_width + d))
            self.sparse = parameter(features.sparse_width, d, generator=generator, deviation=spread)

    def forward(self, columns: Columns, generator: torch.Generator | None) -> Tensor:
        """shape: -> [N, d]"""
        if hasattr(self, "rows"):
            return self.rows[columns.nodes]
        out = self.bias.expand(len(columns.nodes), -1)
        if columns.dense is not None:
            out = out + drop(columns.dense, self.p, generator) @ self.dense
        if columns.indices is not None and len(columns.indices):
            assert columns.offset is not None
            assert columns.values is not None
            values = drop(columns.values, self.p, generator)
            out = out + F.embedding_bag(
                columns.indices, self.sparse, columns.offset[:-1], mode="sum", per_sample_weights=values
            )
        return out


class Hops(nn.Module):
    """Means along paths: a step goes to the mix over a type's channels of their neighbours' mean, and with the share
    `restart` back to the node itself (Gasteiger et al. 2019, APPNP).

    Channels are mixed by learnt weights. The projection is one for all paths, and how far paths reach is given: both
    would be learnt from what the train nodes' own features give away, and that does not carry over to other nodes.
    """

    def __init__(self, channels: Mapping[str, int], options: DhanOptions) -> None:
        super().__init__()
        self.hops, self.restart, self.types = options.hops, options.restart, tuple(channels)
        self.mix = nn.ParameterList([nn.Parameter(torch.zeros(R)) for R in channels.values()])

    def forward(self, x: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """shape: {type: [N, d]} -> the same"""
        current = dict(x)
        for _ in range(self.hops):
            new = dict(current)
            for t, mix in zip(self.types, self.mix, strict=True):
                block = batch.blocks["all", t]
                mixed = (1 - self.restart) * averaged(current, block, mix) + self.restart * x[t]
                new[t] = torch.where(block.present.any(1, keepdim=True), mixed, current[t])
            current = new
        return current


def averaged(x: Mapping[str, Tensor], block: Block, logits: Tensor) -> Tensor:
    """The mix by softmax(logits [R]) of the means over each channel's neighbours; channels without one are left out.

    shape: {type: [N', d]} -> [N, d]
    """
    sources = mean_sources(torch.cat([x[t] for t in block.sources]), block)
    share = torch.where(block.present, logits, -1e30).softmax(1)
    weights = block.share * share.flatten()[block.group]
    ends = block.offset[:: block.R]
    return weighted_sums(sources[:, None], weights[:, None], block.src, ends)[:, 0]


class Dhan(nn.Module):
    """States of the nodes of the wanted types. shape: -> {type: [N, hidden]}"""

    def __init__(
        self,
        nodes: tuple[NodeType, ...],
        channels: tuple[Channel, ...],
        options: DhanOptions,
        generator: torch.Generator,
        quiet: bool = True,
    ) -> None:
        super().__init__()
        self.options, d = options, options.hidden
        self.types = tuple(n.name for n in nodes)
        self.input = nn.ModuleList([Input(n, options, generator, quiet) for n in nodes])
        into = {t: [c for c in channels if c.target == t] for t in self.types}
        self.hops = Hops({t: len(c) for t, c in into.items() if c}, options) if options.hops else None
        levels = ("intra", "inter")
        self.steps: list[tuple[int, tuple[str, ...]]] = []
        if options.fusion == "sequential":
            self.steps = [(k, (level,)) for level in levels for k in range(options.layers)]
        else:
            self.steps = [(k, levels) for k in range(options.layers)]
        self.project, self.levels, self.fuse = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for s, (_, wanted) in enumerate(self.steps):
            for i, t in enumerate(self.types):
                linear = nn.Linear(d, d, bias=False)
                with torch.no_grad():
                    linear.weight.copy_(torch.randn(d, d, generator=generator) / math.sqrt(d))
                self.project[f"{s}-{i}"] = linear
                present = [level for level in wanted if any(c.level == level for c in into[t])]
                for level in present:
                    R = sum(c.level == level for c in into[t])
                    self.levels[f"{s}-{level}-{i}"] = Level(R, options, generator)
                if len(present) == 2:
                    fuse = nn.Linear(2 * d, d)
                    with torch.no_grad():
                        fuse.weight.copy_(torch.randn(d, 2 * d, generator=generator) / math.sqrt(2 * d))
                        fuse.bias.zero_()
                    self.fuse[f"{s}-{i}"] = fuse
        self.join = None
        if options.jumping:
            self.join = parameter((1 + len(self.steps)) * d, d, generator=generator)

    def forward(
        self,
        batch: Batch,
        wanted: tuple[str, ...] | None = None,
        generator: torch.Generator | None = None,
        trace: Trace | None = None,
    ) -> dict[str, Tensor]:
        """With a generator there is dropout. Types that are not wanted are left out of the last step."""
        p = self.options.dropout
        x = {t: part(batch.columns[t], generator) for t, part in zip(self.types, self.input, strict=True)}
        if self.hops is not None:
            x = self.hops(x, batch)
        x = {t: drop(v, p, generator) for t, v in x.items()}
        wanted = self.types if wanted is None else wanted
        states = {t: [x[t]] for t in wanted}
        for s in range(len(self.steps)):
            x = self._step(s, x, batch, wanted if s == len(self.steps) - 1 else self.types, generator, trace)
            for t in wanted:
                states[t].append(x[t])
        if self.join is None:
            return {t: states[t][-1] for t in wanted}
        return {t: torch.cat(states[t], 1) @ self.join for t in wanted}

    def _step(
        self,
        s: int,
        x: Mapping[str, Tensor],
        batch: Batch,
        wanted: tuple[str, ...],
        generator: torch.Generator | None,
        trace: Trace | None,
    ) -> dict[str, Tensor]:
        layer, levels = self.steps[s]
        projected = {t: self.project[f"{s}-{i}"](x[t]) for i, t in enumerate(self.types)}
        new = dict(x)
        for t in wanted:
            found, i = [], self.types.index(t)
            for level in levels:
                if f"{s}-{level}-{i}" not in self.levels:
                    continue
                block = batch.blocks[level, t]
                sources = torch.cat([projected[u] for u in block.sources])
                out, seen = self.levels[f"{s}-{level}-{i}"](sources, projected[t], block, generator)
                found.append(out)
                if trace is not None:
                    trace.seen[layer, level, t], trace.blocks[layer, level, t] = seen, block
            if len(found) == 2:
                both = self.fuse[f"{s}-{i}"](torch.cat(found, 1))
                if self.options.fusion == "gate":
                    gate = both.sigmoid()
                    both = gate * found[0] + (1 - gate) * found[1]
                found = [both]
            if found:
                new[t] = drop(found[0], self.options.dropout, generator)
        return new


class Perceptron(nn.Module):
    """An MLP on a node's own features, with the calls of `Dhan`."""

    def __init__(
        self, nodes: tuple[NodeType, ...], options: DhanOptions, generator: torch.Generator, quiet: bool = True
    ) -> None:
        super().__init__()
        self.options, d = options, options.hidden
        self.types = tuple(n.name for n in nodes)
        self.input = nn.ModuleList([Input(n, options, generator, quiet) for n in nodes])
        self.inner = nn.ParameterList([parameter(d, d, generator=generator) for _ in nodes])

    def forward(
        self,
        batch: Batch,
        wanted: tuple[str, ...] | None = None,
        generator: torch.Generator | None = None,
        trace: Trace | None = None,
    ) -> dict[str, Tensor]:
        """With a generator there is dropout."""
        out = {}
        for t, part, inner in zip(self.types, self.input, self.inner, strict=True):
            if wanted is None or t in wanted:
                x = drop(F.gelu(part(batch.columns[t], generator)), self.options.dropout, generator)
                out[t] = x @ inner
        return out
