"""Which engine trains a model."""

from __future__ import annotations

from graphlearn.models.core.device import choose_device
from graphlearn.models.kge.engines.autograd import AutogradEngine
from graphlearn.models.kge.engines.engine import Engine
from graphlearn.models.kge.engines.fused import FusedEngine
from graphlearn.models.kge.engines.independent import IndependentEngine
from graphlearn.models.kge.scorer import Scorer


def make_engine(scorer: Scorer, n_entities: int, n_relations: int) -> Engine:
    """The fastest engine that can run the scorer with its options on the chosen device."""
    device = choose_device(scorer.options.device)
    for fast in (FusedEngine, IndependentEngine) if device.type == "cpu" else ():
        if fast.can_run(scorer):
            return fast(scorer, n_entities, n_relations, device)
    return AutogradEngine(scorer, n_entities, n_relations, device)
