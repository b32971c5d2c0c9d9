"""Training of DHAN in the loop of all families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graphlearn.events import Emit
from graphlearn.jobs.dhan.metrics import DECIDES, figures
from graphlearn.jobs.labels import LABELS
from graphlearn.jobs.loop import Loop
from graphlearn.models.dhan.classes import ClassTraining
from graphlearn.models.dhan.pairs import PairTraining
from graphlearn.models.dhan.training import HeteroTraining
from graphlearn.text import number
from graphlearn.types import Split

if TYPE_CHECKING:
    from torch import Tensor


class DhanTrainer(Loop):
    """Trains a model of a graph; its score is macro-F1, MRR or, without labels, minus the loss."""

    unit = "nodes"

    def __init__(self, training: HeteroTraining, unit: str, folder: Path, run_id: str, emit: Emit) -> None:
        super().__init__(training.options, folder, run_id, emit)
        self.training = training
        self.unit = unit  # type: ignore[misc]

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return self.training.steps_per_epoch

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        sampled = self.training.sampler is not None
        size, items = self.training.options.batch_size, _items(self.training)
        for step in range(first, self.training.steps_per_epoch):
            examples = max(1, min(size, items - step * size) if sampled else items // self.training.steps_per_epoch)
            yield self.training.step(epoch, step) * examples, examples

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        found = figures(self.training.evaluate(Split.VALID))
        name = next((n for n in DECIDES if n in found), None)
        if name is None:
            return None
        return -self.training.score(), found, f"{LABELS[name]} {number(found[name])}"

    def state(self) -> dict[str, Tensor]:
        return self.training.state()

    def weights(self) -> dict[str, Tensor]:
        return self.training.weights()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.training.load(tensors)


def _items(training: HeteroTraining) -> int:
    """Nodes or edges that an epoch learns from."""
    if isinstance(training, ClassTraining):
        return len(training.train)
    assert isinstance(training, PairTraining)
    return sum(len(edges) for edges in training.learnt.values())
