"""The pace of training, for the time left: seconds per step, per evaluation, and for checkpoints."""

from __future__ import annotations

import math

WARM_UP = 2
"""Steps of a process that are not measured: they compile kernels and fill caches."""
MEMORY = 60.0
"""Seconds of training after which a measurement weighs 1/e of a new one."""


class Pace:
    """Speed and time left of a loop, from the times, step numbers and counts of examples that it reports.

    Durations are exponentially weighted means.
    """

    def __init__(self) -> None:
        self._steps = self._seconds = 0.0
        self._evaluation: float | None = None
        self._taken = 0
        self._began = self._lap = (0.0, 0, 0)  # time, step, examples

    def begin(self, now: float, step: int, examples: int) -> None:
        """An epoch begins or continues."""
        self._began = self._lap = (now, step, examples)

    def step(self, now: float, step: int, examples: int) -> None:
        """A step was taken."""
        self._taken += 1
        if self._taken <= WARM_UP:
            self._lap = (now, step, examples)

    def skip(self, seconds: float) -> None:
        """Training was stopped for so long."""
        time, step, examples = self._lap
        self._lap = (time + seconds, step, examples)

    def lap(self, now: float, step: int, examples: int) -> float:
        """Examples per second since the last lap; since the beginning of the epoch if nothing was measured."""
        measured = step > self._lap[1]
        time, first, counted = self._lap if measured else self._began
        if measured:
            self.stepped(step - first, now - time)
        self._lap = (now, step, examples)
        return (examples - counted) / max(1e-9, now - time)

    def stepped(self, steps: int, seconds: float) -> None:
        """`steps` steps took so many seconds, without evaluations and checkpoints."""
        kept = math.exp(-seconds / MEMORY)
        self._steps = self._steps * kept + steps
        self._seconds = self._seconds * kept + seconds

    def evaluated(self, seconds: float) -> None:
        """An evaluation took so many seconds. The first one compiles too; later ones replace it by half."""
        before = self._evaluation
        self._evaluation = seconds if before is None else (before + seconds) / 2

    def left(self, steps: float, evaluations: int, checkpoints: float = 0.0) -> float | None:
        """Seconds for the steps and evaluations left; None before a step was measured.

        checkpoints: seconds that training is stopped for checkpoints, per second of training.
        """
        if not self._steps:
            return None
        seconds = steps * self._seconds / self._steps + evaluations * (self._evaluation or 0.0)
        return seconds * (1 + checkpoints)
