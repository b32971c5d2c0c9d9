"""Plain lines, for logs and pipes."""

from __future__ import annotations

from time import localtime, strftime
from typing import TextIO

from graphlearn.errors import printable
from graphlearn.events import (
    Evaluated,
    Event,
    JobFinished,
    JobStarted,
    Note,
    PhaseAdvanced,
    PhaseFinished,
    PhaseRunning,
    PhaseStarted,
    Step,
)
from graphlearn.jobs.metrics import Metric, metrics_line
from graphlearn.sinks.sink import EVALUATIONS, TRAINING, best_so_far, elapsed, finish_line, metrics_of, step_line, when
from graphlearn.text import duration


class PlainSink:
    """One line per event, with the time of day. Progress appears at growing intervals to keep logs readable."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._model = ""
        self._began = 0.0
        self._last = self._evaluated = 0.0
        self._training = False
        self._phase: PhaseStarted | None = None
        self._shown = False
        self._split = "test"
        self._metrics: tuple[Metric, ...] = ()

    def __call__(self, event: Event) -> None:
        if (text := self._words(event)) is not None:
            name = f"{self._model}: " if self._model and not isinstance(event, JobFinished) else ""
            self._stream.write(f"{strftime('%H:%M:%S', localtime(event.time))} {name}{printable(text)}\n")
            self._stream.flush()

    def _words(self, event: Event) -> str | None:
        match event:
            case JobStarted():
                self._model, self._began, self._last = event.model, event.time, event.time
                self._split, self._metrics = "test", metrics_of(event.family)
                again = f", resumed at step {event.resumed_at:,}" if event.resumed_at is not None else ""
                return f"{event.family}, run {event.run}{again}"
            case Step():
                last = event.epoch_done and event.epoch == event.epochs
                return step_line(event) if self._due(event.time) or last else None
            case PhaseStarted():
                if not self._training:
                    self._phase, self._last, self._shown = event, event.time, False
                self._training |= event.phase == TRAINING
                return None
            case PhaseAdvanced():
                return self._advanced(event)
            case PhaseRunning():
                if not self._model:  # before the run
                    self._began = event.time - event.seconds
                return f"{event.phase} is running, {elapsed(event)}" if self._due(event.time) else None
            case PhaseFinished():
                self._training &= event.phase != TRAINING
                if self._training:  # validation during training: the Evaluated event already reports it
                    return None
                return f"{event.phase} took {duration(event.seconds)}{f': {event.detail}' if event.detail else ''}"
            case Evaluated():
                self._split = event.split
                if event.epoch and event.time - self._evaluated < EVALUATIONS:
                    return None
                self._evaluated = event.time
                best = f" ({best_so_far(event)})" if event.best else ""
                return f"{when(event)}, {event.split}: {metrics_line(event.metrics, self._metrics)}{best}"
            case Note():
                return f"{event.level}: {event.message}" if event.level != "info" else event.message
            case JobFinished():
                self._metrics = metrics_of(event.family) or self._metrics
                self._model, self._shown = "", False
                figures = (
                    f" · {event.split or self._split} {metrics_line(event.metrics, self._metrics)}"
                    if event.metrics
                    else ""
                )
                return finish_line(event) + figures
            case _:
                return None

    def _advanced(self, event: PhaseAdvanced) -> str | None:
        """How far a phase is."""
        phase = self._phase
        if phase is None or phase.phase != event.phase or not event.done < (phase.total or 0):
            return None
        done = f"{event.done:,} of {phase.total:,} {phase.unit} after {duration(event.time - phase.time)}"
        return f"{event.phase} is running, {done}" if self._due(event.time) else None

    def _due(self, now: float) -> bool:
        """Whether to print progress.

        First after 2 s of a phase; then every 5 s in the first minute of the run, every 30 s in the first half hour,
        and every 2 minutes.
        """
        age = now - self._began
        interval = 2 if not self._shown else 5 if age < 60 else 30 if age < 1800 else 120
        due = now - self._last >= interval
        if due:
            self._last, self._shown = now, True
        return due

    def close(self) -> None:
        """Flush the stream."""
        self._stream.flush()
