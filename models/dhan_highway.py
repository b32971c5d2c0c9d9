"""A linear model on features averaged along paths, beside the network: what few labels can teach without overfitting.

Weights start at zero, so that what no train node shows says nothing; logits are averaged instead of features, which is
the same for a linear model. Shapes: N nodes, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.dhan import Batch, Columns, averaged
from graphlearn.models.hetero import NodeType

RESTARTS = (0.1, 0.2, 0.5, 0.8)
ROUNDS = 10
CHUNK = 256
STEPS = 300
PATIENCE = 40
RATE = 0.05
DECAY = 1e-5
UNMEASURED = 60
"""Steps without a validation part."""


class Linear(nn.Module):
    """Features of a type to logits; nothing of a type without features."""

    def __init__(self, node: NodeType, classes: int) -> None:
        super().__init__()
        features = node.features
        dense = 0 if features is None or features.dense is None else features.dense.shape[1]
        sparse = 0 if features is None else features.sparse_width
        self.dense = nn.Parameter(torch.zeros(dense, classes))
        self.sparse = nn.Parameter(torch.zeros(sparse, classes))

    def forward(self, columns: Columns) -> Tensor:
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


class Highway(nn.Module):
    """restart: the share of itself that a node keeps in each round of averaging; 1 averages nothing."""

    def __init__(self, nodes: tuple[NodeType, ...], target: str, classes: int) -> None:
        super().__init__()
        self.target, self.types = target, tuple(n.name for n in nodes)
        self.linear = nn.ModuleList([Linear(n, classes) for n in nodes])
        self.bias = nn.Parameter(torch.zeros(classes))
        self.restart: Tensor
        self.register_buffer("restart", torch.ones(()))

    def forward(self, batch: Batch) -> Tensor:
        """Logits of every node of the target type. shape: -> [N, C]"""
        x = {t: part(batch.columns[t]) for t, part in zip(self.types, self.linear, strict=True)}
        return spread(x, batch, float(self.restart))[self.target] + self.bias

    def fit(
        self,
        batch: Batch,
        actual: Tensor,
        train: Tensor,
        valid: Tensor,
        single: bool,
        measure: Callable[[Tensor], float],
    ) -> None:
        """Weights and restart, chosen by what `measure` gives for the logits of the validation part, lower is better.

        shape: [N, C], [n], [m]
        """
        restarts = RESTARTS if len(valid) else RESTARTS[1:2]
        rows = torch.cat([train, valid])
        features = averaged_rows(batch, self.types, self.target, rows, restarts)
        n, best = len(train), math.inf
        kept: tuple[Tensor, Tensor, float] | None = None
        for restart, x in features.items():
            weights = torch.zeros(x.shape[1], actual.shape[1], device=x.device, requires_grad=True)
            bias = torch.zeros(actual.shape[1], device=x.device, requires_grad=True)
            optimiser = torch.optim.Adam([weights, bias], lr=RATE)
            least, since = math.inf, 0
            for _ in range(STEPS if len(valid) else UNMEASURED):
                logits = x[:n] @ weights + bias
                loss = cross_entropy(logits, actual[train], single) + DECAY * weights.square().sum()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                score = -math.inf
                if len(valid):
                    with torch.no_grad():
                        score = measure(x[n:] @ weights + bias)
                since = 0 if score < least else since + 1
                least = min(least, score)
                if score < best or not len(valid):
                    best, kept = score, (weights.detach().clone(), bias.detach().clone(), restart)
                if len(valid) and since >= PATIENCE:
                    break
        if kept is not None:
            self._take(*kept)

    def _take(self, weights: Tensor, bias: Tensor, restart: float) -> None:
        with torch.no_grad():
            self.bias.copy_(bias)
            self.restart.fill_(restart)
            lo = 0
            for part in self.linear:
                for p in (part.dense, part.sparse):
                    assert isinstance(p, Tensor)
                    p.copy_(weights[lo : lo + len(p)])
                    lo += len(p)


def cost(batch: Batch) -> int:
    """Multiplications that `averaged_rows` needs."""
    width = sum(_width(c) for c in batch.columns.values())
    return ROUNDS * width * sum(len(b.src) for (level, _), b in batch.blocks.items() if level == "all")


def _width(columns: Columns) -> int:
    return (0 if columns.dense is None else columns.dense.shape[1]) + columns.width


def _dense(columns: Columns, lo: int, hi: int) -> Tensor:
    """Columns lo .. hi - 1 of features, the dense part first. shape: [N, hi - lo]"""
    out = torch.zeros(len(columns.nodes), hi - lo, device=columns.nodes.device)
    first = 0 if columns.dense is None else columns.dense.shape[1]
    if columns.dense is not None and lo < first:
        out[:, : min(hi, first) - lo] = columns.dense[:, lo:hi]
    if columns.indices is not None:
        assert columns.offset is not None
        assert columns.values is not None
        at = columns.indices + (first - lo)
        inside = (at >= 0) & (at < hi - lo)
        row = torch.repeat_interleave(columns.offset.diff())
        out[row[inside], at[inside]] = columns.values[inside]
    return out


def averaged_rows(
    batch: Batch, types: tuple[str, ...], target: str, rows: Tensor, restarts: Sequence[float]
) -> dict[float, Tensor]:
    """Averaged features of some nodes of the target type by restart, for all restarts in one go.

    shape: [n] -> [n, widths of all types]
    """
    out: dict[float, list[Tensor]] = {r: [] for r in restarts}
    for t in types:
        width = _width(batch.columns[t])
        for lo in range(0, width, CHUNK):
            own = _dense(batch.columns[t], lo, min(width, lo + CHUNK))
            x = {u: own if u == t else own.new_zeros(len(batch.columns[u].nodes), own.shape[1]) for u in types}
            total = {r: r * x[target][rows] for r in restarts}
            for k in range(1, ROUNDS + 1):
                x = step(x, batch)
                for r in restarts:
                    total[r] += (1 - r) ** k * (r if k < ROUNDS else 1) * x[target][rows]
            for r in restarts:
                out[r].append(total[r])
    none = torch.zeros(len(rows), 0, device=rows.device)
    return {r: torch.cat([none, *parts], 1) for r, parts in out.items()}


def step(x: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The mean over a type's channels of their neighbours' mean; a node without neighbours keeps what it has."""
    new = dict(x)
    for t, own in x.items():
        block = batch.blocks.get(("all", t))
        if block is not None:
            mixed = averaged(x, block, own.new_zeros(block.R))
            new[t] = torch.where(block.present.any(1, keepdim=True), mixed, own)
    return new


def spread(x: Mapping[str, Tensor], batch: Batch, restart: float) -> dict[str, Tensor]:
    """ROUNDS steps of averaging, each back to the start with the share `restart`."""
    current = dict(x)
    for _ in range(ROUNDS):
        moved = step(current, batch)
        current = {t: (1 - restart) * moved[t] + restart * own for t, own in x.items()}
    return current


def cross_entropy(logits: Tensor, actual: Tensor, single: bool) -> Tensor:
    """Of a softmax, or of a sigmoid for each class. shape: [B, C], [B, C] -> []"""
    return F.cross_entropy(logits, actual) if single else F.binary_cross_entropy_with_logits(logits, actual)
