"""The events of a running job: one typed stream for any number of sinks.

An *emit* is a function that takes an event. Events are frozen records. `events.jsonl` and `--json` contain them as
`to_json` returns them, one object per line, with `event` (the class name in snake case) and `time` (Unix seconds).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from graphlearn.types import Json


@dataclass(frozen=True, kw_only=True)
class Event:
    """The base class of all events."""

    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class JobStarted(Event):
    """A run has started. `resumed_at` is the step that it continues from, None for a new run."""

    run: str
    model: str
    family: str
    folder: str
    options: Json
    resumed_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event):
    """An operator of the dataflow has started. `total`: the number of `unit`s, if known."""

    phase: str
    total: int | None = None
    unit: str = "rows"


@dataclass(frozen=True, kw_only=True)
class PhaseAdvanced(Event):
    """`done` of the phase's `total` units are done."""

    phase: str
    done: int


@dataclass(frozen=True, kw_only=True)
class PhaseRunning(Event):
    """A phase has been running for `seconds` and has reported nothing for a while; the plan expected the given time."""

    phase: str
    seconds: float
    expected_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseFinished(Event):
    """An operator has finished. `detail` is a one-line summary, for example of what was counted.

    `cpu_seconds`: of all threads of this process, None if unknown.
    """

    phase: str
    seconds: float
    cpu_seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """Training progress, about once per second. `loss` is the mean per training example since the start of the epoch.

    `unit`: what `examples_per_second` counts, such as triples, windows or nodes. A triple counts once, also
    if both of its ends are asked for. `eta_seconds`: an estimate of the time left, None until steps were measured.
    `checkpoint_age`: seconds of training that would be lost by a kill, None before the first checkpoint.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    examples_per_second: float
    eta_seconds: float | None
    checkpoint_age: float | None = None
    epoch_done: bool = False
    unit: str


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """Metrics of a split, e.g. {"mrr": .., "hits_at_10": ..}.

    `best`: whether this is the best of the run so far. `criterion`: by what, if not by the first of the metrics.
    """

    epoch: int
    split: str
    metrics: dict[str, float]
    best: bool = False
    criterion: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A state from which the run can continue has been saved."""

    path: str
    epoch: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """A message for the user. `level`: "info" or "warning"."""

    message: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class JobFinished(Event):
    """The run has ended. `status`: "done", "unchanged", "failed" or "interrupted".

    `split`: where the metrics were measured; empty in files of earlier versions.
    """

    run: str
    model: str
    family: str = ""
    status: str
    seconds: float
    version: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    split: str = ""
    message: str = ""


Emit: TypeAlias = Callable[[Event], None]


def name_of(event: Event) -> str:
    """The event's name in snake case: JobStarted -> job_started."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def to_json(event: Event) -> Json:
    """A JSON-ready record of the event."""
    return {"event": name_of(event), **asdict(event)}


def fan_out(*sinks: Emit) -> Emit:
    """An emit that calls all sinks in order."""

    def emit(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return emit


def silent(event: Event) -> None:
    """A sink that ignores all events."""
