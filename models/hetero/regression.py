"""Logistic regression to convergence.

Shapes: n rows, D features, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS, TOLERANCE = 60, 1e-5
"""Largest number of L-BFGS iterations, and the change of the loss at which it stops."""


def cross_entropy(logits: Tensor, actual: Tensor, single: bool) -> Tensor:
    """Of a softmax, or of a sigmoid for each class. shape: [B, C], [B, C] -> []"""
    return F.cross_entropy(logits, actual) if single else F.binary_cross_entropy_with_logits(logits, actual)


def regress(x: Tensor, actual: Tensor, single: bool, decays: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Logistic regression with weight decay, by L-BFGS, for each decay. shape: [n, D], [n, C] -> [D, C], [C]

    Rows are scaled to a mean length of 1. With fewer rows than features the regression runs in the span of the rows,
    which contains the solution.
    """
    scale = x.norm(dim=1).mean().clamp_min(1e-12)
    z, back = x / scale, None
    if len(z) < z.shape[1]:
        values, vectors = torch.linalg.eigh((z @ z.T).double())
        root = values.clamp_min(values[-1] * 1e-10).clamp_min(1e-300).sqrt()
        back = z.T @ (vectors / root).to(z.dtype)
        z = (vectors * root).to(z.dtype)
    weights = torch.zeros(z.shape[1], actual.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(actual.shape[1], device=x.device, requires_grad=True)
    out = []
    for decay in sorted(decays, reverse=True):
        optimiser = torch.optim.LBFGS(
            [weights, bias], max_iter=STEPS, tolerance_change=TOLERANCE, line_search_fn="strong_wolfe"
        )

        def loss(decay: float = decay, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = cross_entropy(z @ weights + bias, actual, single) + decay * weights.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        found = weights.detach() if back is None else back @ weights.detach()
        out.append((found / scale, bias.detach().clone()))
    return out[::-1]
