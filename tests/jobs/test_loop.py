"""The loop of all families: time left, speed, processor time, and what checkpoints cost."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cases.jobs import request, workspace
from cases.loops import STEPS, CountingLoop, CountingOptions
from torch import Tensor

from graphlearn.errors import Interrupted, TrainingDiverged
from graphlearn.events import CheckpointSaved, Event, Step, silent
from graphlearn.jobs import checkpoint, loop, pace, saver
from graphlearn.jobs.checkpoint import Checkpoint
from graphlearn.jobs.create import create_model
from graphlearn.jobs.kge.training import KgeLoop
from graphlearn.jobs.pace import Pace
from graphlearn.jobs.saver import SHARE, Saver
from graphlearn.types import Json


@dataclass
class Clock:
    """A clock that the test moves. `cpu`: the processor time of every thread that saves a checkpoint."""

    now: float = 1000.0
    cpu: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.cpu

    def process_time(self) -> float:
        return 2 * self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the loop and of the checkpoints."""
    made = Clock()
    for module in (loop, saver):
        monkeypatch.setattr(module, "time", made)
    return made


class TimedLoop(CountingLoop):
    """A loop whose steps and evaluations take so many seconds of a clock; the first step takes `first`."""

    def __init__(
        self, folder: Path, clock: Clock, *, step: float, first: float, evaluation: float, **given: Any
    ) -> None:
        super().__init__(folder, **given)
        self.clock, self.step_seconds, self.first, self.evaluation = clock, step, first, evaluation

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        for values in super().train(epoch, first):
            self.clock.now += self.step_seconds if int(self.steps_taken) > 1 else self.first
            yield values

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        self.clock.now += self.evaluation
        return super().evaluate()


# time left and speed


def steps_of(tmp_path: Path, clock: Clock, **given: Any) -> list[tuple[float, Step]]:
    """The step events of a loop, each with its time, until it is done."""
    said: list[tuple[float, Step]] = []
    options = CountingOptions(epochs=100, checkpoint_seconds=1e9)

    def emit(event: Event) -> None:
        if isinstance(event, Step):
            said.append((clock.now, event))

    timing = {"step": 0.5, "first": 0.5, "evaluation": 0.0} | given
    TimedLoop(tmp_path / "c", clock, emit=emit, options=options, scores=[1.0] * 100, **timing).fit()
    return said


def test_the_time_left_leaves_out_the_first_steps(tmp_path: Path, clock: Clock) -> None:
    said = steps_of(tmp_path, clock, first=600.0)
    end = clock.now
    assert said[0][1].eta_seconds is None, "there is nothing to estimate from yet"
    known = [(event.eta_seconds, end - now) for now, event in said if event.eta_seconds is not None]
    assert len(known) == len(said) - 1
    assert all(left == pytest.approx(true, abs=1e-6) for left, true in known)


def test_the_time_left_contains_the_evaluations(tmp_path: Path, clock: Clock) -> None:
    said = steps_of(tmp_path, clock, evaluation=7.0)
    known = [(event.eta_seconds, clock.now - now) for now, event in said[STEPS * 2 :]]
    assert all(left == pytest.approx(true, abs=1e-6) for left, true in known)


def test_the_time_left_is_smoothed() -> None:
    measured = Pace()
    assert measured.left(100, 1) is None
    measured.stepped(600, 60.0)
    measured.stepped(1, 1.0)  # another program needed the processor for a moment
    found = measured.left(1000, 0)
    assert found is not None
    assert 100 < found < 105
    for _ in range(600):  # from now on it is slower
        measured.stepped(1, 1.0)
    assert measured.left(1000, 0) == pytest.approx(1000, rel=0.01)


def test_the_time_left_contains_checkpoints() -> None:
    measured = Pace()
    measured.stepped(10, 10.0)
    assert measured.left(100, 0, checkpoints=0.02) == pytest.approx(102.0)


def test_the_speed_leaves_out_the_first_steps_and_checkpoints(tmp_path: Path, clock: Clock) -> None:
    said = steps_of(tmp_path, clock, first=600.0)
    assert [event.examples_per_second for _, event in said[1:]] == pytest.approx([20.0] * (len(said) - 1))


