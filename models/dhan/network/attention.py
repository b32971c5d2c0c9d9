"""Dual hierarchical attention over a block: among the neighbours of each channel, then among the channels.

Zhao et al., TKDE 2023 (the encoder); Velickovic et al. 2018 (gat); Brody et al. 2022 (gatv2). Shapes: N targets, R
channels, E edges, S source rows, H heads, d width, K = d / H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphlearn.models.core.dropout import drop
from graphlearn.models.dhan.graph.edges import Block
from graphlearn.models.dhan.options import DhanOptions

SLOPE = 0.2


def segment_sum(values: Tensor, group: Tensor, count: int) -> Tensor:
    """shape: [E, ...], [E] -> [count, ...]"""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, group, values)


def segment_softmax(logits: Tensor, group: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax within each group, and the groups' log-sum-exp; group ascending.

    shape: [E, H], [E], [G + 1] -> [E, H], [G, H]
    """
    G = len(offset) - 1
    top = torch.segment_reduce(logits.detach(), "max", offsets=offset, axis=0, unsafe=True)
    top = torch.where(torch.isfinite(top), top, 0.0)
    raised = (logits - top[group]).exp()
    total = segment_sum(raised, group, G)
    return raised / total[group], total.clamp_min(1e-30).log() + top


def weighted_sums(x: Tensor, alpha: Tensor, src: Tensor, offset: Tensor) -> Tensor:
    """Sum of alpha * x[src] within each group and head, without an array [E, width].

    shape: [S, H, K], [E, H], [E], [G + 1] -> [G, H, K]
    """
    S, H, K = x.shape
    E, G = len(src), len(offset) - 1
    if H == 1:
        rows, ends, weights, table = src, offset[:-1], alpha[:, 0], x[:, 0]
    else:
        heads = torch.arange(H, device=src.device)[:, None]
        rows, ends = (src + heads * S).view(-1), (offset[:-1] + heads * E).view(-1)
        weights, table = alpha.T.reshape(-1), x.transpose(0, 1).reshape(H * S, K)
    if E == 0:
        return x.new_zeros(G, H, K)
    out = F.embedding_bag(rows, table, ends, mode="sum", per_sample_weights=weights)
    return out.view(H, G, K).transpose(0, 1)


def mean_sources(x: Tensor, block: Block) -> Tensor:
    """The sources, followed by the mean of each hub's members. shape: [S, d] -> [S + hubs, d]"""
    pairs = block.pairs
    if pairs is None:
        return x
    hubs = weighted_sums(x[:, None], pairs.share[:, None], pairs.src, pairs.offset)
    return torch.cat([x, hubs[:, 0]])


@dataclass(frozen=True)
class Attention:
    """Attention weights. alpha: of neighbours [E, H]; hub: of the members of hubs [P, H]; mix: of channels [N, R]."""

    alpha: Tensor
    hub: Tensor | None
    mix: Tensor


def parameter(*shape: int, generator: torch.Generator, deviation: float | None = None) -> nn.Parameter:
    """Normally distributed, by default with deviation 1 / sqrt(first dimension)."""
    spread = 1 / math.sqrt(shape[0]) if deviation is None else deviation
    return nn.Parameter(torch.randn(shape, generator=generator) * spread)


