"""The CPU time that baselines may use; `jobs/budget.py` gives it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Budget(Protocol):
    """CPU seconds that are `left`, and a record of what was left out to save some."""

    @property
    def left(self) -> float: ...
    def cut(self, what: str) -> None: ...


@dataclass(frozen=True)
class Allowance:
    """A part of a budget: `left` counts down to the seconds `kept` for others."""

    budget: Budget | None = None
    kept: float = 0.0

    @property
    def left(self) -> float:
        """CPU seconds; without a budget there is no limit."""
        return math.inf if self.budget is None else max(0.0, self.budget.left - self.kept)

    def cut(self, what: str) -> None:
        """Record what was left out."""
        if self.budget is not None:
            self.budget.cut(what)

    def part(self, share: float) -> Allowance:
        """A share of what is left."""
        if self.budget is None or math.isinf(self.left):
            return self
        return Allowance(self.budget, self.kept + (1 - share) * self.left)