@pytest.mark.parametrize("sides", ["both", "alternate"])
def test_a_triple_counts_once(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, sides: str) -> None:
    """However many of its ends are asked for, the speed is the triples of an epoch divided by its seconds."""
    said: list[Event] = []
    plain = KgeLoop.train

    def train(self: KgeLoop, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        for values in plain(self, epoch, first):
            clock.now += 0.5
            yield values

    monkeypatch.setattr(KgeLoop, "train", train)
    monkeypatch.setattr(pace, "WARM_UP", 0)
    monkeypatch.setattr(loop, "REPORT_SECONDS", math.inf)
    with workspace(tmp_path) as w:
        made = create_model(w, request(sides=sides, epochs=1), emit=said.append)
    (event,) = (event for event in said if isinstance(event, Step))
    assert event.examples_per_second == pytest.approx(made.counts["train"] / (0.5 * event.steps))
    assert event.unit == "triples"


# processor time


def test_processor_time_is_counted_across_resumes(tmp_path: Path, clock: Clock) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.epoch == 1 and event.step == 2:
            raise Interrupted("stopped")

    timing = {"step": 1.0, "first": 1.0, "evaluation": 10.0}
    with pytest.raises(Interrupted):
        TimedLoop(tmp_path / "c", clock, emit=stop, **timing).fit()
    clock.now += 500.0  # between the two processes
    again = TimedLoop(tmp_path / "c", clock, **timing)
    assert again.resume()
    assert again.progress.cpu_seconds == pytest.approx(2 * (4 + 10 + 2))
    again.fit()
    assert again.progress.cpu_seconds == pytest.approx(2 * (3 * 4 + 3 * 10))


# the cost of checkpoints


@pytest.mark.parametrize(
    ("stopped", "cpu", "expected"),
    [(0.001, 0.001, 60.0), (1.0, 0.5, 60.0), (4.5, 0.0, 150.0), (20.0, 10.0, 1000.0)],
    ids=["small", "1.6M x 100", "as before", "10M x 100"],
)
def test_checkpoints_take_at_most_their_share(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, stopped: float, cpu: float, expected: float
) -> None:
    """However long a checkpoint takes; and no fewer are saved than that allows."""
    stage, clock.cpu = checkpoint.stage, cpu

    def slow(*given: Any) -> Path:
        clock.now += stopped
        return stage(*given)

    monkeypatch.setattr(checkpoint, "stage", slow)
    state = CountingLoop(tmp_path / "c")
    made = Saver(tmp_path / "c", "run", "job")
    made.begin(state.state())
    began, saved = clock.now, []
    for second in range(6_000):
        clock.now += 1.0
        if made.due(60.0):
            state.progress.step = second
            made.save(state.progress.to_json(), state.state)
            assert made.wait() is not None
            saved.append(clock.now)
        elapsed = clock.now - began
        if len(saved) > 1:  # the cost of the first is not known before
            assert len(saved) * (stopped + cpu) <= SHARE * elapsed + 1e-6
    gaps = [b - a for a, b in pairwise(saved[1:])]
    assert sum(gaps) / len(gaps) == pytest.approx(expected, rel=0.05)
    assert made.share() <= SHARE


def test_a_large_state_is_not_saved_early(tmp_path: Path, clock: Clock) -> None:
    """Before the first checkpoint its cost is estimated from its size."""
    made = Saver(tmp_path / "c", "run", "job")
    made.begin({"big": SimpleNamespace(nbytes=8_000_000_000)})  # type: ignore[dict-item]
    clock.now += 599.0
    assert not made.due(60.0)
    assert made.due(0)
    clock.now += 100.0
    assert made.due(60.0)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is that of the moment when the checkpoint was due; no second one is saved meanwhile."""
    going, plain = threading.Event(), checkpoint.commit

    def slow(staged: Path, *given: Any) -> Checkpoint:
        assert going.wait(60)
        return plain(staged, *given)

    monkeypatch.setattr(checkpoint, "commit", slow)
    state = CountingLoop(tmp_path / "c")
    made = Saver(tmp_path / "c", "run-1", "job-1")
    made.begin(state.state())
    made.keep_best(0, state.weights())
    made.save(state.progress.to_json(), state.state)
    state.count += 1
    assert made.poll() is None
    assert not made.due(1e-9)
    assert checkpoint.newest(tmp_path / "c", "run-1", "job-1") is None
    going.set()
    saved = made.wait()
    assert saved is not None
    assert saved.state(state.state())["count"].sum() == 0
    assert made.poll() is None, "it is reported once"


def test_an_interrupt_saves_the_last_state_after_the_one_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, plain = [], checkpoint.commit

    def noted(staged: Path, record: Json, *given: Any) -> Checkpoint:
        committed.append(record["name"])
        return plain(staged, record, *given)

    monkeypatch.setattr(checkpoint, "commit", noted)
    monkeypatch.setattr(Saver, "due", lambda self, at_least: self._thread is None and not committed)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    seen: list[CheckpointSaved] = []

    def emit(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (2, 3):
            os.kill(os.getpid(), signal.SIGTERM)
        if isinstance(event, CheckpointSaved):
            seen.append(event)

    options = CountingOptions(checkpoint_seconds=60.0)
    with pytest.raises(Interrupted):
        CountingLoop(tmp_path / "c", emit=emit, options=options).fit()
    assert committed == ["0-1", "1-3"]
    assert [(event.epoch, event.step) for event in seen] == [(0, 1), (1, 3)]
    again = CountingLoop(tmp_path / "c", options=options)
    assert again.resume()
    assert int(again.steps_taken) == 7


def test_an_interrupt_at_the_end_of_training_is_not_lost(tmp_path: Path) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Step) and event.epoch_done and event.epoch == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        CountingLoop(tmp_path / "c", emit=emit, options=CountingOptions(checkpoint_seconds=60.0)).fit()
    again = CountingLoop(tmp_path / "c")
    assert again.resume()
    assert again.progress.finished


def test_nothing_that_diverged_is_saved(tmp_path: Path) -> None:
    class Diverging(CountingLoop):
        def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
            for _, examples in super().train(epoch, first):
                os.kill(os.getpid(), signal.SIGINT)
                yield math.nan, examples

    with pytest.raises(TrainingDiverged):
        Diverging(tmp_path / "c").fit()
    assert not list((tmp_path / "c").glob("[0-9]*"))


def test_the_age_of_the_last_checkpoint_is_reported(tmp_path: Path, clock: Clock) -> None:
    ages: list[float | None] = []

    def emit(event: Event) -> None:
        if isinstance(event, Step):
            ages.append(event.checkpoint_age)

    TimedLoop(tmp_path / "c", clock, emit=emit, step=1.0, first=1.0, evaluation=0.0).fit()
    assert ages == [None, *[1.0] * 11]


def test_the_record_of_a_run_names_its_checkpoint(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        made = create_model(w, request(checkpoint_seconds=0.0), emit=silent)
        state = json.loads((w.folder / "runs" / str(made.run) / "run.json").read_text())
    assert Path(state["checkpoint"]).name == "3-0"
