"""Training of knowledge-graph embeddings. Each batch is determined by (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphlearn.events import Emit
from graphlearn.jobs.loop import Loop
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.batches import Sampler
from graphlearn.models.kge.device_batches import DeviceSampler
from graphlearn.models.kge.embedding import Embedding
from graphlearn.models.kge.engines.engine import Engine
from graphlearn.models.kge.options import KgeOptions
from graphlearn.types import BoolArray, Side, Triples

if TYPE_CHECKING:
    from torch import Tensor


class KgeLoop(Loop):
    """Trains an engine on triples. Its score is the filtered MRR on the validation split."""

    unit = "triples"  # an example is a query, which asks for one end of a triple
    diverged_help = "lower learning_rate (now {:g}) or init_scale"

    def __init__(
        self,
        *,
        engine: Engine,
        train: Triples,
        valid: Triples,
        known: dict[Side, KnownAnswers],
        alive: BoolArray | None = None,
        folder: Path,
        run_id: str,
        emit: Emit,
        memory_limit: int = 1 << 28,
    ) -> None:
        self.options: KgeOptions = engine.options
        super().__init__(self.options, folder, run_id, emit)
        self.examples_per_unit = 2 if self.options.sides == "both" else 1  # queries per triple
        self.engine, self.known, self.alive, self.memory_limit = engine, known, alive, memory_limit
        sizes = engine.n_entities, engine.n_relations
        self.sampler: Sampler | DeviceSampler
        if engine.device.type == "cpu" or self.options.negatives == 0:
            self.sampler = Sampler(train, *sizes, self.options)
        else:
            self.sampler = DeviceSampler(train, *sizes, self.options, engine.device)
        limit = self.options.evaluate_at_most
        if len(valid) > limit:
            rows = np.random.default_rng([self.options.seed, 3]).permutation(len(valid))[:limit]
            valid = valid[np.sort(rows)]
        self.valid = valid

    @property
    def embedding(self) -> Embedding:
        """The current model."""
        return self.engine.embedding

    def steps(self, epoch: int) -> int:
        return self.sampler.steps(epoch)

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        steps = max(1, self.steps(epoch))
        batches: Iterator[Any] = self.sampler.epoch(epoch, first)
        for step, batch in enumerate(batches, first):
            yield self.engine.step(batch, self._rate(epoch + step / steps)), batch.examples

    def _rate(self, epochs_done: float) -> float:
        rate = self.options.learning_rate
        return rate if self.options.schedule == "constant" else rate * (1 - epochs_done / self.options.epochs)

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        if not len(self.valid):
            return None
        ranks = self.embedding.rank(
            self.valid, self.known, alive=self.alive, memory_limit=self.memory_limit, threads=self.options.threads
        )
        metrics = ranks.metrics()
        return metrics["mrr"], metrics, f"MRR {metrics['mrr']:.4f}"

    def state(self) -> dict[str, Tensor]:
        return self.engine.state()

    def weights(self) -> dict[str, Tensor]:
        return self.engine.weights()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.engine.load(tensors)

    def trained(self) -> Embedding:
        return self.embedding

    def close(self) -> None:
        self.engine.close()
