"""Cycles of the calendar. Shapes: T time steps, C cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphlearn.errors import InputError
from graphlearn.types import IdArray


@dataclass(frozen=True)
class Calendar:
    """The phase of each time step in each cycle (day, week, year).

    phases: [C, L] int64 with 0 <= phases[c] < periods[c]; L >= T, with L > T for steps to be forecast.
    """

    phases: IdArray
    periods: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.phases.ndim != 2 or len(self.phases) != len(self.periods):
            raise InputError(f"a calendar of {len(self.periods)} periods needs phases [{len(self.periods)}, steps]")
        for row, period in zip(self.phases, self.periods, strict=True):
            if period < 1 or (row.size and not 0 <= row.min() <= row.max() < period):
                raise InputError(f"phases of a cycle of {period} must lie in 0 .. {period - 1}")

    @staticmethod
    def none(length: int) -> Calendar:
        """Without cycles."""
        return Calendar(np.zeros((0, length), np.int64), ())

    @staticmethod
    def cycles(length: int, periods: Sequence[int], shift: int = 0) -> Calendar:
        """Cycles of a fixed number of steps; step t has phase (t + shift) mod period."""
        steps = np.arange(length, dtype=np.int64) + shift
        return Calendar(np.array([steps % p for p in periods], np.int64).reshape(len(periods), length), tuple(periods))

    def at(self, steps: IdArray) -> IdArray:
        """Phases of the steps; after the end of the calendar, cycles continue evenly. shape: [...] -> [..., C]"""
        steps = np.asarray(steps, np.int64)
        length = self.phases.shape[1]
        last = np.clip(steps, 0, length - 1)
        over = (steps - last)[..., None]
        phases = np.moveaxis(self.phases[:, last], 0, -1) + over
        return np.asarray(phases % np.array(self.periods, np.int64), np.int64)
