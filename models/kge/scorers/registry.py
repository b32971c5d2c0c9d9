"""The scoring functions by TYPE name. Modules are imported when a scorer is requested."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from graphlearn.models.kge.scorer import Scorer

SCORERS = {
    "transe": "transe:TransE",
    "distmult": "distmult:DistMult",
    "complex": "complex:ComplEx",
    "rotate": "rotate:RotatE",
    "simple": "simple:SimplE",
    "cp": "simple:CP",
    "rescal": "rescal:Rescal",
    "tucker": "rescal:TuckER",
}
"""TYPE name -> module:class, in this package."""


def scorer_type(name: str) -> type[Scorer]:
    """The scorer of a TYPE name. Raises KeyError for another name."""
    module, _, attribute = SCORERS[name].partition(":")
    return cast("type[Scorer]", getattr(import_module(f"graphlearn.models.kge.scorers.{module}"), attribute))
