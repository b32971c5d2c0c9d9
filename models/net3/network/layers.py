"""Layers of NET3: graph convolution, the LSTM on a Tucker core, embeddings, output head, linear skip.

Shapes: B windows, W their length, H horizon, N = N1 x ... x NM, D channels, C cycles, G = 4 gates, Q core entries of a
mode. Channels come first and windows last, [D, N1, ..., NM, WB]: WB stands for both dimensions folded into one, steps
outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.net3.network.mode_products import Graph, gate_product, mode_product, normalise
from graphlearn.models.net3.options import Net3Options
from graphlearn.types import FloatArray

EPS = 1e-12


def _normal(shape: Sequence[int], deviation: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(tuple(shape), generator=generator) * deviation)


def zeros(*shape: int) -> nn.Parameter:
    """A parameter that starts at zero."""
    return nn.Parameter(torch.zeros(shape))


class TGCN(nn.Module):
    """H = ReLU([S times A_m for m in every subset] Theta + b + extra). shape: [d_in, N..., B] -> [D, N..., B]

    The terms are built mode by mode: those so far, and each of them multiplied by each matrix of the mode. A mode with
    a given and a learnt graph enters with one of them, or neither. The learnt graph is softmax(P) softmax(Q)^T, whose
    rows add up to one: soft groups of senders, mixed for each receiver; it is never formed (O(N r)).
    """

    def __init__(
        self,
        shape: Sequence[int],
        graphs: Mapping[int, Graph],
        d_in: int,
        options: Net3Options,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.given: list[list[str]] = []
        terms, rank = 1, options.learnt_rank
        self.receivers, self.senders = nn.ParameterDict(), nn.ParameterDict()
        for m, n in enumerate(self.shape):
            with torch.device("cpu"):  # from their values, even if nothing else is made
                found = normalise(graphs[m], n, directions=options.directions) if m in graphs else []
            self.given.append([f"graph_{m}_{k}" for k in range(len(found))])
            for name, a in zip(self.given[m], found, strict=True):
                self.register_buffer(name, a, persistent=False)
            learns = rank > 0 and n > 2
            if learns:
                self.receivers[str(m)] = _normal((n, min(rank, n)), 1.0, generator)
                self.senders[str(m)] = _normal((n, min(rank, n)), 1.0, generator)
            terms *= 1 + len(found) + learns
        self.terms = terms
        self.theta = _normal((terms * d_in, options.dim), 1 / math.sqrt(terms * d_in), generator)
        self.bias = zeros(options.dim)

    def subsets(self, x: Tensor) -> Tensor:
        """All products concatenated, the unchanged tensor first. shape: [d_in, N..., B] -> [terms * d_in, N..., B]"""
        terms = [x]
        for m in range(len(self.shape)):
            so_far = list(terms)
            for name in self.given[m]:
                terms += [mode_product(t, getattr(self, name), m) for t in so_far]
            if str(m) in self.receivers:
                take, give = self.senders[str(m)].softmax(0).T, self.receivers[str(m)].softmax(1)
                terms += [mode_product(mode_product(t, take, m), give, m) for t in so_far]
        return torch.cat(terms)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """`extra` is added before the ReLU and broadcasts against [D, N..., B]."""
        terms = self.subsets(x)
        out = (self.theta.T @ terms.flatten(1)).reshape(-1, *terms.shape[1:])
        out = out + self.bias.view(-1, *(1,) * (x.ndim - 1))
        return torch.relu(out if extra is None else out + extra)


class TRNN(nn.Module):
    """Tucker projection and an LSTM on the core. All four gates are computed at once, in the order f, i, o, g."""

    def __init__(self, shape: Sequence[int], options: Net3Options, generator: torch.Generator) -> None:
        super().__init__()
        self.hard = options.orthonormal == "hard"
        self.paper = options.variant == "paper"
        D = options.dim
        self.core = [max(1, min(n, options.core_limit, math.ceil(options.core * n))) for n in shape]
        self.factors = nn.ParameterList()
        for n, q in zip(shape, self.core, strict=True):
            start = torch.linalg.qr(torch.randn(n, q, generator=generator)).Q
            self.factors.append(nn.Parameter(start.contiguous()))
        self.weights = nn.ParameterDict({side: _normal((4, D, D), 1 / math.sqrt(D), generator) for side in ("x", "h")})
        self.modes = nn.ParameterDict()
        for side in ("x", "h"):
            for m, q in enumerate(self.core):
                self.modes[f"{side}{m}"] = _normal((4, q, q), 1 / math.sqrt(q), generator)
        self.bias = nn.Parameter(torch.zeros(4, D, *(1,) * (len(self.core) + 1)))

    def orthonormal(self) -> list[Tensor]:
        """The factors U_m. shape: [N_m, Q_m] each; orthonormal columns when they are hard."""
        if not self.hard:
            return list(self.factors)
        out = []
        for v in self.factors:
            q, r = torch.linalg.qr(v)
            out.append(q * torch.where(r.diagonal() < 0, -1.0, 1.0))
        return out

    def penalty(self) -> Tensor:
        """Sum of ||U^T U - I||, or of ||U U^T - I|| in the variant of the paper; 0 when the factors are hard."""
        total = self.bias.new_zeros(())
        for u in () if self.hard else self.factors:
            square = u @ u.T if self.paper else u.T @ u
            total = total + ((square - torch.eye(len(square), device=u.device)).square().sum() + EPS).sqrt()
        return total

    @staticmethod
    def project(x: Tensor, factors: Sequence[Tensor], up: bool = False) -> Tensor:
        """Into the core, or `up` from it. shape: [D, N1, ..., NM, B] <-> [D, Q1, ..., QM, B]"""
        for m, u in enumerate(factors):
            x = mode_product(x, u if up else u.T, m)
        return x

    def linear(self, x: Tensor, side: str) -> Tensor:
        """The tensor linear layers of all gates, without bias. shape: [D, Q1, ..., QM, B] -> [4, D, Q1, ..., QM, B]"""
        weights = self.weights[side].transpose(1, 2).flatten(0, 1)
        out: Tensor = (weights @ x.flatten(1)).reshape(4, *x.shape)
        for m in range(len(self.core)):
            out = gate_product(out, self.modes[f"{side}{m}"], m)
        return out

    def cell(self, gates: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """One step from x-gates with bias. shape: [4, D, Q..., B], (Y, C) [D, Q..., B] each -> the next (Y, C)"""
        if state is not None:
            gates = gates + self.linear(state[0], "h")
        f, i, o, g = gates.unbind()
        f, i, o, g = torch.sigmoid(f), torch.sigmoid(i), torch.sigmoid(o), torch.tanh(g)
        c = i * g
        if state is not None:
            c = c + f * state[1]
        return o * torch.tanh(c), c

    def run(self, z: Tensor, length: int) -> Tensor:
        """The last hidden state of sequences of `length` steps. shape: [D, Q1, ..., QM, WB] -> [D, Q1, ..., QM, B]"""
        gates = self.linear(z, "x") + self.bias
        state = None
        for step in gates.reshape(*gates.shape[:-1], length, -1).unbind(-2):
            state = self.cell(step, state)
        assert state is not None
        return state[0]


class Embeddings(nn.Module):
    """A vector for each entry and each phase, added before the ReLU."""

    def __init__(self, shape: Sequence[int], periods: Sequence[int], options: Net3Options, generator: torch.Generator):
        super().__init__()
        D, self.ndim = options.dim, len(tuple(shape))
        self.entries = nn.ParameterList([_normal((n, D), 0.1, generator) for n in shape] if options.identity else [])
        self.phases = nn.ParameterList([_normal((p, D), 0.1, generator) for p in periods] if options.calendar else [])

    def forward(self, phases: Tensor) -> Tensor | None:
        """shape: [B, C] -> broadcasts against [D, N1, ..., NM, B]; None when there is no embedding"""
        total: Tensor | None = None
        M = self.ndim
        for m, table in enumerate(self.entries):
            part = table.T.reshape(-1, *(1,) * m, len(table), *(1,) * (M - m))
            total = part if total is None else total + part
        for c, table in enumerate(self.phases):
            part = table.T[:, phases[:, c]].reshape(table.shape[1], *(1,) * M, -1)
            total = part if total is None else total + part
        return total


class Head(nn.Module):
    """Linear output: shared weights plus corrections per series. shape: [E, N1, ..., NM, B] -> [B, H, N1, ..., NM]

    A `zero` head starts at zero, so that the model starts as its linear skip or completion.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int,
        horizon: int,
        options: Net3Options,
        zero: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shape, n = tuple(shape), math.prod(shape)
        deviation = 0.0 if zero else 1 / math.sqrt(width)
        own = options.head == "series"
        has_shared = options.variant != "paper" or not own
        self.shared = _normal((horizon, width), deviation, generator) if has_shared else None
        self.own = _normal((n, horizon, width), deviation if self.shared is None else 0.0, generator) if own else None
        self.bias = zeros(n if own else 1, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """A linear map of each series' channels."""
        x = x.reshape(len(x), -1, x.shape[-1])
        if self.own is None:
            assert self.shared is not None
            out = (self.shared @ x.flatten(1)).reshape(-1, *x.shape[1:]).permute(2, 0, 1)
        else:
            weights = self.own if self.shared is None else self.own + self.shared
            out = (weights @ x.transpose(0, 1)).permute(2, 1, 0)
        return (out + self.bias.T).reshape(x.shape[-1], -1, *self.shape)


class LinearSkip(nn.Module):
    """Linear AR on the window. coefficients: [N, F, H], or [F, H] shared; F: the lags, oldest first, and a constant."""

    def __init__(self, coefficients: FloatArray | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        super().__init__()
        start = torch.from_numpy(np.ascontiguousarray(coefficients, np.float32))
        self.coefficients = nn.Parameter(start if start.ndim == 2 else start.reshape(-1, *start.shape[-2:]))

    def forward(self, x: Tensor) -> Tensor:
        """shape: [B, W, N1, ..., NM] -> [B, H, N1, ..., NM]"""
        shape, a = x.shape, self.coefficients
        x = x.reshape(*shape[:2], -1)
        if a.ndim == 2:
            out = torch.einsum("bwn,wh->bhn", x, a[:-1]) + a[-1].view(1, -1, 1)
        else:
            out = torch.einsum("bwn,nwh->bhn", x, a[:, :-1]) + a[:, -1].T
        return out.reshape(shape[0], -1, *shape[2:])


def windows_last(x: Tensor) -> Tensor:
    """Into the inner layout. shape: [D, B, W, N1, ..., NM] -> [D, N1, ..., NM, WB]"""
    return x.permute(0, *range(3, x.ndim), 2, 1).flatten(-2)


def not_in_core(h: Tensor, back: Tensor) -> Tensor:
    """Norm of the part of H outside the core, mean over windows and steps. shape: [D, N..., WB] both -> scalar"""
    return ((h - back).square().flatten(0, -2).sum(0) + EPS).sqrt().mean()
