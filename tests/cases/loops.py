"""A loop that counts: training whose every number is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graphlearn.events import Emit, silent
from graphlearn.jobs.loop import Loop

STEPS = 4


@dataclass(frozen=True)
class CountingOptions:
    """The options that a loop reads."""

    epochs: int = 3
    evaluate_every: int = 1
    patience: int = 0
    checkpoint_seconds: float = 0.0
    learning_rate: float = 0.1


class CountingLoop(Loop):
    """Adds one to every weight per step, in epochs of four steps. `scores`: of the evaluations, in order of epochs."""

    unit = "rows"

    def __init__(
        self,
        folder: Path,
        *,
        options: CountingOptions | None = None,
        scores: Sequence[float] = (1.0, 3.0, 2.0),
        run: str = "run-1",
        job: str = "job-1",
        emit: Emit = silent,
        size: int = 3,
    ) -> None:
        super().__init__(options or CountingOptions(), folder, run, emit)
        self.job, self.scores = job, scores
        self.count = torch.zeros(size, 2)
        self.squares = torch.zeros(size)
        self.steps_taken = torch.zeros((), dtype=torch.int64)

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return STEPS

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:  # noqa: ARG002
        for _ in range(first, STEPS):
            self.count += 1
            self.squares += self.count[:, 0].square()
            self.steps_taken += 1
            yield 1.0, 10

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        if not self.scores:
            return None
        score = self.scores[self.progress.epoch - 1]
        return score, {"score": score}, f"score {score}"

    def weights(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def state(self) -> dict[str, Tensor]:
        return {**self.weights(), "optimiser.squares": self.squares, "steps": self.steps_taken}
