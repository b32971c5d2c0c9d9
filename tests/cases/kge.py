"""Small graphs and option sets that the model tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphlearn.models.kge.scorer import Scorer
from graphlearn.models.kge.scorers.registry import SCORERS, scorer_type
from graphlearn.types import Triples

MODELS = sorted(SCORERS)
FUSED = [name for name in MODELS if scorer_type(name).fused is not None]


def graph(n: int = 300, entities: int = 40, relations: int = 5, seed: int = 0) -> Triples:
    """Random triples; every relation occurs."""
    rng = np.random.default_rng(seed)
    return Triples(
        rng.integers(0, entities, n, dtype=np.int32),
        np.concatenate([np.arange(relations), rng.integers(0, relations, n - relations)]).astype(np.int32),
        rng.integers(0, entities, n, dtype=np.int32),
    )


def scorer(model: str, **options: Any) -> Scorer:
    """A scorer with small options."""
    kind = scorer_type(model)
    given: dict[str, Any] = {"dim": 8, "batch_size": 64, "chunk_size": 24, "negatives": 10, "init_scale": 0.5}
    given |= {"reciprocal": False, "regularization": 0.0, "filter_negatives": False, "learning_rate": 0.1}
    return kind(kind.options_type(**(given | options)))
