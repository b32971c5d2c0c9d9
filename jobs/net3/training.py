"""Training of NET3 in the loop of all families."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from graphlearn.events import Emit
from graphlearn.jobs.loop import Loop
from graphlearn.models.core.threads import threads
from graphlearn.models.net3.training.training import SeriesTraining
from graphlearn.types import Split

if TYPE_CHECKING:
    from torch import Tensor


class Net3Loop(Loop):
    """Trains a model of series. Its score is minus the z-scored RMSE on the validation split."""

    unit = "windows"

    def __init__(self, training: SeriesTraining, folder: Path, run_id: str, emit: Emit) -> None:
        super().__init__(training.options, folder, run_id, emit)
        self.training = training

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return self.training.steps_per_epoch

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        size, items = self.training.options.batch_size, len(self.training.items)
        for step in range(first, self.training.steps_per_epoch):
            examples = min(size, items - step * size)
            yield self.training.step(epoch, step) * examples, examples

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        total = self.training.evaluate(Split.VALID).total
        if not total["cells"] or not math.isfinite(total["z_rmse"]):
            return None
        metrics = {name: total[name] for name in ("rmse", "mae", "z_rmse") if math.isfinite(total[name])}
        return -total["z_rmse"], metrics, f"RMSE {total['rmse']:.4g}"

    def state(self) -> dict[str, Tensor]:
        return self.training.state()

    def weights(self) -> dict[str, Tensor]:
        return self.training.weights()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.training.load(tensors)

    def trained(self) -> SeriesTraining:
        return self.training

    def threads(self) -> AbstractContextManager[None]:
        return threads(self.training.options.threads)
