"""NET3: graph convolution over all subsets of modes, and an LSTM on a Tucker core. Jing, Tong, Zhu, WWW 2021.

One time step is a tensor S_t [N1, ..., NM]. TGCN computes D channels per cell, TRNN carries a state through time on a
core of size Q1 x ... x QM, an output head reads both. Optional additions: a linear AR skip, seasonal means, embeddings
of phases and entries, a learnt graph per mode. Everything is in z-scores.

Shapes: B windows, W their length, H horizon, N = N1 x ... x NM, D channels, C cycles, G = 4 gates, Q core entries of a
mode. Inside, channels come first and windows last, [D, N1, ..., NM, WB], so that every product along a mode is a matrix
product with long rows; WB stands for both dimensions folded into one, steps outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.core.dropout import drop
from graphlearn.models.net3.network.layers import (
    EPS,
    TGCN,
    TRNN,
    Embeddings,
    Head,
    LinearSkip,
    not_in_core,
    windows_last,
)
from graphlearn.models.net3.network.mode_products import Graph
from graphlearn.models.net3.options import Net3Options
from graphlearn.types import FloatArray


class Net3(nn.Module):
    """Forecasts H steps from a window, in z-scores.

    graphs: edges by mode number, for the modes that have a graph. periods: of the calendar's cycles. profile: seasonal
    means [period, N...] by cycle. coefficients: initial values of the linear skip, by default the last value.
    """

    def __init__(
        self,
        shape: Sequence[int],
        graphs: Mapping[int, Graph],
        options: Net3Options,
        *,
        periods: Sequence[int] = (),
        profile: Sequence[FloatArray] = (),
        coefficients: FloatArray | np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None,
    ) -> None:
        super().__init__()
        self.options, self.shape = options, tuple(shape)
        generator = torch.Generator().manual_seed(options.seed)
        self.tgcn = TGCN(shape, graphs, 1, options, generator)
        self.trnn = TRNN(shape, options, generator)
        self.embeddings = Embeddings(shape, periods, options, generator)
        self.linear_skip: LinearSkip | None = None
        if options.linear_skip != "none":
            if coefficients is None:
                coefficients = np.zeros((options.window + 1, options.horizon))
                coefficients[-2] = 1
                if options.linear_skip == "series":
                    coefficients = np.broadcast_to(coefficients, (*shape, *coefficients.shape)).copy()
            self.linear_skip = LinearSkip(coefficients)
        self.head = Head(shape, 2 * options.dim, options.horizon, options, self.linear_skip is not None, generator)
        self.tables = [f"profile_{c}" for c in range(len(profile))] if options.calendar else []
        for name, table in zip(self.tables, profile, strict=False):
            self.register_buffer(name, torch.from_numpy(np.asarray(table, np.float32)))

    def season(self, phases: Tensor) -> Tensor | float:
        """Seasonal means at the phases. shape: [B, L, C] -> [B, L, N1, ..., NM], or 0 without any"""
        return sum((getattr(self, name)[phases[..., c]] for c, name in enumerate(self.tables)), start=0.0)

    def forward(
        self,
        z: Tensor,
        seen: Tensor,
        phases: Tensor,
        dropout: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forecasts, and the norm of the part of H outside the core, mean over windows and steps.

        A missing cell is replaced by the model's forecast from the step before (the mean at the first step).
        z, seen: [B, W, N1, ..., NM]; phases: [B, W + H, C]. A generator turns dropout on. -> [B, H, N...], scalar
        """
        W = z.shape[1]
        season = self.season(phases)
        if not isinstance(season, float):
            z = z - season[:, :W]
        factors = self.trnn.orthonormal()
        if bool(seen.all()):
            h, core, y = self._all_steps(z, phases, factors)
        else:
            z, h, core, y = self._step_by_step(z, seen, phases, factors)
        out = self._output(z, h.reshape(*h.shape[:-1], W, -1)[..., -1, :], y, factors, dropout)
        lost = not_in_core(h, self.trnn.project(core, factors, up=True))
        return out + (season if isinstance(season, float) else season[:, W:]), lost

    def _all_steps(self, z: Tensor, phases: Tensor, factors: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Everything but the recurrence for all steps at once: H and its core [D, ..., WB], the last hidden state."""
        W = z.shape[1]
        h = self.tgcn(windows_last(z.unsqueeze(0)), self.embeddings(phases[:, :W].transpose(0, 1).flatten(0, 1)))
        core = self.trnn.project(h, factors)
        return h, core, self.trnn.run(core, W)

    def _step_by_step(
        self, z: Tensor, seen: Tensor, phases: Tensor, factors: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `_all_steps`, filling gaps on the way; the filled window comes first."""
        W = z.shape[1]
        filled = [z.new_zeros(z[:, 0].shape)] * W
        hs, cores, state = [], [], None
        guess = z.new_zeros(z[:, 0].shape)
        for t in range(W):
            step = torch.where(seen[:, t], z[:, t], guess)
            filled = [*filled[1:], step]
            h = self.tgcn(windows_last(step[None, :, None]), self.embeddings(phases[:, t]))
            core = self.trnn.project(h, factors)
            state = self.trnn.cell(self.trnn.linear(core, "x") + self.trnn.bias, state)
            if t + 1 < W:
                guess = self._output(torch.stack(filled, 1), h, state[0], factors, None)[:, 0]
            hs.append(h)
            cores.append(core)
        assert state is not None
        return torch.stack(filled, 1), torch.cat(hs, -1), torch.cat(cores, -1), state[0]

    def _output(
        self, z: Tensor, h: Tensor, y: Tensor, factors: list[Tensor], dropout: torch.Generator | None
    ) -> Tensor:
        """Head and linear skip from the window, the last H and the last hidden state. -> [B, H, N1, ..., NM]"""
        both = torch.cat([self.trnn.project(y, factors, up=True), h])
        out: Tensor = self.head(drop(both, self.options.dropout, dropout))
        return out if self.linear_skip is None else out + self.linear_skip(z)


def masked_loss(predicted: Tensor, actual: Tensor, mask: Tensor, kind: str) -> Tensor:
    """rmse, mse or mae over the cells of the mask; 0 with a gradient of 0 when it is empty. All of one shape."""
    error = torch.where(mask, predicted - torch.where(mask, actual, 0.0), 0.0)
    count = mask.sum().clamp_min(1)
    if kind == "mae":
        return error.abs().sum() / count
    mean = error.square().sum() / count
    return (mean + EPS).sqrt() if kind == "rmse" else mean
