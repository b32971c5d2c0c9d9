"""The training loop of all families: epochs, evaluation, early stopping, checkpoints, resuming, signals.

A family subclasses `Loop` to define its steps, score and state. A step must be determined by (seed, epoch, step) and
the state, so that a resumed run takes the same steps as one that was never stopped, and ends with the same numbers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from graphlearn.errors import Interrupted, TrainingDiverged
from graphlearn.events import CheckpointSaved, Emit, Evaluated, Note, Step
from graphlearn.jobs import checkpoint
from graphlearn.types import Json

if TYPE_CHECKING:
    from torch import Tensor

REPORT_SECONDS = 1.0


class LoopOptions(Protocol):
    """The options that the loop reads."""

    @property
    def epochs(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def checkpoint_seconds(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...


@dataclass
class Progress:
    """The progress of training. Together with the state of the model, it is enough to continue a run.

    `best_score`: of the best evaluation so far (higher is better), None before the first one. `cpu_seconds`: of
    training and validation, across resumes.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best_score: float | None = None
    best_epoch: int = -1
    worse: int = 0
    finished: bool = False
    cpu_seconds: float = 0.0

    def to_json(self) -> Json:
        """A flat JSON object."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, record: Json) -> Progress:
        """The inverse of `to_json`; ignores unknown fields."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})


@dataclass(frozen=True)
class Weights:
    """A trained model that consists of tensors only."""

    tensors: dict[str, Tensor]

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return self.tensors


