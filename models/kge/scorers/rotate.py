"""RotatE: s = -||h * r - t|| with |r_k| = 1, the sum of complex moduli. Sun et al. 2019, equations 2 and 3."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from graphlearn.models.kge.kernels import query as query_kernels
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import MODULUS, Scorer, complex_multiply
from graphlearn.types import Side


@dataclass(frozen=True, kw_only=True)
class RotatEOptions(KgeOptions):
    """Options of RotatE."""

    loss: Literal["softmax", "logistic", "margin", "bce"] = "logistic"
    margin: float = 9.0
    adversarial_temperature: float = 1.0
    filter_negatives: bool = True
    learning_rate: float = 0.03
    schedule: Literal["constant", "linear"] = "linear"
    init_scale: float = 0.02
    """Standard deviation of entity entries; phases start uniform in [-pi, pi)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_even_dim("RotatE uses dim / 2 complex numbers")


class RotatE(Scorer):
    """Relations are rotations: a relation stores dim / 2 phases in radians."""

    name = "rotate"
    options_type = RotatEOptions
    fused: ClassVar = (query_kernels.rotate, query_kernels.rotate_vjp)
    paired = True
    prepares = True
    similarity = MODULUS

    @property
    def relation_width(self) -> int:
        """dim / 2 phases."""
        return self.options.dim // 2

    @property
    def prepared_width(self) -> int:
        """Cosines and sines of the phases."""
        return self.options.dim

    def initial_relations(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform phases."""
        return (torch.rand(n, self.relation_width, generator=generator) * 2 - 1).mul_(math.pi)

    def prepare(self, relations: Tensor) -> Tensor:
        """[cos | sin] of the phases."""
        return torch.cat([relations.cos(), relations.sin()], dim=-1)

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """h * r for tails; t * conj(r) for heads, since |r| = 1."""
        return complex_multiply(anchors, prepared, conjugate=side is Side.HEAD)
