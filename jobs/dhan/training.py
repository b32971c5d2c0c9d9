"""Training of DHAN in the loop of all families."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from graphlearn.events import Emit
from graphlearn.jobs.dhan.metrics import deciding, finite
from graphlearn.jobs.loop import Loop
from graphlearn.models.core.threads import threads
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.dhan.training.pairs import PairTraining
from graphlearn.models.dhan.training.training import HeteroTraining
from graphlearn.text import number
from graphlearn.types import Split

if TYPE_CHECKING:
    from torch import Tensor


class DhanLoop(Loop):
    """Trains DHAN. It reports macro-F1, MRR or NMI; for its score see `score` of the training."""

    def __init__(self, training: HeteroTraining, *, folder: Path, run_id: str, emit: Emit) -> None:
        super().__init__(training.options, folder, run_id, emit)
        self.training = training
        if isinstance(training, ClassTraining):
            self.unit, self.items = "nodes", len(training.train)
            self.criterion = "cross entropy and F1 of the network"
        else:
            assert isinstance(training, PairTraining)
            self.unit, self.items = "edges", sum(len(edges) for edges in training.learnt.values())
            self.criterion = "" if isinstance(training, LinkTraining) else "loss of the held-out links"

    def threads(self) -> AbstractContextManager[None]:
        return threads(self.training.options.threads)

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return self.training.steps_per_epoch

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        training = self.training
        size, steps = training.options.batch_size, training.steps_per_epoch
        for step in range(first, steps):
            sampled = training.sampler is not None
            examples = max(1, min(size, self.items - step * size) if sampled else self.items // steps)
            yield training.step(epoch, step) * examples, examples

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        found = finite(self.training.evaluate(Split.VALID))
        metric = deciding([found])
        if metric is None:
            return None
        return -self.training.score(), found, f"{metric.label} {number(found[metric.name])}"

    def state(self) -> dict[str, Tensor]:
        return self.training.state()

    def weights(self) -> dict[str, Tensor]:
        return self.training.weights()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.training.load(tensors)

    def trained(self) -> HeteroTraining:
        return self.training
