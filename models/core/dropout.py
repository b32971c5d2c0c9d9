"""Dropout with an explicit generator, so that a step can be repeated."""

from __future__ import annotations

import torch
from torch import Tensor


def drop(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Zero each entry with probability p and scale the others by 1 / (1 - p); without a generator, x itself."""
    if generator is None or p == 0:
        return x
    keep = torch.rand(x.shape, generator=generator, device=x.device) >= p
    return x * keep / (1 - p)
