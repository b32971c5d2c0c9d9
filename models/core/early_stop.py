"""Early stopping: the weights of the best evaluation, and when to stop."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor


class Weighted(Protocol):
    """Anything with weights to keep."""

    def weights(self) -> dict[str, Tensor]:
        """What predictions need, as copies."""
        ...


class EarlyStop:
    """Keeps the weights of the best evaluation; stops after `patience` evaluations in a row without an improvement.

    A patience of 0 never stops.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.best_score, self.since = patience, math.inf, 0
        self.best: dict[str, Tensor] = {}

    def update(self, score: float, training: Weighted) -> bool:
        """Count an evaluation, where lower is better and NaN is worst. Returns whether to stop."""
        if not self.best or score < self.best_score:
            self.best_score = score if math.isfinite(score) else math.inf
            self.best, self.since = training.weights(), 0
        else:
            self.since += 1
        return 0 < self.patience <= self.since
