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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from graphlearn.errors import Interrupted, TrainingDiverged
from graphlearn.events import CheckpointSaved, Emit, Evaluated, Note, Step
from graphlearn.jobs import checkpoint
from graphlearn.jobs.checkpoint import Checkpoint
from graphlearn.jobs.pace import Pace
from graphlearn.jobs.saver import Saver
from graphlearn.types import Json

if TYPE_CHECKING:
    from torch import Tensor

REPORT_SECONDS = 1.0
LARGEST, LONGEST = 1e300, 1e10
"""A loss, score or count that a checkpoint may have, and seconds of training: three centuries."""


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

    `best_score`: of the best evaluation so far (higher is better), None before the first one. `cpu_seconds`: processor
    time of training, with its evaluations and checkpoints, of all threads and of all processes that continued the run.
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
        return asdict(self)

    @classmethod
    def from_json(cls, record: Json, epochs: int) -> Progress:
        """The inverse of `to_json`. Raises ValueError unless it can be the progress of a run of so many epochs."""
        names = {f.name for f in fields(cls)}
        if odd := names ^ set(record):
            raise ValueError(f"it lacks, or does not know, {min(odd)}")
        for name in ("epoch", "step", "total_steps", "loss_count", "best_epoch", "worse"):
            if type(record[name]) is not int:
                raise ValueError(f"{name} is not an integer")
        for name in ("loss_sum", "best_score", "cpu_seconds"):
            value = record[name]
            optional = name == "best_score" and value is None
            if not optional and (type(value) not in (int, float) or not abs(value) <= LARGEST):
                raise ValueError(f"{name} is not a finite number")
        if type(record["finished"]) is not bool:
            raise ValueError("finished is not true or false")
        p = cls(**record)
        bounds = {
            "epoch": (0, epochs if p.finished else epochs - 1),
            "step": (0, p.total_steps),
            "total_steps": (0, math.inf),
            "loss_count": (0, LARGEST),
            "best_epoch": (-1, p.epoch),
            "worse": (0, p.epoch),
            "cpu_seconds": (0, LONGEST),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(p, name) <= high:
                raise ValueError(f"{name} is {checkpoint.quoted(getattr(p, name))}, not between {low} and {high}")
        if p.loss_sum and not p.loss_count:
            raise ValueError("loss_sum is the loss of no examples")
        if (p.best_score is None) != (p.best_epoch < 0):
            raise ValueError("best_score and best_epoch do not agree")
        return p


@dataclass(frozen=True)
class Weights:
    """A trained model that consists of tensors only."""

    tensors: dict[str, Tensor]

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return self.tensors


class Loop(ABC):
    """Trains a model, with validation, and with checkpoints in `folder`.

    `unit`: what its speed counts, in the plural. `examples_per_unit`: the training examples of each; with both ends of
    a triple asked for, a triple is two. `criterion`: what the best epoch is chosen by, unless it is the first metric of
    `evaluate`. `job`: the fingerprint of the job, which its checkpoints must have.
    """

    unit: str
    examples_per_unit: int = 1
    criterion: str = ""
    job: str = ""
    diverged_help: ClassVar[str] = "lower learning_rate (now {:g})"

    def __init__(self, options: LoopOptions, folder: Path, run_id: str, emit: Emit) -> None:
        self.loop_options, self.folder, self.run_id, self.emit = options, folder, run_id, emit
        self.progress = Progress()
        self._stop = False
        self._resumed: Checkpoint | None = None
        self._pace = Pace()
        self._cpu_at = 0.0

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
        """All tensors that change during training, by name; by default the weights.

        A tensor of one value whose name ends in `step` or `steps` counts optimiser steps.
        """
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
        """Restore the newest checkpoint in the folder. Returns False if there is none.

        Raises ArtifactError, before anything has changed, if it is damaged or does not belong to this job.
        """
        found = checkpoint.newest(self.folder, self.run_id, self.job)
        if found is None:
            return False
        try:
            progress = Progress.from_json(found.progress, self.loop_options.epochs)
            if found.path.name != f"{progress.epoch}-{progress.step}" or progress.step > self.steps(progress.epoch):
                raise ValueError(f"it is not the state after step {progress.step} of epoch {progress.epoch}")
            taken = sum(self.steps(epoch) for epoch in range(progress.epoch)) + progress.step
            if progress.total_steps != taken:
                raise ValueError(f"total_steps is {checkpoint.quoted(progress.total_steps)}, and not {taken}")
        except ValueError as error:
            raise found.refused(f"{checkpoint.RECORD}: {error}") from error
        state = None if progress.finished else found.state(self.state())
        for name, value in (state or {}).items():
            counts = name.rpartition(".")[2] in ("step", "steps") and value.numel() == 1
            if counts and not 0 <= float(value) <= progress.total_steps:
                raise found.refused(f"{name} is {float(value):g} after {progress.total_steps} steps")
        best = found.best(self.weights()) if progress.finished or progress.best_epoch >= 0 else None
        self.load(state or best or {})
        self.progress, self._resumed = progress, found
        return True

    def fit(self) -> None:
        """Train to the end, then load the best weights.

        Raises Interrupted, after saving a checkpoint, on SIGINT or SIGTERM; TrainingDiverged if the loss is no longer
        finite; WorkspaceError if a checkpoint cannot be saved.
        """
        self._cpu_at = time.process_time()
        self._saver = Saver(self.folder, self.run_id, self.job)
        self._saver.begin(self.state(), self._resumed)
        try:
            with self._catch_signals():
                while not self.progress.finished:
                    self._epoch()
        except Exception:
            self._saver.abandon()
            raise
        self._restore_best()
        self._count_cpu()

    def _epoch(self) -> None:
        p, options, pace = self.progress, self.loop_options, self._pace
        steps = self.steps(p.epoch)
        reported_at = time.monotonic()
        pace.begin(reported_at, p.step, p.loss_count)
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
            due = self._saver.due(options.checkpoint_seconds)
            report = now - reported_at >= REPORT_SECONDS and p.step < steps
            if self._stop or due or report or p.step == steps:
                p.loss_sum, pending = p.loss_sum + float(pending), 0.0
                now = time.monotonic()
            pace.step(now, p.step, p.loss_count)
            if report:
                self._report(steps, pace.lap(now, p.step, p.loss_count), done=False)
                reported_at = now
                self._check_finite()
            self._saved(self._saver.poll())
            if self._stop:
                self._save(wait=True)
                raise Interrupted("stopped", run=self.run_id)
            if due and p.step < steps:  # at the end of an epoch after its evaluation
                stopped = self._saver.stopped
                self._save(wait=options.checkpoint_seconds == 0)
                pace.skip(self._saver.stopped - stopped)
        self._check_finite()
        self._report(steps, pace.lap(time.monotonic(), p.step, p.loss_count), done=True)
        p.epoch, p.step, p.loss_sum, p.loss_count = p.epoch + 1, 0, 0.0, 0
        last = p.epoch >= options.epochs
        if last or (options.evaluate_every and p.epoch % options.evaluate_every == 0):
            self._evaluate()
        p.finished = p.finished or last
        self._saved(self._saver.poll())
        if p.finished:
            self._finish()
        elif self._stop or self._saver.due(options.checkpoint_seconds):
            self._save(wait=self._stop or options.checkpoint_seconds == 0)
        if self._stop:
            raise Interrupted("stopped", run=self.run_id)

    def _report(self, steps: int, speed: float, *, done: bool) -> None:
        p, options = self.progress, self.loop_options
        left = steps - p.step + steps * (options.epochs - p.epoch - 1)
        every = options.evaluate_every
        evaluations = 1
        if every:
            evaluations = -(-options.epochs // every) - p.epoch // every
        since = self._saver.since()
        self._count_cpu()
        self.emit(
            Step(
                epoch=p.epoch + 1,
                epochs=options.epochs,
                step=p.step,
                steps=steps,
                loss=p.loss_sum / max(1, p.loss_count),
                examples_per_second=speed / self.examples_per_unit,
                unit=self.unit,
                eta_seconds=self._pace.left(left, evaluations, self._saver.share()),
                checkpoint_age=since,
                epoch_done=done,
            )
        )

    def _count_cpu(self) -> None:
        now = time.process_time()
        self.progress.cpu_seconds += now - self._cpu_at
        self._cpu_at = now

    def _check_finite(self) -> None:
        if not math.isfinite(self.progress.loss_sum):
            raise TrainingDiverged(
                f"the loss is {self.progress.loss_sum} in epoch {self.progress.epoch + 1}",
                help=self.diverged_help.format(self.loop_options.learning_rate),
            )

    def _evaluate(self) -> None:
        p, options = self.progress, self.loop_options
        started = time.monotonic()
        found = self.evaluate()
        self._pace.evaluated(time.monotonic() - started)
        if found is None:
            return
        score, metrics, words = found
        better = p.best_score is None or score > p.best_score
        if better:
            self._saver.keep_best(p.epoch, self.weights())
            p.best_score, p.best_epoch, p.worse = score, p.epoch, 0
        else:
            p.worse += 1
        self.emit(Evaluated(epoch=p.epoch, split="valid", metrics=metrics, best=better, criterion=self.criterion))
        if options.patience and p.worse >= options.patience and p.epoch < options.epochs:
            p.finished = True
            self.emit(
                Note(
                    message=f"stopped early in epoch {p.epoch}: validation was best in epoch {p.best_epoch}, now "
                    f"{words}, patience = {options.patience}"
                )
            )

    def _save(self, *, wait: bool) -> None:
        """Save a checkpoint, in the background unless `wait`."""
        p = self.progress
        self._check_finite()
        self._count_cpu()
        self._saved(self._saver.wait())
        newest = p.step == 0 and p.best_epoch == p.epoch
        self._saver.save(p.to_json(), self.state, self.weights() if newest else None)
        if wait:
            self._saved(self._saver.wait())

    def _finish(self) -> None:
        """Save the best weights, all that is needed from now on; the last ones if no epoch was evaluated."""
        p = self.progress
        if self.loop_options.checkpoint_seconds and not self._stop and not self._saver.fits_at_the_end():
            return
        self._count_cpu()
        if p.best_epoch < 0:
            self._saver.keep_best(p.epoch, self.weights())
        self._saved(self._saver.wait())
        self._saver.save(p.to_json(), None)
        self._saved(self._saver.wait())

    def _saved(self, saved: Checkpoint | None) -> None:
        if saved is not None:
            of = saved.progress
            self.emit(CheckpointSaved(path=str(saved.path), epoch=of["epoch"], step=of["step"]))

    def _restore_best(self) -> None:
        p = self.progress
        if p.best_epoch >= 0 and p.best_epoch != p.epoch:
            self.load(self._saver.best(self.weights()))

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
