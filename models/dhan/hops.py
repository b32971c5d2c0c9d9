"""Features averaged along paths, before any attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graphlearn.models.dhan.attention import mean_sources, weighted_sums
from graphlearn.models.dhan.batch import Batch
from graphlearn.models.dhan.edges import Block
from graphlearn.models.dhan.options import DhanOptions


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
