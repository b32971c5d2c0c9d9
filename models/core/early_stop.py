"""Early stopping: keeps the best weights and decides when to stop."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor


class Weighted(Protocol):
    """An object with weights."""

    def weights(self) -> dict[str, Tensor]:
        """Copies of the tensors that predictions need."""
        ...


class EarlyStop:
    """Keeps the weights of the best evaluation, and stops after `patience` evaluations in a row without improvement.

    With a patience of 0, it never stops.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.best_score, self.since = patience, math.inf, 0
        self.best: dict[str, Tensor] = {}

    def update(self, score: float, training: Weighted) -> bool:
        """Record an evaluation (lower is better, NaN is worst). Returns whether to stop."""
        if not self.best or score < self.best_score:
            self.best_score = score if math.isfinite(score) else math.inf
            self.best, self.since = training.weights(), 0
        else:
            self.since += 1
        return 0 < self.patience <= self.since
