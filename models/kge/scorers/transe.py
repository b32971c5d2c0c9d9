"""TransE: s = -||h + r - t||_p. Bordes et al. 2013, equation 1 (as a score)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from graphlearn.models.kge.kernels import query as query_kernels
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import EUCLID, MANHATTAN, Scorer
from graphlearn.types import Side


@dataclass(frozen=True, kw_only=True)
class TransEOptions(KgeOptions):
    """Options of TransE."""

    norm: Literal[1, 2] = 1
    """Distance: 1 is the sum of absolute differences, 2 the Euclidean length."""
    loss: Literal["softmax", "logistic", "margin", "bce"] = "logistic"
    margin: float = 9.0
    adversarial_temperature: float = 1.0
    filter_negatives: bool = True
    learning_rate: float = 0.02
    init_scale: float = 0.02
    schedule: Literal["constant", "linear"] = "linear"


class TransE(Scorer):
    """Relations are translations."""

    name = "transe"
    options_type = TransEOptions
    fused: ClassVar = (query_kernels.translate, query_kernels.translate_vjp)

    def __init__(self, options: TransEOptions) -> None:
        super().__init__(options)
        self.similarity = MANHATTAN if options.norm == 1 else EUCLID

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """h + r for tails, t - r for heads."""
        return anchors + prepared if side is Side.TAIL else anchors - prepared
