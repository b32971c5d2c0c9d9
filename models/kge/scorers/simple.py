"""CP and SimplE: entities have one vector as head and one as tail.

CP (Hitchcock 1927; Lacroix et al. 2018): s = <h_head, r, t_tail>. SimplE (Kazemi & Poole 2018, section 4):
s = (<h_head, r, t_tail> + <t_head, r', h_tail>) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from graphlearn.models.kge.kernels import query as query_kernels
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import Scorer
from graphlearn.types import Side


@dataclass(frozen=True, kw_only=True)
class SimplEOptions(KgeOptions):
    """Options of SimplE."""

    negatives: int = 500
    reciprocal: bool = True
    regularization: float = 0.02
    schedule: Literal["constant", "linear"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_even_dim("half describes an entity as head, half as tail")


@dataclass(frozen=True, kw_only=True)
class CPOptions(KgeOptions):
    """Options of CP. Without reciprocal relations CP cannot share what it learns between the two roles."""

    negatives: int = 500
    reciprocal: bool = True
    regularization: float = 0.02
    schedule: Literal["constant", "linear"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_even_dim("half describes an entity as head, half as tail")


class SimplE(Scorer):
    """Rows are [as head | as tail]; relations are [r | r']."""

    name = "simple"
    options_type = SimplEOptions
    fused: ClassVar = (query_kernels.swap, query_kernels.swap_vjp)

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """[r' * h_tail | r * h_head] / 2 for tails; [r * t_tail | r' * t_head] / 2 for heads."""
        forward, backward = prepared.chunk(2, dim=-1)
        as_head, as_tail = anchors.chunk(2, dim=-1)
        near, far = (backward, forward) if side is Side.TAIL else (forward, backward)
        return 0.5 * torch.cat([near * as_tail, far * as_head], dim=-1)


class CP(Scorer):
    """Rows are [as head | as tail]; relations have dim / 2 numbers."""

    name = "cp"
    options_type = CPOptions
    fused: ClassVar = (query_kernels.cross, query_kernels.cross_vjp)

    @property
    def relation_width(self) -> int:
        """dim / 2."""
        return self.options.dim // 2

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """[0 | r * h_head] for tails; [r * t_tail | 0] for heads."""
        as_head, as_tail = anchors.chunk(2, dim=-1)
        nothing = torch.zeros_like(as_head)
        if side is Side.TAIL:
            return torch.cat([nothing, prepared * as_head], dim=-1)
        return torch.cat([prepared * as_tail, nothing], dim=-1)
