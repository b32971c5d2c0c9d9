"""Smooth recovery: the error of a low-rank completion, corrected from both sides in time and from neighbouring cells.

The completion L estimates each cell from all others. Where a cell is known, so is the error of L, e = z - L; a missing
cell is L plus a correction from the e of its neighbours in the graphs, in time and across each mode.
Shapes: B items, W = 2 window + 1 steps with the one to fill in the middle; otherwise as in model.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graphlearn.models.core.dropout import drop
from graphlearn.models.net3.network.layers import TGCN, TRNN, Embeddings, Head, not_in_core, windows_last, zeros
from graphlearn.models.net3.network.mode_products import Graph, mode_product
from graphlearn.models.net3.options import Net3Options

MIX_AT_MOST = 512


class Net3Smooth(nn.Module):
    """Fills the middle step of a window, in z-scores.

    TGCN reads three channels per cell: L, e (0 where missing) and whether the cell is known. One TRNN reads the past,
    one the future. The linear skip is linear in e: over the window for each series, and across each mode of at most
    512 entries with a learnt matrix. Everything starts at zero, so the model starts as the completion.
    """

    def __init__(
        self,
        shape: Sequence[int],
        graphs: Mapping[int, Graph],
        options: Net3Options,
        *,
        periods: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.options, self.shape = options, tuple(shape)
        generator = torch.Generator().manual_seed(options.seed)
        self.tgcn = TGCN(shape, graphs, 3, options, generator)
        self.past = TRNN(shape, options, generator)
        self.future = TRNN(shape, options, generator)
        self.embeddings = Embeddings(shape, periods, options, generator)
        self.head = Head(shape, 3 * options.dim, 1, options, True, generator)
        W = 2 * options.window + 1
        linear_skip = options.linear_skip != "none"
        self.linear_skip_time = zeros(W, *(shape if options.linear_skip == "series" else ())) if linear_skip else None
        self.linear_skip_mix = nn.ParameterDict(
            {str(m): zeros(n, n) for m, n in enumerate(shape) if linear_skip and 1 < n <= MIX_AT_MOST}
        )

    def forward(
        self, low: Tensor, error: Tensor, seen: Tensor, phases: Tensor, dropout: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The filled middle step, and the norm of the part of H outside the cores, mean over items and steps.

        low, error, seen: [B, W, N1, ..., NM] (error 0 where missing); phases: [B, W, C]. -> [B, N1, ..., NM], scalar
        """
        W = low.shape[1]
        middle = W // 2
        x = windows_last(torch.stack([low, error, seen.to(low.dtype)]))
        h = self.tgcn(x, self.embeddings(phases.transpose(0, 1).flatten(0, 1)))
        steps = h.reshape(*h.shape[:-1], W, -1)
        lost, found = h.new_zeros(()), [steps[..., middle, :]]
        for trnn, part in ((self.past, steps[..., : middle + 1, :]), (self.future, steps[..., middle:, :].flip(-2))):
            factors, part = trnn.orthonormal(), part.flatten(-2)
            core = trnn.project(part, factors)
            lost = lost + not_in_core(part, trnn.project(core, factors, up=True)) / 2
            found.append(trnn.project(trnn.run(core, middle + 1), factors, up=True))
        out = low[:, middle] + self.head(drop(torch.cat(found), self.options.dropout, dropout))[:, 0]
        if self.linear_skip_time is not None:
            weight = self.linear_skip_time.reshape(W, *(self.linear_skip_time.shape[1:] or (1,) * len(self.shape)))
            out = out + (error * weight).sum(1)
        if self.linear_skip_mix:
            moved = error[:, middle].movedim(0, -1).unsqueeze(0)
            mixed = [mode_product(moved, mix, int(m))[0] for m, mix in self.linear_skip_mix.items()]
            out = out + torch.stack(mixed).sum(0).movedim(-1, 0)
        return out, lost

    def penalty(self) -> Tensor:
        """Soft orthonormality of both cores; 0 when hard."""
        return self.past.penalty() + self.future.penalty()
