"""A live view on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from graphlearn.sinks.sink import (
    EVALUATIONS,
    TRAINING,
    best_so_far,
    epochs_done,
    expectation,
    finish_line,
    metrics_of,
    step_line,
    when,
)
from graphlearn.text import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.progress import Progress, ProgressColumn, Task, TaskID


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
                self.close()  # what ran before the run
                self._split, self._metrics = "test", metrics_of(event.family)
                again = f" · resumed at step {event.resumed_at:,}" if event.resumed_at is not None else ""
                self._say(f"[bold]{_plain(event.model)}[/] · {event.family} · [dim]run {_plain(event.run)}{again}[/]")
            case PhaseStarted():
                self._begin(event.phase, event.total, event.unit)
            case PhaseAdvanced():
                self._advance(event.phase, event.done)
            case PhaseRunning():
                self._run(event)
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
                best = f" [green]{best_so_far(event)}[/]" if event.best else ""
                self._say(
                    f"    [dim]{when(event):<10}[/] {event.split} {metrics_line(event.metrics, self._metrics)}{best}"
                )
            case Note():
                style = "yellow" if event.level == "warning" else "dim"
                self._say(f"  [{style}]{event.level}:[/] {_plain(event.message)}")
            case JobFinished():
                self._metrics = metrics_of(event.family) or self._metrics
                self._finish(event)
            case _:
                pass

    def _say(self, markup: str) -> None:
        """Print a permanent line above the live part."""
        self._console.print(markup, highlight=False)

    def _bars(self) -> Progress:
        if self._progress is None:
            from rich.live import Live
            from rich.progress import Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("  {task.description:<10}"),
                bar_column(),
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

    def _run(self, event: PhaseRunning) -> None:
        if event.phase not in self._tasks:
            self._begin(event.phase, None, "")
        expected = expectation(event)
        if expected and event.phase != TRAINING:
            self._bars().update(self._tasks[event.phase], amount=expected)

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
        figures = (
            f" · {event.split or self._split} {metrics_line(event.metrics, self._metrics)}" if event.metrics else ""
        )
        self._say(f"{marks.get(event.status, '[yellow]![/]')} {_plain(finish_line(event))}{figures}")

    def close(self) -> None:
        """Remove the live part from the screen; permanent lines remain."""
        if self._live is not None:
            self._live.stop()
        self._live = self._progress = None
        self._tasks, self._training, self._evaluation = {}, "", ""


def bar_column() -> ProgressColumn:
    """A column with a bar and a percentage, or with a spinner while nobody knows how much is left.

    A bar without a total would look full on terminals without colours, and so would one whose phase still tidies up.
    """
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TaskProgressColumn
    from rich.table import Table

    bar, percent, spinner = BarColumn(bar_width=30), TaskProgressColumn(), SpinnerColumn()

    class Bar(ProgressColumn):
        def render(self, task: Task) -> RenderableType:
            if not task.total or task.completed >= task.total:
                return spinner.render(task)
            both = Table.grid(padding=(0, 1))
            both.add_row(bar.render(task), percent.render(task))
            return both

    return Bar()


def _plain(text: str) -> str:
    from rich.markup import escape

    from graphlearn.errors import printable

    return escape(printable(text))


# output for programs
