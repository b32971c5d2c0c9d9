"""Where events go: a live view on a terminal, plain lines in a pipe, JSON lines for programs, TensorBoard files.

A sink is an `Emit` with `close()`. Every sink accepts every event at any time; `choose_sink` picks one for a stream.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from time import localtime, strftime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from graphlearn.events import (
    Evaluated,
    Event,
    JobFinished,
    JobStarted,
    Note,
    PhaseAdvanced,
    PhaseFinished,
    PhaseStarted,
    Step,
    to_json,
)
from graphlearn.jobs.metrics import Metric, metrics_line
from graphlearn.jobs.registry import family, is_family

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.progress import Progress, TaskID

TRAINING = "train"  # the phase that Step events belong to
EVALUATIONS = 2.0  # minimum seconds between evaluation lines during training; short epochs would flood the screen


class Sink(Protocol):
    """A function that takes events and is closed after the last one."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """Flush, and release files and the screen. May be called twice."""


# ---------------------------------------------------------------------------------------------------------------------
# wording shared by the plain and the live view


def duration(seconds: float) -> str:
    """Seconds in a readable form: 0.42 s, 12.3 s, 4 min 05 s, 3 h 07 min."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def time_left(seconds: float) -> str:
    """An estimate in whole seconds: `12 s left`."""
    return f"{round(seconds)} s left" if seconds < 60 else f"{duration(seconds)} left"


def step_line(event: Step) -> str:
    """The training progress on one line."""
    return (
        f"epoch {event.epoch}/{event.epochs} · loss {event.loss:.4g} · "
        f"{event.examples_per_second:,.0f} {event.unit}/s · {time_left(event.eta_seconds)}"
    )


def when(event: Evaluated) -> str:
    """`epoch 12`, or `final` for the evaluation of the stored model after training."""
    return f"epoch {event.epoch}" if event.epoch else "final"


def metrics_of(name: str) -> tuple[Metric, ...]:
    """The metrics that a family declares; none where it is not installed."""
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


# ---------------------------------------------------------------------------------------------------------------------
# plain lines


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


# ---------------------------------------------------------------------------------------------------------------------
# live view


class RichSink:
    """A live view: a progress bar per running phase and the training figures. Finished phases remain as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._training = ""
        self._evaluation = ""
        self._evaluated = 0.0
        self._split = "test"
        self._metrics: tuple[Metric, ...] = ()

    def __call__(self, event: Event) -> None:
        match event:
            case JobStarted():
                self._split, self._metrics = "test", metrics_of(event.family)
                again = f" · resumed at step {event.resumed_at:,}" if event.resumed_at is not None else ""
                self._say(f"[bold]{_plain(event.model)}[/] · {event.family} · [dim]run {_plain(event.run)}{again}[/]")
            case PhaseStarted():
                self._begin(event.phase, event.total, event.unit)
            case PhaseAdvanced():
                self._advance(event.phase, event.done)
            case PhaseFinished():
                self._end(event)
            case Step():
                self._step(event)
            case Evaluated():
                self._split = event.split
                self._evaluation = f"{event.split}, {when(event)}: {metrics_line(event.metrics, self._metrics)}"
                if event.epoch and event.time - self._evaluated < EVALUATIONS:
                    return
                self._evaluated = event.time
                best = " [green]best so far[/]" if event.best else ""
                self._say(
                    f"    [dim]{when(event):<10}[/] {event.split} {metrics_line(event.metrics, self._metrics)}{best}"
                )
            case Note():
                style = "yellow" if event.level == "warning" else "dim"
                self._say(f"  [{style}]{event.level}:[/] {_plain(event.message)}")
            case JobFinished():
                self._finish(event)
            case _:
                pass

    def _say(self, markup: str) -> None:
        """Print a permanent line above the live part."""
        self._console.print(markup, highlight=False)

    def _bars(self) -> Progress:
        if self._progress is None:
            from rich.live import Live
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("  {task.description:<10}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[amount]}[/]"),
                console=self._console,
            )
            self._live = Live(get_renderable=self._render, console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        return self._progress

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines = [self._training, f"last {self._evaluation}" if self._evaluation else ""]
        texts = [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in lines if line]
        return Group(*texts, *([self._progress] if self._progress else []))

    def _begin(self, phase: str, total: int | None, unit: str) -> None:
        if phase in self._tasks:
            self._bars().remove_task(self._tasks[phase])
        amount = f"{total:,} {_plain(unit)}" if total is not None else ""
        self._tasks[phase] = self._bars().add_task(_plain(phase), total=total, amount=amount)

    def _advance(self, phase: str, done: int) -> None:
        if phase not in self._tasks:
            self._begin(phase, None, "")
        self._bars().update(self._tasks[phase], completed=done)

    def _step(self, event: Step) -> None:
        self._training = step_line(event)
        if TRAINING not in self._tasks:
            self._begin(TRAINING, event.epochs, "epochs")
        self._bars().update(self._tasks[TRAINING], total=event.epochs, completed=epochs_done(event))

    def _end(self, event: PhaseFinished) -> None:
        if event.phase in self._tasks:
            self._bars().remove_task(self._tasks.pop(event.phase))
        if event.phase == TRAINING:
            self._training = self._evaluation = ""
        elif TRAINING in self._tasks:  # validation during training: the Evaluated event already reports it
            return
        detail = f"  [dim]{_plain(event.detail)}[/]" if event.detail else ""
        self._say(f"  [green]✓[/] {_plain(event.phase):<10} {duration(event.seconds):>12}{detail}")

    def _finish(self, event: JobFinished) -> None:
        self.close()
        marks = {"done": "[green]✓[/]", "unchanged": "[green]=[/]", "failed": "[red]✗[/]"}
        figures = f" · {self._split} {metrics_line(event.metrics, self._metrics)}" if event.metrics else ""
        self._say(f"{marks.get(event.status, '[yellow]![/]')} {_plain(finish_line(event))}{figures}")

    def close(self) -> None:
        """Remove the live part from the screen; permanent lines remain."""
        if self._live is not None:
            self._live.stop()
        self._live = self._progress = None
        self._tasks, self._training, self._evaluation = {}, "", ""


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


# ---------------------------------------------------------------------------------------------------------------------
# output for programs


def finite(value: Any) -> Any:
    """The value in a form that JSON can represent: NaN and infinities become None, unknown objects become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


