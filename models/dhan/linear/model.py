"""A linear model on features averaged along paths, combined with the network; it overfits less when labels are few.

Logits are averaged instead of features, which is the same for a linear model. See linear_fit.py for the fit.
Shapes: N nodes, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.dhan.network.batch import Batch
from graphlearn.models.dhan.network.hops import averaged
from graphlearn.models.hetero.features import FeatureBatch, dense_columns, width_of
from graphlearn.models.hetero.graph import NodeType

Mix: TypeAlias = Mapping[str, Tensor]

ROUNDS = 10
CHUNK = 512


class TypeLinear(nn.Module):
    """Maps features of a type to logits; 0 for a type without features."""

    def __init__(self, node: NodeType, classes: int) -> None:
        super().__init__()
        features = node.features
        dense = 0 if features is None or features.dense is None else features.dense.shape[1]
        sparse = 0 if features is None else features.sparse_width
        self.dense = nn.Parameter(torch.zeros(dense, classes))
        self.sparse = nn.Parameter(torch.zeros(sparse, classes))

    def forward(self, columns: FeatureBatch) -> Tensor:
        """shape: -> [N, C]"""
        out = self.dense.new_zeros(len(columns.nodes), self.dense.shape[1])
        if columns.dense is not None:
            out = out + columns.dense @ self.dense
        if columns.indices is not None and len(columns.indices):
            assert columns.offset is not None
            values = columns.values
            out = out + F.embedding_bag(
                columns.indices, self.sparse, columns.offset[:-1], mode="sum", per_sample_weights=values
            )
        return out


class LinearModel(nn.Module):
    """restart: share of its own features that a node keeps in each round of averaging; 1 averages nothing.

    mix: for each type, logits of the weights of the channels into it. shape: [R]
    """

    def __init__(self, nodes: tuple[NodeType, ...], channels: Mapping[str, int], target: str, classes: int) -> None:
        super().__init__()
        self.target, self.types = target, tuple(n.name for n in nodes)
        self.per_type = nn.ModuleList([TypeLinear(n, classes) for n in nodes])
        self.bias = nn.Parameter(torch.zeros(classes))
        self.mixes = nn.ParameterList([nn.Parameter(torch.zeros(channels.get(t, 0))) for t in self.types])
        self.restart: Tensor
        self.register_buffer("restart", torch.ones(()))

    @property
    def mix(self) -> Mix:
        """By type."""
        return dict(zip(self.types, self.mixes, strict=True))

    def forward(self, batch: Batch) -> Tensor:
        """Logits of every node of the target type. shape: -> [N, C]"""
        return spread(self._own(batch), batch, self.mix, float(self.restart))[self.target] + self.bias

    def last_step(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Logits of each node's own features, and logits before the last step of averaging. shape: {type: [N, C]}"""
        own = self._own(batch)
        return own, spread(own, batch, self.mix, float(self.restart), ROUNDS - 1)

    def _own(self, batch: Batch) -> dict[str, Tensor]:
        return {t: part(batch.columns[t]) for t, part in zip(self.types, self.per_type, strict=True)}

    def take(self, weights: Tensor, bias: Tensor, mix: Mix, restart: float) -> None:
        """Set the fitted values; rows of the weights are the features of all types, in order."""
        with torch.no_grad():
            self.bias.copy_(bias)
            self.restart.fill_(restart)
            for t, logits in self.mix.items():
                logits.copy_(mix[t])
            lo = 0
            for part in self.per_type:
                for p in (part.dense, part.sparse):
                    assert isinstance(p, Tensor)
                    p.copy_(weights[lo : lo + len(p)])
                    lo += len(p)


def features_of(batch: Batch) -> int:
    """Columns of all types together."""
    return sum(width_of(c) for c in batch.columns.values())


def cost(batch: Batch, width: int) -> int:
    """Multiplications to average that many columns."""
    return ROUNDS * width * sum(len(b.src) for (level, _), b in batch.blocks.items() if level == "all")


def averaged_rows(
    batch: Batch, mix: Mix, target: str, rows: Tensor, restarts: Sequence[float], sketch: Mapping[str, Tensor]
) -> dict[float, Tensor]:
    """Averaged features of some nodes of the target type, by restart, in one pass for all of them.

    With a sketch ([N, width] for each type) these columns are averaged instead. shape: [n] -> [n, widths of all types]
    """
    out: dict[float, list[Tensor]] = {r: [] for r in restarts}
    for start in [dict(sketch)] if sketch else _chunks(batch, mix):
        x = start
        total = {r: r * x[target][rows] for r in restarts}
        for k in range(1, ROUNDS + 1):
            x = step(x, batch, mix)
            for r in restarts:
                total[r] += (1 - r) ** k * (r if k < ROUNDS else 1) * x[target][rows]
        for r in restarts:
            out[r].append(total[r])
    none = torch.zeros(len(rows), 0, device=rows.device)
    return {r: torch.cat([none, *parts], 1) for r, parts in out.items()}


def _chunks(batch: Batch, types: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The features in blocks of columns of one type, with zeros for the other types."""
    for t in types:
        width = width_of(batch.columns[t])
        for lo in range(0, width, CHUNK):
            own = dense_columns(batch.columns[t], lo, min(width, lo + CHUNK))
            yield {u: own if u == t else own.new_zeros(len(batch.columns[u].nodes), own.shape[1]) for u in types}


def sketched(batch: Batch, types: Iterable[str], width: int) -> dict[str, Tensor]:
    """Random projection of the features of all types to few columns, which approximates inner products.

    shape: -> [N, width]
    """
    generator = torch.Generator().manual_seed(0)
    out = {}
    for t in types:
        columns = batch.columns[t]
        out[t] = torch.zeros(len(columns.nodes), width, device=columns.nodes.device)
        for lo in range(0, width_of(columns), CHUNK):
            own = dense_columns(columns, lo, min(width_of(columns), lo + CHUNK))
            signs = torch.randint(0, 2, (own.shape[1], width), generator=generator).to(own) * 2 - 1
            out[t] += own @ signs / math.sqrt(width)
    return out


def step(x: Mapping[str, Tensor], batch: Batch, mix: Mix) -> dict[str, Tensor]:
    """The weighted mean over channels of their neighbours' mean; nodes without neighbours are unchanged."""
    new = dict(x)
    for t, own in x.items():
        block = batch.blocks.get(("all", t))
        if block is not None:
            mixed = averaged(x, block, mix[t])
            new[t] = torch.where(block.present.any(1, keepdim=True), mixed, own)
    return new


def spread(x: Mapping[str, Tensor], batch: Batch, mix: Mix, restart: float, rounds: int = ROUNDS) -> dict[str, Tensor]:
    """Steps of averaging, each with the share `restart` of the start."""
    current = dict(x)
    for _ in range(rounds):
        moved = step(current, batch, mix)
        current = {t: (1 - restart) * moved[t] + restart * own for t, own in x.items()}
    return current
