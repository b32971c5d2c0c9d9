"""What every model has in common: a query vector is compared with candidate entities.

All models score a triple as s(h, r, t) = sim(q(h, r), t) and, for the other end, as sim(q'(t, r), h). So one `project`
(the model's equation) and one similarity give the three access patterns of training and evaluation (LibKGE's
`combine`): "spo" row by row, "sp_" all tails, "_po" all heads.

Shapes: B queries, N candidates, D entity width, P prepared relation width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from graphlearn.models.kge.kernels import independent
from graphlearn.models.kge.kernels import score as score_kernels
from graphlearn.models.kge.options import KgeOptions
from graphlearn.types import Side

Kernel: TypeAlias = Callable[..., Any]
Combine: TypeAlias = Literal["spo", "sp_", "_po"]


@dataclass(frozen=True)
class Similarity:
    """Compares query vectors with candidates. `rows`: [B, D], [B, D] -> [B]. `pairs`: [B, D], [N, D] -> [B, N].

    `row_kernel` and `pair_kernel` are their compiled forms, each with its gradient. Similarities that are matrix
    products need no pair kernel. `independent_kernels` compare each query with candidates of its own.
    """

    name: str
    rows: Callable[[Tensor, Tensor], Tensor]
    pairs: Callable[[Tensor, Tensor], Tensor]
    row_kernel: tuple[Kernel, Kernel]
    independent_kernels: independent.IndependentKernels
    pair_kernel: tuple[Kernel, Kernel] | None = None


def _modulus_rows(q: Tensor, c: Tensor) -> Tensor:
    re, im = (q - c).chunk(2, dim=-1)
    return -torch.sqrt(re * re + im * im + 1e-20).sum(-1)


def _modulus_pairs(q: Tensor, c: Tensor) -> Tensor:
    rows = max(1, 2**24 // max(1, c.shape[0] * c.shape[1]))
    return torch.cat([_modulus_rows(part.unsqueeze(1), c.unsqueeze(0)) for part in torch.split(q, rows)])


def _euclid_pairs(q: Tensor, c: Tensor) -> Tensor:
    square = q.square().sum(-1, keepdim=True) + c.square().sum(-1) - 2 * q @ c.T
    return -torch.sqrt(square.clamp_min(1e-12))


DOT = Similarity(
    "dot",
    lambda q, c: (q * c).sum(-1),
    lambda q, c: q @ c.T,
    (score_kernels.dot_rows, score_kernels.dot_rows_vjp),
    independent.DOT,
)
EUCLID = Similarity(
    "l2",
    lambda q, c: -torch.sqrt((q - c).square().sum(-1).clamp_min(1e-12)),
    _euclid_pairs,
    (score_kernels.euclid_rows, score_kernels.euclid_rows_vjp),
    independent.EUCLID,
)
MANHATTAN = Similarity(
    "l1",
    lambda q, c: -(q - c).abs().sum(-1),
    lambda q, c: -torch.cdist(q, c, p=1.0),
    (score_kernels.manhattan_rows, score_kernels.manhattan_rows_vjp),
    independent.MANHATTAN,
    (score_kernels.manhattan, score_kernels.manhattan_vjp),
)
MODULUS = Similarity(
    "modulus",
    _modulus_rows,
    _modulus_pairs,
    (score_kernels.modulus_rows, score_kernels.modulus_rows_vjp),
    independent.MODULUS,
    (score_kernels.modulus, score_kernels.modulus_vjp),
)


class Scorer(ABC):
    """A model's equation. It holds no embeddings: those are rows of the engine's tables.

    fused: the compiled query kernel and its gradient; None leaves only autograd. paired: a row holds complex numbers as
    [real | imaginary]. prepares: `prepare` changes relations, which are not penalised then.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[KgeOptions]]
    fused: ClassVar[tuple[Kernel, Kernel] | None] = None
    paired: ClassVar[bool] = False
    prepares: ClassVar[bool] = False
    similarity: Similarity = DOT

    def __init__(self, options: KgeOptions) -> None:
        self.options = options

    def __reduce__(self) -> tuple[type[Scorer], tuple[KgeOptions]]:
        """A scorer is pickled as its options: similarities and kernels are functions."""
        return type(self), (self.options,)

    @property
    def entity_width(self) -> int:
        """D, floats per entity."""
        return self.options.dim

    @property
    def relation_width(self) -> int:
        """Floats per relation as stored."""
        return self.options.dim

    @property
    def prepared_width(self) -> int:
        """P, floats per relation after `prepare`."""
        return self.relation_width

    def initial_entities(self, n: int, generator: torch.Generator) -> Tensor:
        """shape: [n, D]"""
        return torch.randn(n, self.entity_width, generator=generator).mul_(self.options.init_scale)

    def initial_relations(self, n: int, generator: torch.Generator) -> Tensor:
        """shape: [n, relation_width]"""
        return torch.randn(n, self.relation_width, generator=generator).mul_(self.options.init_scale)

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters shared by all relations, by name (TuckER's core)."""
        return {}

    def prepare(self, relations: Tensor) -> Tensor:
        """Relations as `project` takes them. shape: [B, relation_width] -> [B, P]"""
        return relations

    @abstractmethod
    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """Query vectors for `side` from the given entity and relation. shape: [B, D], [B, P] -> [B, D]"""

    def queries(self, anchors: Tensor, prepared: Tensor, rows: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """`project` for distinct relations, `rows` the place of each query's. shape: [B, D], [U, P], [B] -> [B, D]"""
        return self.project(anchors, prepared[rows], side, dense)

    def score(
        self, heads: Tensor, relations: Tensor, tails: Tensor, combine: Combine, dense: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Scores by access pattern, higher is more plausible.

        shape: spo: [B, D], [B, R], [B, D] -> [B]; sp_: tails [N, D] -> [B, N]; _po: heads [N, D] -> [B, N]
        """
        prepared = self.prepare(relations)
        if combine == "_po":
            return self.similarity.pairs(self.project(tails, prepared, Side.HEAD, dense or {}), heads)
        query = self.project(heads, prepared, Side.TAIL, dense or {})
        return self.similarity.rows(query, tails) if combine == "spo" else self.similarity.pairs(query, tails)

    def flops_per_score(self) -> int:
        """Floating-point operations to compare one query with one candidate."""
        return 2 * self.entity_width if self.similarity.pair_kernel is None else 4 * self.entity_width


def complex_multiply(x: Tensor, y: Tensor, *, conjugate: bool) -> Tensor:
    """x * y, or x * conj(y), of rows [real | imaginary]. shape: [B, D], [B, D] -> [B, D]"""
    x_re, x_im = x.chunk(2, dim=-1)
    y_re, y_im = y.chunk(2, dim=-1)
    if conjugate:
        y_im = -y_im
    return torch.cat([x_re * y_re - x_im * y_im, x_re * y_im + x_im * y_re], dim=-1)
