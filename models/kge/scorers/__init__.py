"""One scoring function per file: TransE, DistMult, ComplEx, RotatE, SimplE and CP, RESCAL and TuckER."""

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
"""The name of a scoring function -> its class, imported when first used."""


def scorer_type(name: str) -> type[Scorer]:
    """The scoring function of that name."""
    module, _, attribute = SCORERS[name].partition(":")
    return cast("type[Scorer]", getattr(import_module(f"{__name__}.{module}"), attribute))
