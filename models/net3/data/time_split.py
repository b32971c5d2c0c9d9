"""Time steps for training, validation and the test, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphlearn.types import IdArray, Split


@dataclass(frozen=True)
class TimeSplit:
    """Train is [0, train_end), valid [train_end, valid_end), test [valid_end, length)."""

    train_end: int
    valid_end: int
    length: int

    @staticmethod
    def of(length: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> TimeSplit:
        """Cut by fractions of the time steps; each border is rounded to the nearest step."""
        total = sum(fractions)
        train = round(length * fractions[0] / total)
        return TimeSplit(train, min(length, max(train, round(length * (fractions[0] + fractions[1]) / total))), length)

    def span(self, split: Split) -> tuple[int, int]:
        """First step of the split and the step after its last."""
        borders = (0, self.train_end, self.valid_end, self.length)
        return borders[split.code], borders[split.code + 1]

    def starts(self, split: Split, window: int, horizon: int) -> IdArray:
        """Starts of the windows whose `horizon` targets all lie in the split; its inputs may lie earlier.

        Window s reads steps s .. s + window - 1 and has targets s + window .. s + window + horizon - 1.
        """
        lo, hi = self.span(split)
        return np.arange(max(0, lo - window), max(0, hi - window - horizon + 1), dtype=np.int64)
