"""What is measured of a method on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphlearn.models.core.bootstrap import Sample

if TYPE_CHECKING:
    from graphlearn.models.hetero.links import RankedLinks


@dataclass(frozen=True)
class Measured:
    """The metrics of a method on a split, a sample for their intervals, and, for classes, those of each class.

    ranked: for links, the ranks that the metrics summarise.
    """

    figures: Mapping[str, float]
    sample: Sample | None = None
    by_class: Sequence[Mapping[str, Any]] = ()
    ranked: RankedLinks | None = None