class JsonSink:
    """One JSON object per line, flushed immediately."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        self._stream.write(json.dumps(finite(to_json(event)), ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Flush the stream."""
        self._stream.flush()


class TensorBoardSink:
    """Loss, speed and metrics as TensorBoard event files, in `tensorboard/` of the run folder or in a given folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._writer: Any = None
        self._step = 0

    def __call__(self, event: Event) -> None:
        match event:
            case JobStarted():
                self.close()
                self._open(self._folder or Path(event.folder) / "tensorboard")
            case Step():
                self._step = (event.epoch - 1) * event.steps + event.step
                self._scalar("train/loss", event.loss, event)
                self._scalar(f"train/{event.unit}_per_second", event.examples_per_second, event)
            case Evaluated():
                for name, value in event.metrics.items():
                    self._scalar(f"{event.split}/{name}", value, event)
            case JobFinished():
                self.close()
            case _:
                pass

    def _open(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def _scalar(self, name: str, value: float, event: Event) -> None:
        if self._writer is not None and math.isfinite(value):
            self._writer.add_scalar(name, value, self._step, walltime=event.time)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


# ---------------------------------------------------------------------------------------------------------------------
# constructors


def plain_sink(stream: TextIO) -> PlainSink:
    """Lines of text, for logs and pipes."""
    return PlainSink(stream)


def rich_sink(console: Console) -> RichSink:
    """A live view on a terminal."""
    return RichSink(console)


def json_sink(stream: TextIO) -> JsonSink:
    """JSON lines, for programs."""
    return JsonSink(stream)


def tensorboard_sink(folder: Path | None = None) -> TensorBoardSink | None:
    """TensorBoard files in `folder` (default: `tensorboard/` in each run's folder). None if the package is missing."""
    return TensorBoardSink(folder) if find_spec("tensorboard") is not None else None


def is_lively(stream: TextIO) -> bool:
    """True when the stream is a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def choose_sink(stream: TextIO) -> RichSink | PlainSink:
    """The live view if the stream is a terminal, plain lines otherwise. Colours respect NO_COLOR."""
    if is_lively(stream):
        from rich.console import Console

        return rich_sink(Console(file=stream))
    return plain_sink(stream)
