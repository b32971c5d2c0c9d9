"""DistMult: s = <h, r, t>. Yang et al. 2015, equation 2 with a diagonal relation matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from graphlearn.models.kge.kernels import query as query_kernels
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import Scorer
from graphlearn.types import Side


@dataclass(frozen=True, kw_only=True)
class DistMultOptions(KgeOptions):
    """Options of DistMult."""

    negatives: int = 500
    reciprocal: bool = True
    regularization: float = 0.02
    schedule: Literal["constant", "linear"] = "linear"


class DistMult(Scorer):
    """Relations scale every coordinate; heads and tails are interchangeable."""

    name = "distmult"
    options_type = DistMultOptions
    fused: ClassVar = (query_kernels.multiply, query_kernels.multiply_vjp)

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """a * r on both sides."""
        return anchors * prepared
