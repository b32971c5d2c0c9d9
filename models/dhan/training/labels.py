"""Labels of the training nodes averaged along paths, as channels (Yang et al. 2023, SeHGNN).

Training nodes are divided into folds. A node of a fold reads channels computed without the labels of its fold, all
other nodes read those of all training labels, so no path returns a label to its own node.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.dhan.graph.edges import Block
from graphlearn.models.dhan.network.attention import mean_sources, weighted_sums
from graphlearn.models.dhan.network.hops import averaged
from graphlearn.types import BoolArray, FloatArray

FOLDS = 10
ROUNDS = 4
KEPT = 0.9


def _spread(start: Tensor, target: str, counts: Mapping[str, int], blocks: Mapping[tuple[str, str], Block]) -> Tensor:
    """A label channel per channel into the type, and one for a walk of ROUNDS steps. shape: [N, C] -> [N, Q, C]"""
    x = {t: start.new_zeros(n, start.shape[1]) for t, n in counts.items()}
    x[target] = start
    total = torch.zeros_like(start)
    reading = blocks["all", target]
    near = start.new_zeros(reading.count, reading.R, start.shape[1])
    for k in range(ROUNDS):
        new = {}
        for t, own in x.items():
            block = blocks.get(("all", t))
            new[t] = own if block is None else averaged(x, block, start.new_zeros(block.R))
        if k < 2:
            sources = mean_sources(torch.cat([x[t] for t in reading.sources]), reading)
            found = weighted_sums(sources[:, None], reading.share[:, None], reading.src, reading.offset)
            mine = [r for r, c in enumerate(reading.channels) if (c.source == target) == (k == 0)]
            near[:, mine] = found.reshape(near.shape)[:, mine]
        x = new
        total = total + KEPT**k * x[target]
    return torch.cat([near, total[:, None]], 1)


def label_channels(
    labels: FloatArray,
    train: BoolArray,
    target: str,
    counts: Mapping[str, int],
    blocks: Mapping[tuple[str, str], Block],
    seed: int,
) -> Tensor:
    """Training labels of the neighbours, relative to the share of each class; 0 where there are none.

    shape: [N, C], [N] -> [N, Q * C]
    """
    block = blocks.get(("all", target))
    if block is None:
        return torch.zeros(len(labels), 0)
    device = block.src.device
    known = np.flatnonzero(train)
    fold = np.full(len(labels), -1)
    fold[known] = np.random.default_rng([seed, 13]).permutation(len(known)) % FOLDS
    weights = np.concatenate([labels, np.ones((len(labels), 1), np.float32)], 1)
    out: Tensor | None = None
    for f in range(-1, min(FOLDS, len(known))):
        shown = train & (fold != f) if f >= 0 else train
        start = torch.from_numpy(np.where(shown[:, None], weights, 0).astype(np.float32)).to(device)
        found = _spread(start, target, counts, blocks)
        prior = torch.from_numpy(labels[shown].mean(0, dtype=np.float32)).to(device)
        mass = found[..., -1:]
        typical = mass.sum(0, keepdim=True) / (mass > 0).sum(0, keepdim=True).clamp_min(1)
        found = (found[..., :-1] - prior * mass) / (mass + typical).clamp_min(1e-12)
        rows = torch.from_numpy(np.flatnonzero(fold == f)).to(device)
        out = found if out is None else out.index_copy(0, rows, found[rows])
    assert out is not None
    return out.flatten(1)
