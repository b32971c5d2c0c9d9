"""Plain lines, for logs and pipes."""

from __future__ import annotations

from time import localtime, strftime
from typing import TextIO

from graphlearn.events import Evaluated, Event, JobFinished, JobStarted, Note, PhaseFinished, PhaseStarted, Step
from graphlearn.jobs.metrics import Metric, metrics_line
from graphlearn.sinks.sink import EVALUATIONS, TRAINING, finish_line, metrics_of, step_line, when
from graphlearn.text import duration


class PlainSink:
    """One line per event, with the time of day. Training steps appear at growing intervals to keep logs readable."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._model = ""
        self._began = 0.0
        self._last = self._evaluated = 0.0
        self._training = False
        self._split = "test"
        self._metrics: tuple[Metric, ...] = ()

    def __call__(self, event: Event) -> None:
        if (text := self._words(event)) is not None:
            name = f"{self._model}: " if self._model and not isinstance(event, JobFinished) else ""
            self._stream.write(f"{strftime('%H:%M:%S', localtime(event.time))} {name}{text}\n")
            self._stream.flush()

    def _words(self, event: Event) -> str | None:
        match event:
            case JobStarted():
                self._model, self._began, self._last = event.model, event.time, event.time
                self._split, self._metrics = "test", metrics_of(event.family)
                again = f", resumed at step {event.resumed_at:,}" if event.resumed_at is not None else ""
                return f"{event.family}, run {event.run}{again}"
            case Step():
                return step_line(event) if self._due(event) else None
            case PhaseStarted(phase=phase):
                self._training |= phase == TRAINING
                return None
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
                best = " (best so far)" if event.best else ""
                return f"{when(event)}, {event.split}: {metrics_line(event.metrics, self._metrics)}{best}"
            case Note():
                return f"{event.level}: {event.message}" if event.level != "info" else event.message
            case JobFinished():
                self._metrics = metrics_of(event.family) or self._metrics
                self._model = ""
                figures = f" · {self._split} {metrics_line(event.metrics, self._metrics)}" if event.metrics else ""
                return finish_line(event) + figures
            case _:
                return None

    def _due(self, event: Step) -> bool:
        """Every 5 s in the first minute, every 30 s in the first half hour, then every 2 minutes; and the last step."""
        age = event.time - self._began
        interval = 5 if age < 60 else 30 if age < 1800 else 120
        last = event.epoch_done and event.epoch == event.epochs
        if last or event.time - self._last >= interval:
            self._last = event.time
            return True
        return False

    def close(self) -> None:
        """Flush the stream."""
        self._stream.flush()
