"""ComplEx: s = Re <h, r, conj(t)>. Trouillon et al. 2016, equation 9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from graphlearn.models.kge.kernels import query as query_kernels
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import Scorer, complex_multiply
from graphlearn.types import Side


@dataclass(frozen=True, kw_only=True)
class ComplExOptions(KgeOptions):
    """Options of ComplEx."""

    negatives: int = 500
    reciprocal: bool = True
    regularization: float = 0.02
    schedule: Literal["constant", "linear"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_even_dim("ComplEx uses dim / 2 complex numbers")


class ComplEx(Scorer):
    """DistMult over complex numbers, which makes relations directed."""

    name = "complex"
    options_type = ComplExOptions
    fused: ClassVar = (query_kernels.rotate, query_kernels.rotate_vjp)
    paired = True

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """h * r for tails; t * conj(r) for heads."""
        return complex_multiply(anchors, prepared, conjugate=side is Side.HEAD)
