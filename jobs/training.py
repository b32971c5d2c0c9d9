"""The training loop of knowledge-graph embeddings: epochs, evaluation, early stop, checkpoints, resume.

Every batch follows from (seed, epoch, step), so a run that continues from a checkpoint takes the same steps as one that
was never stopped, and ends with the same numbers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from graphlearn.errors import Interrupted, TrainingDiverged
from graphlearn.events import CheckpointSaved, Emit, Evaluated, Note, Step
from graphlearn.jobs import checkpoint
from graphlearn.models.batches import Sampler
from graphlearn.models.engine import Engine
from graphlearn.models.known import KnownAnswers
from graphlearn.models.options import KgeOptions
from graphlearn.models.ranking import Embedding, rank
from graphlearn.types import Json, Side, Triples

REPORT_SECONDS = 1.0


@dataclass
class Progress:
    """Where training stands; with the weights and the optimiser state, all that a run needs to continue."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best_mrr: float = -1.0
    best_epoch: int = -1
    worse: int = 0
    finished: bool = False

    def to_json(self) -> Json:
        """A flat JSON object."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, record: Json) -> Progress:
        """The inverse of `to_json`; unknown fields are left out."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})


@dataclass
class Trainer:
    """Trains an engine on triples, with validation and checkpoints in `folder`."""

    engine: Engine
    train: Triples
    valid: Triples
    known: dict[Side, KnownAnswers]
    folder: Path
    run_id: str
    emit: Emit
    memory_limit: int = 1 << 28
    progress: Progress = field(default_factory=Progress)
    _stop: bool = False
    _saved_at: float = 0.0

    def __post_init__(self) -> None:
        self.options: KgeOptions = self.engine.options
        self.sampler = Sampler(self.train, self.engine.n_entities, self.engine.n_relations, self.options)
        limit = self.options.evaluate_at_most
        if len(self.valid) > limit:
            rows = np.random.default_rng([self.options.seed, 3]).permutation(len(self.valid))[:limit]
            self.valid = self.valid[np.sort(rows)]

    @property
    def embedding(self) -> Embedding:
        """The model as it is now."""
        e = self.engine
        return Embedding(e.scorer, e.entities, e.relations, e.dense, e.n_relations)

    def resume(self) -> bool:
        """Continue from the newest checkpoint in the folder, if there is one."""
        path = checkpoint.newest(self.folder)
        if path is None:
            return False
        self.progress = Progress.from_json(checkpoint.load_record(path))
        self.engine.load(checkpoint.load_tensors(path))
        return True

    def fit(self) -> None:
        """Train to the end, then put the best weights in place.

        Raises Interrupted after saving a checkpoint when SIGINT or SIGTERM arrives, TrainingDiverged when the loss is
        no longer finite.
        """
        self._saved_at = time.monotonic()
        with self._catch_signals():
            while not self.progress.finished:
                self._epoch()
        self._restore_best()

    def _epoch(self) -> None:
        p = self.progress
        steps = self.sampler.steps(p.epoch)
        clock = time.monotonic()
        report_at, report_count, started = clock, p.loss_count, p.step
        for batch in self.sampler.epoch(p.epoch, p.step):
            rate = self._rate(p.epoch + p.step / max(1, steps))
            p.loss_sum += self.engine.step(batch, rate)
            p.loss_count += batch.triples
            p.step += 1
            p.total_steps += 1
            now = time.monotonic()
            if now - report_at >= REPORT_SECONDS and p.step < steps:
                speed = (p.loss_count - report_count) / (now - report_at)
                self._report(steps, speed, clock, started, done=False)
                report_at, report_count = now, p.loss_count
                self._check_finite()
            if self._stop:
                self._save()
                raise Interrupted("stopped", run=self.run_id)
            if now - self._saved_at >= self.options.checkpoint_seconds:
                self._check_finite()
                self._save()
        self._check_finite()
        speed = (p.loss_count - report_count) / max(1e-9, time.monotonic() - report_at)
        if report_count == 0 or speed == 0:
            speed = p.loss_count / max(1e-9, time.monotonic() - clock)
        self._report(steps, speed, clock, started, done=True)
        p.epoch, p.step, p.loss_sum, p.loss_count = p.epoch + 1, 0, 0.0, 0
        every = self.options.evaluate_every
        last = p.epoch >= self.options.epochs
        if len(self.valid) and (last or (every and p.epoch % every == 0)):
            self._evaluate()
        p.finished = p.finished or last
        if p.finished or self._stop or time.monotonic() - self._saved_at >= self.options.checkpoint_seconds:
            self._save()
        if self._stop and not p.finished:
            raise Interrupted("stopped", run=self.run_id)

    def _rate(self, epochs_done: float) -> float:
        rate = self.options.learning_rate
        return rate if self.options.schedule == "constant" else rate * (1 - epochs_done / self.options.epochs)

    def _report(self, steps: int, speed: float, clock: float, started: int, *, done: bool) -> None:
        p, epochs = self.progress, self.options.epochs
        seconds = (time.monotonic() - clock) / max(1, p.step - started)
        left = (steps - p.step + steps * (epochs - p.epoch - 1)) * seconds
        self.emit(
            Step(
                epoch=p.epoch + 1,
                epochs=epochs,
                step=p.step,
                steps=steps,
                loss=p.loss_sum / max(1, p.loss_count),
                triples_per_second=speed,
                eta_seconds=left,
                epoch_done=done,
            )
        )

    def _check_finite(self) -> None:
        if not math.isfinite(self.progress.loss_sum):
            raise TrainingDiverged(
                f"the loss is {self.progress.loss_sum} in epoch {self.progress.epoch + 1}",
                help=f"lower learning_rate (now {self.options.learning_rate:g}) or init_scale",
            )

    def _evaluate(self) -> None:
        p = self.progress
        metrics = rank(
            self.embedding,
            self.valid,
            self.known,
            memory_limit=self.memory_limit,
            threads=self.options.threads,
        ).metrics()
        better = metrics["mrr"] > p.best_mrr
        if better:
            checkpoint.save(self.folder, f"best-{p.epoch}", self.engine.weights(), {"epoch": p.epoch, **metrics})
            p.best_mrr, p.best_epoch, p.worse = metrics["mrr"], p.epoch, 0
        else:
            p.worse += 1
        self.emit(Evaluated(epoch=p.epoch, split="valid", metrics=metrics, best=better))
        if self.options.patience and p.worse >= self.options.patience and p.epoch < self.options.epochs:
            p.finished = True
            self.emit(
                Note(
                    message=f"stopped early in epoch {p.epoch}: validation MRR was best in epoch {p.best_epoch} "
                    f"({p.best_mrr:.4f}), patience = {self.options.patience}"
                )
            )

    def _save(self) -> None:
        p = self.progress
        path = checkpoint.save_step(self.folder, p.total_steps, self.engine.state(), p.to_json())
        self._saved_at = time.monotonic()
        self.emit(CheckpointSaved(path=str(path), epoch=p.epoch, step=p.step))

    def _restore_best(self) -> None:
        p = self.progress
        if p.best_epoch >= 0 and p.best_epoch != p.epoch:
            self.engine.load(checkpoint.load_tensors(checkpoint.best_path(self.folder, p.best_epoch)))

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends training after the current step; a second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:  # noqa: ARG001
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
