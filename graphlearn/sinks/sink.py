"""What a sink is, and the words that the sinks for people share."""

from __future__ import annotations

from typing import Protocol

from graphlearn.events import Evaluated, Event, JobFinished, PhaseRunning, Step
from graphlearn.jobs.metrics import Metric
from graphlearn.jobs.registry import family, is_family
from graphlearn.text import duration, human_seconds

TRAINING = "train"  # the phase that Step events belong to
EVALUATIONS = 2.0  # minimum seconds between evaluation lines during training; short epochs would flood the screen


class Sink(Protocol):
    """A function that takes events and is closed after the last one."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """Flush, and release files and the screen. May be called twice."""


def time_left(seconds: float) -> str:
    """An estimate in whole seconds: `12 s left`."""
    return f"{round(seconds)} s left" if seconds < 60 else f"{duration(seconds)} left"


def time_since(seconds: float) -> str:
    """A time in the past in whole seconds: `12 s ago`."""
    return f"{round(seconds)} s ago" if seconds < 60 else f"{duration(seconds)} ago"


def step_line(event: Step) -> str:
    """The training progress on one line."""
    speed = f"{event.examples_per_second:,.0f} {event.unit}/s"
    line = f"epoch {event.epoch}/{event.epochs} · loss {event.loss:.4g} · {speed}"
    if event.eta_seconds is not None:
        line += f" · {time_left(event.eta_seconds)}"
    if event.checkpoint_age is not None:
        line += f" · saved {time_since(event.checkpoint_age)}"
    return line


def expectation(event: PhaseRunning) -> str:
    """How long the plan expected a phase to take: `about 30 s expected`; empty if unknown or short.

    After that time: `longer than the 30 s expected`.
    """
    expected = event.expected_seconds
    if expected is None:
        return ""
    if event.seconds > expected:
        return f"longer than the {human_seconds(expected)} expected" if expected >= 1 else "longer than expected"
    return f"about {human_seconds(expected)} expected" if expected >= 2 else ""


def elapsed(event: PhaseRunning) -> str:
    """How long a phase has been running: `12.0 s so far, about 30 s expected`. See `expectation`."""
    return ", ".join(filter(None, (f"{duration(event.seconds)} so far", expectation(event))))


def when(event: Evaluated) -> str:
    """`epoch 12`, or `final` for the evaluation of the stored model after training."""
    return f"epoch {event.epoch}" if event.epoch else "final"


def best_so_far(event: Evaluated) -> str:
    """`best so far`, with the criterion unless it is the metric that is printed."""
    return f"best so far by {event.criterion}" if event.criterion else "best so far"


def metrics_of(name: str) -> tuple[Metric, ...]:
    """The metrics that a family declares; none if it is not installed."""
    return family(name).metrics if is_family(name) else ()


def epochs_done(event: Step) -> float:
    """Epochs trained so far, including a fraction of the current one."""
    return event.epoch - 1 + event.step / max(1, event.steps)


def finish_line(event: JobFinished) -> str:
    """How a job ended, on one line. The reason of a failure is in the error printed after it."""
    version = f" as version {event.version}" if event.version is not None else ""
    return {
        "done": f"{event.model} trained{version} in {duration(event.seconds)}",
        "unchanged": f"{event.model} is up to date{f' (version {event.version})' if event.version else ''}",
        "interrupted": f"{event.model} was interrupted after {duration(event.seconds)}",
        "failed": f"{event.model} failed after {duration(event.seconds)}",
    }.get(event.status, f"{event.model}: {event.status}")
