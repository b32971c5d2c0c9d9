"""The baseline that reads a node's own features and no edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.core.dropout import drop
from graphlearn.models.dhan.network.attention import parameter
from graphlearn.models.dhan.network.batch import Batch, Trace
from graphlearn.models.dhan.network.input import Input
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.graph import NodeType


class MLP(nn.Module):
    """An MLP on a node's own features, with the interface of `Dhan`."""

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
        """A generator turns dropout on."""
        out = {}
        for t, part, inner in zip(self.types, self.input, self.inner, strict=True):
            if wanted is None or t in wanted:
                x = drop(F.gelu(part(batch.columns[t], generator)), self.options.dropout, generator)
                out[t] = x @ inner
        return out