class Level(nn.Module):
    """One level (intra or inter) of one layer for one target type.

    Linear scores depend on the source alone: the term of the target cancels in a softmax over its neighbours, and
    likewise over channels. Members of a hub are scored linearly; the linear score of a hub is their log-sum-exp, which
    gives the softmax over all pairs of members (a pair counts once for each hub it shares).
    """

    def __init__(self, channels: int, options: DhanOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.options = options
        d, H, R = options.hidden, options.heads, channels
        K = d // H
        self.from_source = nn.Parameter(torch.randn(R, H, K, generator=generator) / math.sqrt(K))
        if options.attention == "gat":
            self.from_target = nn.Parameter(torch.randn(R, H, K, generator=generator) / math.sqrt(K))
            self.ask = parameter(d, 1, generator=generator)
        if options.attention == "gatv2":
            self.both = nn.Parameter(torch.randn(R, H, K, generator=generator) / math.sqrt(K))
            self.target = parameter(d, d, generator=generator)
            self.ask = parameter(d, d, generator=generator)
        self.norm_scale = nn.Parameter(torch.ones(R, d))
        self.norm_bias = nn.Parameter(torch.zeros(R, d))
        self.out = parameter(d, d, generator=generator)
        self.score = parameter(d, 1, generator=generator)
        self.general = nn.Parameter(torch.zeros(R))
        self.mixing = nn.Parameter(torch.zeros(()))
        self.residual = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(d)

    def neighbours(
        self, sources: Tensor, target: Tensor, block: Block, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Node level. shape: [S, d], [N, d] -> [N, R, d], alpha [E, H], hub alpha [P, H]"""
        options = self.options
        H, R, p = options.heads, block.R, options.attention_dropout
        x = sources.view(len(sources), H, -1)
        scores = torch.einsum("shk,rhk->srh", x, self.from_source)
        within, pairs = None, block.pairs
        if pairs is not None:
            logits = scores.flatten(0, 1)[pairs.src * R + pairs.channel]
            if pairs.log_weight is not None:
                logits = logits + pairs.log_weight[:, None]
            within, mass = segment_softmax(logits, pairs.hub, pairs.offset)
            hubs = weighted_sums(x, drop(within, p, generator), pairs.src, pairs.offset)
            x = torch.cat([x, hubs])
            more = mass[:, None].expand(-1, R, -1)
            if options.attention == "gat":
                more = torch.einsum("shk,rhk->srh", hubs, self.from_source)
            scores = torch.cat([scores, more])
        if options.attention == "gatv2":
            asked = (target @ self.target).view(len(target), H, -1)
            logits = (F.leaky_relu(x[block.src] + asked[block.dst], SLOPE) * self.both[block.channel]).sum(-1)
        else:
            logits = scores.flatten(0, 1)[block.src * R + block.channel]
            if options.attention == "gat":
                asked = torch.einsum("nhk,rhk->nrh", target.view(len(target), H, -1), self.from_target)
                logits = F.leaky_relu(logits + asked.flatten(0, 1)[block.group], SLOPE)
        if block.log_weight is not None:
            logits = logits + block.log_weight[:, None]
        alpha, _ = segment_softmax(logits, block.group, block.offset)
        sums = weighted_sums(x, drop(alpha, p, generator), block.src, block.offset)
        return sums.reshape(block.count, R, -1), alpha, within

    def forward(
        self, sources: Tensor, target: Tensor, block: Block, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Attention]:
        """The new states of the targets. shape: [S, d], [N, d] -> [N, d]"""
        options = self.options
        gathered, alpha, within = self.neighbours(sources, target, block, generator)
        h = F.layer_norm(gathered, gathered.shape[-1:]) * self.norm_scale + self.norm_bias
        h = F.leaky_relu(h) @ self.out
        if options.attention == "linear":
            scores = (h @ self.score)[..., 0]
        elif options.attention == "gat":
            scores = F.leaky_relu(h @ self.score + (target @ self.ask)[:, None], SLOPE)[..., 0]
        else:
            scores = (F.leaky_relu(h + (target @ self.ask)[:, None], SLOPE) @ self.score)[..., 0]
        general = self.general.softmax(0).expand_as(scores)
        if options.mask:
            own = torch.where(block.present, scores, -1e30).softmax(1) * block.present
            general = general * block.present
            general = general / general.sum(1, keepdim=True).clamp_min(1e-12)
        else:
            own = scores.softmax(1)
        m = self.mixing.sigmoid()
        mix = (1 - m) * own + m * general
        z = torch.einsum("nr,nrd->nd", mix, h)
        k = self.residual.sigmoid()
        return self.norm(k * F.gelu(z) + (1 - k) * target), Attention(alpha, within, mix)
