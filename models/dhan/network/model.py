"""DHAN: dual hierarchical attention on graphs of any number of node types and relations. Zhao et al., TKDE 2023.

Features of each type are projected, averaged along paths, and passed through attention levels within and between types.
Averaging is linear, so projecting first gives the same numbers as averaging the features, but with only d columns.

Shapes: N nodes of a type, d hidden, K hops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graphlearn.models.core.dropout import drop
from graphlearn.models.dhan.graph.edges import Channel
from graphlearn.models.dhan.network.attention import Level, parameter
from graphlearn.models.dhan.network.batch import Batch, Trace
from graphlearn.models.dhan.network.hops import Hops
from graphlearn.models.dhan.network.input import Input
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.graph import NodeType


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
        """A generator turns dropout on. The last step computes the wanted types only."""
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
                out, weights = self.levels[f"{s}-{level}-{i}"](sources, projected[t], block, generator)
                found.append(out)
                if trace is not None:
                    trace.attention[layer, level, t], trace.blocks[layer, level, t] = weights, block
            if len(found) == 2:
                both = self.fuse[f"{s}-{i}"](torch.cat(found, 1))
                if self.options.fusion == "gate":
                    gate = both.sigmoid()
                    both = gate * found[0] + (1 - gate) * found[1]
                found = [both]
            if found:
                new[t] = drop(found[0], self.options.dropout, generator)
        return new
