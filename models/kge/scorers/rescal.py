"""RESCAL and TuckER: a relation is a matrix.

RESCAL (Nickel et al. 2011): s = h^T R t with a free matrix for each relation. TuckER (Balazevic et al. 2019,
equation 2): s = W x1 h x2 r x3 t, the matrices are mixtures of a shared core W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import Scorer
from graphlearn.types import Side


@dataclass(frozen=True, kw_only=True)
class RescalOptions(KgeOptions):
    """Options of RESCAL."""

    dim: int = 128
    negatives: int = 500
    reciprocal: bool = True
    regularization: float = 0.01
    learning_rate: float = 0.05
    schedule: Literal["constant", "linear"] = "linear"


@dataclass(frozen=True, kw_only=True)
class TuckEROptions(KgeOptions):
    """Options of TuckER."""

    relation_dim: int = 30
    """Numbers per relation."""
    negatives: int = 500
    reciprocal: bool = True
    learning_rate: float = 0.03
    schedule: Literal["constant", "linear"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "relation_dim")


class Rescal(Scorer):
    """A relation is a full dim x dim matrix."""

    name = "rescal"
    options_type = RescalOptions

    @property
    def relation_width(self) -> int:
        """dim squared."""
        return self.options.dim**2

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """h R for tails, R t for heads."""
        matrices = prepared.view(-1, self.options.dim, self.options.dim)
        if side is Side.TAIL:
            return torch.bmm(anchors.unsqueeze(1), matrices).squeeze(1)
        return torch.bmm(matrices, anchors.unsqueeze(2)).squeeze(2)

    def queries(self, anchors: Tensor, prepared: Tensor, rows: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """Relation by relation, so that no matrix is copied for each query."""
        order = torch.argsort(rows, stable=True)
        sizes = torch.bincount(rows, minlength=len(prepared)).tolist()
        matrices = prepared.view(-1, self.options.dim, self.options.dim)
        parts = zip(torch.split(anchors[order], sizes), matrices.unbind(), strict=True)
        made = torch.cat([a @ (m if side is Side.TAIL else m.T) for a, m in parts])
        return made[torch.argsort(order)]


class TuckER(Scorer):
    """A relation mixes the slices of a core tensor, shape [relation_dim, dim, dim]."""

    name = "tucker"
    options_type = TuckEROptions

    def __init__(self, options: TuckEROptions) -> None:
        super().__init__(options)
        self.relation_dim = options.relation_dim

    @property
    def relation_width(self) -> int:
        """relation_dim."""
        return self.relation_dim

    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The core, uniform in [-1, 1) as in the authors' experiments."""
        shape = (self.relation_dim, self.options.dim, self.options.dim)
        return {"core": torch.rand(shape, generator=generator) * 2 - 1}

    def project(self, anchors: Tensor, prepared: Tensor, side: Side, dense: dict[str, Tensor]) -> Tensor:
        """Contract the core with the entity and the relation."""
        core = dense["core"] if side is Side.TAIL else dense["core"].transpose(1, 2)
        slices = torch.einsum("bi,kij->bkj", anchors, core)
        return torch.bmm(prepared.unsqueeze(1), slices).squeeze(1)
