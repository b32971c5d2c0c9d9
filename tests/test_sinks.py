"""Every sink accepts every event. People get readable lines, programs valid JSON, and `--quiet` prints nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from graphlearn import sinks
from graphlearn.events import (
    CheckpointSaved,
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
from graphlearn.jobs.metrics import Metric
from graphlearn.sinks.sink import expectation, finish_line, step_line
from graphlearn.storage.columns import sql_literal
from graphlearn.text import duration, number


def a_job(folder: Path) -> list[Event]:
    """The events of a short run, at intervals of one second."""
    clock = iter(range(1_700_000_000, 1_800_000_000))

    def now() -> float:
        return float(next(clock))

    events: list[Event] = [
        JobStarted(
            time=now(), run="r1", model="kg.[red]", family="complex", folder=str(folder), options={}, resumed_at=1200
        ),
        PhaseStarted(time=now(), phase="encode", total=1000),
        PhaseAdvanced(time=now(), phase="encode", done=500),
        PhaseFinished(time=now(), phase="encode", seconds=1.5, detail="1,000 rows [not markup]"),
        Note(time=now(), message="3 duplicate rows dropped", level="warning"),
        PhaseStarted(time=now(), phase="train", total=4, unit="epochs"),
    ]
    for epoch in range(1, 5):
        for step in range(1, 11):
            events.append(
                Step(
                    time=now(),
                    epoch=epoch,
                    epochs=4,
                    step=step,
                    steps=10,
                    loss=1 / epoch,
                    examples_per_second=61234.5,
                    eta_seconds=65.0,
                    unit="triples",
                    epoch_done=step == 10,
                )
            )
        events += [
            PhaseStarted(time=now(), phase="evaluate", total=10, unit="triples"),
            PhaseFinished(time=now(), phase="evaluate", seconds=0.1),
            Evaluated(
                time=now(), epoch=epoch, split="valid", metrics={"mrr": epoch / 10, "hits_at_10": 0.5}, best=epoch == 4
            ),
            CheckpointSaved(time=now(), path="c", epoch=epoch, step=epoch * 10),
        ]
    return [
        *events,
        PhaseFinished(time=now(), phase="train", seconds=61.0),
        Evaluated(time=now(), epoch=0, split="test", metrics={"mrr": 0.25}),
        JobFinished(
            time=now(), run="r1", model="kg.[red]", status="done", seconds=75.0, version=2, metrics={"mrr": 0.25}
        ),
    ]


def plain() -> tuple[sinks.Sink, io.StringIO]:
    stream = io.StringIO()
    return sinks.plain_sink(stream), stream


def rich() -> tuple[sinks.Sink, io.StringIO]:
    from rich.console import Console

    stream = io.StringIO()
    return sinks.rich_sink(Console(file=stream, force_terminal=True, width=100)), stream


def as_json() -> tuple[sinks.Sink, io.StringIO]:
    stream = io.StringIO()
    return sinks.json_sink(stream), stream


MAKERS: list[Callable[[], tuple[sinks.Sink, io.StringIO]]] = [plain, rich, as_json]


@pytest.mark.parametrize("make", MAKERS)
def test_every_event_at_any_time(make: Callable[[], tuple[sinks.Sink, io.StringIO]], tmp_path: Path) -> None:
    for events in (a_job(tmp_path), a_job(tmp_path)[::-1], a_job(tmp_path)[3:4], a_job(tmp_path)[20:21]):
        sink, _ = make()
        for event in events:
            sink(event)
        sink.close()
        sink.close()


def test_plain_lines_are_few_and_informative(tmp_path: Path) -> None:
    sink, stream = plain()
    for event in a_job(tmp_path):
        sink(event)
    text = stream.getvalue()
    lines = text.splitlines()
    assert "\x1b" not in text
    assert "kg.[red]: complex, run r1, resumed at step 1,200" in lines[0]
    assert "encode took 1.50 s: 1,000 rows [not markup]" in lines[1]
    assert "warning: 3 duplicate rows dropped" in lines[2]
    steps = [line for line in lines if "triples/s" in line]
    assert 6 <= len(steps) <= 10, "40 steps, one per second, give about one line every five seconds"
    assert "epoch 4/4 · loss 0.25 · 61,234 triples/s · 1 min 05 s left" in steps[-1]
    assert sum("valid: MRR" in line for line in lines) == 4
    assert "epoch 4, valid: MRR 0.4000 · Hits@10 0.5000 (best so far)" in text
    assert "final, test: MRR 0.2500" in text
    assert "evaluate took" not in text, "a validation pass prints only its metrics"
    assert lines[-1].endswith("kg.[red] trained as version 2 in 1 min 15 s · test MRR 0.2500")


def test_plain_lines_become_rarer_in_a_long_run() -> None:
    stream = io.StringIO()
    sink = sinks.plain_sink(stream)
    sink(JobStarted(time=0.0, run="r", model="m", family="f", folder="", options={}))
    for second in range(1, 4 * 3600):
        sink(
            Step(
                time=float(second),
                epoch=1,
                epochs=2,
                step=second,
                steps=99_999,
                loss=1.0,
                examples_per_second=1.0,
                eta_seconds=1.0,
                unit="triples",
            )
        )
    assert 100 < len(stream.getvalue().splitlines()) < 200


def test_rich_view_keeps_lines_and_escapes_markup(tmp_path: Path) -> None:
    sink, stream = rich()
    for event in a_job(tmp_path):
        sink(event)
    sink.close()
    text = stream.getvalue()
    assert "kg.[red]" in text
    assert "[not markup]" in text
    assert "trained as version 2" in text
    assert "best so far" in text


def test_no_color(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    sink, stream = rich()
    for event in a_job(tmp_path):
        sink(event)
    sink.close()
    assert not {"\x1b[31m", "\x1b[32m", "\x1b[33m"} & set(stream.getvalue().split()), "no colours"
    assert "\x1b[32m" not in stream.getvalue()


def test_json_lines_are_json_also_with_nan(tmp_path: Path) -> None:
    sink, stream = as_json()
    events = [*a_job(tmp_path), Evaluated(epoch=1, split="test", metrics={"mrr": float("nan"), "mr": float("inf")})]
    for event in events:
        sink(event)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    records = [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]
    assert len(records) == len(events)
    assert records[0]["event"] == "job_started"
    assert records[-1]["metrics"] == {"mrr": None, "mr": None}


def test_tensorboard_files_hold_loss_and_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    sink = sinks.tensorboard_sink()
    assert sink is not None
    for event in a_job(tmp_path):
        sink(event)
    sink.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert {"train/loss", "train/examples_per_second", "valid/mrr"} <= set(read.Tags()["scalars"])
    assert len(read.Scalars("train/loss")) == 40
    assert [round(point.value, 3) for point in read.Scalars("valid/mrr")] == [0.1, 0.2, 0.3, 0.4]


def test_no_tensorboard_no_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "find_spec", {}.get)
    assert sinks.tensorboard_sink(tmp_path) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_stream_determines_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(sinks.choose_sink(io.StringIO()), sinks.PlainSink)
    assert isinstance(sinks.choose_sink(Terminal()), sinks.RichSink)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(sinks.choose_sink(Terminal()), sinks.PlainSink)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.424, "0.42 s"), (12.34, "12.3 s"), (245, "4 min 05 s"), (11220, "3 h 07 min"), (float("inf"), "unknown")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.14, "8.1 %"), (-0.04, "0.0 %"), (12345.6, "12,345.6 %"), (7.376e27, "7.4e+27 %"), (-1e15, "-1e+15 %")],
)
def test_percentages(value: float, text: str) -> None:
    assert Metric(name="mape", label="MAPE", unit="%").text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0.0000"), (-0.00004, "-4e-05"), (3.14159, "3.1416"), (12345.67, "12,345.7"), (1e16, "1e+16")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    "text", ["NULL", "true", "-1.5", "'o''clock'", "[10, 5]", "['a', 'b']", "{'site': 'road', 'hours': [1, 2]}"]
)
def test_option_values_are_shown_as_sql(text: str) -> None:
    with duckdb.connect() as connection:
        ((value,),) = connection.execute(f"SELECT {text}").fetchall()
    assert sql_literal(value) == text


def test_the_reason_of_a_failure_is_left_to_the_error() -> None:
    event = JobFinished(run="r", model="m", status="interrupted", seconds=3.0, message="run r can continue")
    assert finish_line(event) == "m was interrupted after 3.00 s"


@pytest.mark.parametrize(
    ("eta", "age", "end"),
    [
        (None, None, "triples/s"),
        (65.0, None, "triples/s · 1 min 05 s left"),
        (3.2, 41.4, "triples/s · 3 s left · saved 41 s ago"),
        (None, 130.0, "triples/s · saved 2 min 10 s ago"),
    ],
)
def test_progress_shows_the_time_left_and_the_age_of_the_checkpoint(
    eta: float | None, age: float | None, end: str
) -> None:
    """As far as they are known."""
    event = Step(
        epoch=1, epochs=2, step=1, steps=2, loss=0.5, examples_per_second=9.0, unit="triples",
        eta_seconds=eta, checkpoint_age=age,
    )  # fmt: skip
    assert step_line(event).endswith(end)
    for make in (plain, rich):
        sink, stream = make()
        sink(JobStarted(time=event.time - 10, run="r", model="m", family="complex", folder="f", options={}))
        sink(event)
        sink.close()
        assert end in stream.getvalue()


def a_long_preparation() -> list[Event]:
    """A phase of 100 s that reports nothing but that it runs, and one of 60 s that counts."""
    start = 1_700_000_000.0
    beats = [
        PhaseRunning(time=start + s, phase="prepare", seconds=float(s), expected_seconds=75) for s in range(2, 97, 5)
    ]
    counts = [PhaseAdvanced(time=start + 100 + s, phase="evaluate", done=10 * s) for s in range(1, 61)]
    return [
        JobStarted(time=start, run="r", model="m", family="net3", folder="/tmp", options={}),
        PhaseStarted(time=start, phase="prepare"),
        *beats,
        PhaseFinished(time=start + 100, phase="prepare", seconds=100.0),
        PhaseStarted(time=start + 100, phase="evaluate", total=600, unit="triples"),
        *counts,
    ]


def test_logs_show_that_a_long_phase_runs() -> None:
    sink, stream = plain()
    for event in a_long_preparation():
        sink(event)
    lines = [line.partition(" m: ")[2] for line in stream.getvalue().splitlines()]
    assert lines[1] == "prepare is running, 2.00 s so far, about 75 s expected"
    last = [line for line in lines if line.startswith("prepare is")][-1]
    assert last == "prepare is running, 1 min 27 s so far, longer than the 75 s expected"
    assert "evaluate is running, 20 of 600 triples after 2.00 s" in lines
    assert not any("600 of 600" in line for line in lines)  # then it is no longer known what is left
    assert 10 < len(lines) < 25


def test_no_bar_is_full_while_its_phase_runs() -> None:
    from rich.console import Console
    from rich.progress import Progress

    from graphlearn.sinks.live import bar_column

    def drawn(total: int | None, done: int) -> str:
        stream = io.StringIO()
        console = Console(file=stream, width=80, no_color=True)
        progress = Progress(bar_column(), console=console)
        progress.add_task("prepare", total=total, completed=done)
        console.print(progress.make_tasks_table(progress.tasks))
        return stream.getvalue()

    assert "50%" in drawn(10, 5)
    for total, done in ((None, 0), (10, 10), (0, 0), (10, 12)):
        assert "━" not in drawn(total, done)
        assert "100%" not in drawn(total, done)


def test_the_live_view_says_how_long_a_phase_was_expected_to_take() -> None:
    sink, stream = rich()
    for event in a_long_preparation()[:4]:
        sink(event)
    assert isinstance(sink, sinks.RichSink)
    assert sink._bars().tasks[0].fields["amount"] == "about 75 s expected"
    for event in a_long_preparation()[4:-62]:
        sink(event)
    assert sink._bars().tasks[0].fields["amount"] == "longer than the 75 s expected"
    sink.close()
    assert stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected", "words"),
    [
        (5, None, ""),
        (1, 1.5, ""),
        (5, 11, "about 11 s expected"),
        (12, 11, "longer than the 11 s expected"),
        (240, 11, "longer than the 11 s expected"),
        (5, 1.5, "longer than the 2 s expected"),
        (5, 0.2, "longer than expected"),
    ],
)
def test_a_phase_that_takes_longer_says_so(seconds: float, expected: float | None, words: str) -> None:
    assert expectation(PhaseRunning(phase="baselines", seconds=seconds, expected_seconds=expected)) == words


@pytest.mark.parametrize("make", [plain, rich])
def test_reading_a_large_input_before_the_run_is_shown(make: Callable[[], tuple[sinks.Sink, io.StringIO]]) -> None:
    sink, stream = make()
    sink(PhaseRunning(time=1_700_000_000.0, phase="measure", seconds=2.0))
    if isinstance(sink, sinks.RichSink):
        assert [task.description for task in sink._bars().tasks] == ["measure"]
        sink(a_long_preparation()[0])
        assert not sink._tasks
    else:
        assert "measure is running, 2.00 s so far" in stream.getvalue()
    sink.close()
