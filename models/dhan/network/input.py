"""The input layer: features of a node type to d columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.core.dropout import drop
from graphlearn.models.dhan.network.attention import parameter
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.features import FeatureBatch
from graphlearn.models.hetero.graph import NodeType

QUIET, LOUD = 0.01, 0.2
"""Initial deviation of sparse weights. With few labels, features that no training node has should matter little."""


class Input(nn.Module):
    """Projects features of a type to d columns; a type without features has a learnt vector per node."""

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
            if options.variant == "paper":
                spread = math.sqrt(2 / (features.sparse_width + d))
            self.sparse = parameter(features.sparse_width, d, generator=generator, deviation=spread)

    def forward(self, columns: FeatureBatch, generator: torch.Generator | None) -> Tensor:
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
