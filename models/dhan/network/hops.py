"""Features averaged along paths, before any attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graphlearn.models.dhan.graph.edges import Block
from graphlearn.models.dhan.network.attention import mean_sources, weighted_sums
from graphlearn.models.dhan.network.batch import Batch
from graphlearn.models.dhan.options import DhanOptions


class Hops(nn.Module):
    """Personalised propagation: each step takes the weighted mean over channels of their neighbours' mean, and keeps
    the share `restart` of the node's own features (Gasteiger et al. 2019, APPNP).

    The weights of channels are learnt. All paths share one projection, and their length is fixed: learning either from
    the training nodes overfits to their own features.
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
    """The means over each channel's neighbours, weighted by softmax(logits [R]) over the channels that have any.

    shape: {type: [N', d]} -> [N, d]
    """
    sources = mean_sources(torch.cat([x[t] for t in block.sources]), block)
    share = torch.where(block.present, logits, -1e30).softmax(1)
    weights = block.share * share.flatten()[block.group]
    ends = block.offset[:: block.R]
    return weighted_sums(sources[:, None], weights[:, None], block.src, ends)[:, 0]