class Loop(ABC):
    """Trains a model, with validation, and with checkpoints in `folder`. `unit`: the name of its training examples."""

    unit: str
    examples_per_unit: int = 1
    """Speeds are in units per second; losses are means per example."""
    diverged_help: ClassVar[str] = "lower learning_rate (now {:g})"

    def __init__(self, options: LoopOptions, folder: Path, run_id: str, emit: Emit) -> None:
        self.loop_options, self.folder, self.run_id, self.emit = options, folder, run_id, emit
        self.progress = Progress()
        self._stop = False
        self._saved_at = 0.0

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        """The number of optimiser steps of an epoch."""
        return 1

    @abstractmethod
    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        """Take the steps of an epoch from `first` on; yields the summed loss and the number of examples of each.

        A loss may be a tensor on a device. It is read about once per second, so that the device rarely has to wait.
        """

    @abstractmethod
    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        """Evaluate on the validation split: score (higher is better), all metrics, and the score as text.

        None if the validation split is empty.
        """

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The tensors that predictions need, by name."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that change during training, by name; by default the weights."""
        return self.weights()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors of `state()` or `weights()`; by default by copying into the current ones."""
        for name, value in self.state().items():
            if name in tensors:
                value.copy_(tensors[name])

    def trained(self) -> Any:
        """The current model, for evaluation and publishing: an object whose `weights()` returns tensors by name."""
        return Weights(self.weights())

    def threads(self) -> AbstractContextManager[None]:
        """A context, entered while the loop runs, that sets the number of threads."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027
        """Release resources such as threads."""

    def resume(self) -> bool:
        """Restore the newest checkpoint in the folder. Returns False if there is none."""
        path = checkpoint.newest(self.folder)
        if path is None:
            return False
        self.progress = Progress.from_json(checkpoint.load_record(path))
        self.load(checkpoint.load_tensors(path))
        return True

    def fit(self) -> None:
        """Train to the end, then load the best weights.

        Raises Interrupted, after saving a checkpoint, on SIGINT or SIGTERM; TrainingDiverged if the loss is no longer
        finite.
        """
        self._saved_at = time.monotonic()
        with self._catch_signals():
            while not self.progress.finished:
                self._epoch()
        self._restore_best()

    def _epoch(self) -> None:
        p, options = self.progress, self.loop_options
        steps = self.steps(p.epoch)
        clock = time.monotonic()
        report_at, report_count, started = clock, p.loss_count, p.step
        pending: float | Tensor = 0.0
        for loss, examples in self.train(p.epoch, p.step):
            if isinstance(loss, float):
                p.loss_sum += loss
            else:
                pending = pending + loss
            p.loss_count += examples
            p.step += 1
            p.total_steps += 1
            now = time.monotonic()
            due = now - self._saved_at >= options.checkpoint_seconds
            if self._stop or due or now - report_at >= REPORT_SECONDS or p.step == steps:
                p.loss_sum, pending = p.loss_sum + float(pending), 0.0
            if now - report_at >= REPORT_SECONDS and p.step < steps:
                speed = (p.loss_count - report_count) / (now - report_at)
                self._report(steps, speed, clock, started, done=False)
                report_at, report_count = now, p.loss_count
                self._check_finite()
            if self._stop:
                self._save()
                raise Interrupted("stopped", run=self.run_id)
            if due:
                self._check_finite()
                self._save()
        self._check_finite()
        speed = (p.loss_count - report_count) / max(1e-9, time.monotonic() - report_at)
        if report_count == 0 or speed == 0:
            speed = p.loss_count / max(1e-9, time.monotonic() - clock)
        self._report(steps, speed, clock, started, done=True)
        p.epoch, p.step, p.loss_sum, p.loss_count = p.epoch + 1, 0, 0.0, 0
        last = p.epoch >= options.epochs
        if last or (options.evaluate_every and p.epoch % options.evaluate_every == 0):
            self._evaluate()
        p.finished = p.finished or last
        if p.finished or self._stop or time.monotonic() - self._saved_at >= options.checkpoint_seconds:
            self._save()
        if self._stop and not p.finished:
            raise Interrupted("stopped", run=self.run_id)

    def _report(self, steps: int, speed: float, clock: float, started: int, *, done: bool) -> None:
        p, epochs = self.progress, self.loop_options.epochs
        seconds = (time.monotonic() - clock) / max(1, p.step - started)
        left = (steps - p.step + steps * (epochs - p.epoch - 1)) * seconds
        self.emit(
            Step(
                epoch=p.epoch + 1,
                epochs=epochs,
                step=p.step,
                steps=steps,
                loss=p.loss_sum / max(1, p.loss_count),
                examples_per_second=speed / self.examples_per_unit,
                unit=self.unit,
                eta_seconds=left,
                epoch_done=done,
            )
        )

    def _check_finite(self) -> None:
        if not math.isfinite(self.progress.loss_sum):
            raise TrainingDiverged(
                f"the loss is {self.progress.loss_sum} in epoch {self.progress.epoch + 1}",
                help=self.diverged_help.format(self.loop_options.learning_rate),
            )

    def _evaluate(self) -> None:
        p, options = self.progress, self.loop_options
        found = self.evaluate()
        if found is None:
            return
        score, metrics, words = found
        better = p.best_score is None or score > p.best_score
        if better:
            checkpoint.save(self.folder, f"best-{p.epoch}", self.weights(), {"epoch": p.epoch, **metrics})
            p.best_score, p.best_epoch, p.worse = score, p.epoch, 0
        else:
            p.worse += 1
        self.emit(Evaluated(epoch=p.epoch, split="valid", metrics=metrics, best=better))
        if options.patience and p.worse >= options.patience and p.epoch < options.epochs:
            p.finished = True
            self.emit(
                Note(
                    message=f"stopped early in epoch {p.epoch}: validation was best in epoch {p.best_epoch}, now "
                    f"{words}, patience = {options.patience}"
                )
            )

    def _save(self) -> None:
        p = self.progress
        path = checkpoint.save_step(self.folder, p.total_steps, self.state(), p.to_json())
        self._saved_at = time.monotonic()
        self.emit(CheckpointSaved(path=str(path), epoch=p.epoch, step=p.step))

    def _restore_best(self) -> None:
        p = self.progress
        if p.best_epoch >= 0 and p.best_epoch != p.epoch:
            self.load(checkpoint.load_tensors(checkpoint.best_path(self.folder, p.best_epoch)))

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
