"""The CPU time that baselines may use: a share of what the training took."""

from __future__ import annotations

import math
import time

from graphlearn.text import human_seconds

LEAST = 1.0
"""CPU seconds that baselines may use however short the training was."""


class Budget:
    """CPU seconds for the baselines of a run. It starts when it is created.

    A baseline asks `left` before and during its work, does less if there is not enough, and records it with `cut`.
    `share`: of the CPU seconds of training; 0 sets no limit, for benchmarks.
    """

    def __init__(self, training_seconds: float, share: float) -> None:
        self.seconds = max(LEAST, share * training_seconds) if share else math.inf
        self.cuts: list[str] = []
        self._started = time.process_time()

    @staticmethod
    def unlimited() -> Budget:
        """A budget without a limit."""
        return Budget(0.0, 0.0)

    @property
    def spent(self) -> float:
        """CPU seconds since the start, of all threads of this process."""
        return time.process_time() - self._started

    @property
    def left(self) -> float:
        """CPU seconds that may still be used; at least 0."""
        return max(0.0, self.seconds - self.spent)

    def cut(self, what: str) -> None:
        """Record what was left out, as in `rules were mined from 40,000 of 272,115 triples`."""
        self.cuts.append(what)

    def note(self) -> str:
        """A sentence on what was left out; empty if nothing was."""
        if not self.cuts:
            return ""
        return f"to save time, {'; '.join(self.cuts)} (baselines may use {human_seconds(self.seconds)} of CPU time)"
