"""Measured costs: what is stored, what is ignored, and how they correct the estimates of a plan."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from cases.jobs import request, workspace

from graphlearn.events import Event, PhaseFinished, PhaseRunning
from graphlearn.jobs.costs import KEYS, LARGEST_FILE, PAIRS, Costs
from graphlearn.jobs.create import create_model
from graphlearn.jobs.dataflow import Dataflow, Estimate, Needs, Operator, Task
from graphlearn.jobs.execute import Context, execute
from graphlearn.jobs.heartbeat import Heartbeat
from graphlearn.jobs.kge.estimate import baselines as kge_baselines
from graphlearn.jobs.machine import Machine, load
from graphlearn.jobs.train import expected_epochs, within_budget
from graphlearn.models.core.options import Options


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this machine's costs, in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = Costs.load().path
    assert path is not None
    assert path.is_relative_to(tmp_path)
    return path


class Nothing(Task):
    """A task that may run on a GPU and does nothing."""

    needs = Needs(devices=("cuda", "cpu"))

    def run(self, data: dict[str, object], context: Context) -> dict[str, object]:  # noqa: ARG002
        return {"nothing": None}


def flow(options: Options | None = None, **costs: float) -> Dataflow:
    """A plan of one operator with this estimate."""
    return Dataflow([Operator(name="work", task=Nothing(), outputs=("nothing",), estimate=Estimate(**costs))], options)


def test_the_median_of_the_nearest_runs_corrects_an_estimate(stored: Path) -> None:
    costs = Costs.load()
    assert costs.factor("train", 10.0) == (1.0, 0)
    for estimated, measured in [(1, 3), (1, 3), (100, 200), (100, 9000), (100, 200), (90, 180), (110, 220)]:
        costs.add("train", estimated, measured)
    costs.add("other", 1, 50)
    assert Costs.load().factor("train", 100.0) == (pytest.approx(2), 5)
    assert Costs.load().factor("train", 1.0) == (pytest.approx(3), 2)
    assert Costs.load().factor("other", 1.0) == (pytest.approx(4), 1)
    assert costs.factor("train", 100.0) == (1.0, 0)  # a plan is made with what was known when it began


def test_a_file_keeps_a_bounded_number_of_the_newest_pairs(stored: Path) -> None:
    costs = Costs.load()
    for n in range(1, PAIRS + 5):
        costs.add("train", 1.0, float(n))
    assert [measured for _, measured in Costs.load().pairs["train"]] == [float(n) for n in range(5, PAIRS + 5)]
    stored.write_text(json.dumps({"format": 1, "pairs": {f"k{n}": [[1, 2]] for n in range(2 * KEYS)}}))
    costs.add("train", 1.0, 1.0)
    assert len(Costs.load().pairs) == KEYS
    assert "train" in Costs.load().pairs


def test_a_key_gets_no_pairs_that_are_noise(stored: Path) -> None:
    Costs.load().add("scan", 0.001, 0.01)
    assert not stored.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 1, "pairs": []}',
        b'{"format": 2, "pairs": {"train": [[1, 2]]}}',
        b'{"format": 1, "pairs": {"train": 3}}',
        b'{"format": 1, "pairs": {"train": [[1], [1, 2, 3], ["1", 2], [true, 1], [0, 1], [1, NaN], [-1, 2], null]}}',
        b'{"format": 1, "pairs": {"train": [[1, 1e999], [1e-300, 1]]}}',
        b"[" * 100_000,
        b'{"format": 1, "pairs": {"' + b"x" * LARGEST_FILE + b'": [[1, 2]]}}',
    ],
)
def test_a_file_with_anything_else_is_ignored_and_replaced(stored: Path, content: bytes) -> None:
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    costs = Costs.load()
    assert costs.factor("train", 1.0) == (1.0, 0)
    costs.add("train", 1.0, 2.0)
    assert Costs.load().factor("train", 1.0) == (pytest.approx(2), 1)


def test_a_tiny_run_says_how_long_the_start_takes_and_scales_nothing(stored: Path) -> None:
    """The first run reads 20 rows, of which nearly all is start-up; a plan for a large table once said 6 min 31 s."""
    Costs.load().add("encode", 1.97e-05, 0.394)
    for estimated in (1.97e-05, 1e-3, 0.02, 3.9, 100.0):
        factor, runs = Costs.load().factor("encode", estimated)
        assert (factor * estimated, runs) == (pytest.approx(estimated + 0.394, abs=1e-4), 1)
    Costs.load().add("encode", 4.0, 6.0)
    assert Costs.load().factor("encode", 4.0) == (pytest.approx(1.5), 1)


def test_a_large_run_says_nothing_about_one_of_another_size(stored: Path) -> None:
    Costs.load().add("train", 10.0, 30.0)
    factors = [Costs.load().factor("train", 10.0 * times)[0] for times in (1, 2, 5, 9)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == pytest.approx(3)
    assert 1 < factors[-1] < 1.1
    assert Costs.load().factor("train", 5.0)[0] == pytest.approx(factors[1])
    assert Costs.load().factor("train", 101.0) == (1.0, 0)
    assert Costs.load().factor("train", 0.9) == (1.0, 0)


def test_no_correction_exceeds_its_bound(stored: Path) -> None:
    for key, estimated, measured in [("slow", 1.0, 1e6), ("fast", 1e6, 1.0), ("start", 1e-6, 1e6), ("none", 3.0, 0.1)]:
        Costs.load().add(key, estimated, measured)
    costs = Costs.load()
    assert costs.factor("slow", 1.0)[0] == 4
    assert costs.factor("fast", 1e6)[0] == 0.25
    assert costs.factor("start", 1.0)[0] == pytest.approx(6)
    assert costs.factor("none", 1.0)[0] == 0.25


def test_a_folder_that_cannot_be_written_changes_nothing(stored: Path) -> None:
    stored.parent.write_text("a file where the folder should be")
    costs = Costs.load()
    costs.add("train", 1.0, 2.0)
    assert Costs.load().pairs == {}


def test_a_run_records_its_operators_and_the_next_plan_uses_them(stored: Path, tmp_path: Path) -> None:
    plan, seen = flow(seconds=1e-3), list[Event]()
    machine = Machine(1e9, costs=Costs.load())
    context = Context(emit=seen.append, run="r", folder=tmp_path)
    key = plan.operators[0].kind("cpu")
    execute(plan, context, machine=machine)
    machine.costs.add(key, 1e-3, 0.1)
    row = plan.table(Machine(1e9, costs=Costs.load())).to_pylist()[0]
    assert (row["cpu_seconds"], row["seconds"], row["runs"]) == (pytest.approx(0.1), pytest.approx(0.1), 1)
    (finished,) = [event for event in seen if isinstance(event, PhaseFinished)]
    assert finished.cpu_seconds is not None


def test_training_leaves_measured_costs_and_a_resumed_run_does_not(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[str] = []
    monkeypatch.setattr(Costs, "add", lambda self, key, estimated, measured: added.append(key))
    with workspace(tmp_path) as opened:
        create_model(opened, request(), emit=lambda _: None)
    assert any("TrainKge" in key and "complex" in key and key.endswith("cpu") for key in added)
    added.clear()
    context = Context(emit=lambda _: None, run="r", folder=tmp_path, resume=True)
    execute(flow(seconds=5.0), context, machine=Machine(1e9))
    assert added == []


def test_a_plan_names_the_device_that_the_machine_has() -> None:
    def device(machine: Machine, options: Options | None = None) -> str:
        return str(flow(options, seconds=1.0).table(machine)["device"][0])

    assert device(Machine(1e9)) == "cpu"
    assert device(Machine(1e9, cuda=1e13)) == "cuda"
    assert device(Machine(1e9, cuda=1e13), Options(device="cpu")) == "cpu"
    assert "cuda" not in flow(seconds=1.0).text(Machine(1e9))


def test_arithmetic_is_shared_by_cores_and_all_waits_for_other_programs() -> None:
    def seconds(machine: Machine, threads: int = 0) -> float:
        plan = flow(Options(threads=threads), seconds=1.0, gemm=8e9)
        found = plan.cost(plan.operators[0], machine)
        assert found.cpu_seconds == 9.0
        assert found.seconds is not None
        return found.seconds

    assert seconds(Machine(1e9)) == 9
    assert seconds(Machine(1e9, cores=4)) == 3
    assert seconds(Machine(1e9, cores=4), threads=1) == 9
    assert seconds(Machine(1e9, cores=4, load=3.0)) > 2.5 * seconds(Machine(1e9, cores=4))


def test_a_slower_machine_needs_longer_for_all_parts() -> None:
    estimate = Estimate(seconds=1.0, gemm=1e9)
    assert estimate.cpu(Machine(1e9)) == 2
    assert estimate.cpu(Machine(0.5e9, pace=2.0)) == 4
    assert (estimate * 3 + estimate).cpu(Machine(1e9)) == 8
    assert (Estimate() + Estimate()).cpu(Machine(1e9)) is None


def test_early_stopping_is_expected() -> None:
    assert expected_epochs(Options(epochs=50, patience=0)) == 50
    assert expected_epochs(Options(epochs=50, patience=5)) == 10
    assert expected_epochs(Options(epochs=5, patience=5)) == 5


def test_a_silent_phase_reports_that_it_runs() -> None:
    beaten = threading.Event()
    seen: list[Event] = []

    def emit(event: Event) -> None:
        seen.append(event)
        beaten.set()

    heartbeat = Heartbeat(emit, first=0.01, every=0.01)
    with heartbeat.phase("prepare", 30.0):
        assert beaten.wait(30)
    count = len(seen)
    assert all(isinstance(event, PhaseRunning) and event.phase == "prepare" for event in seen)
    assert {event.expected_seconds for event in seen if isinstance(event, PhaseRunning)} == {30.0}
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    assert len(seen) == count


def test_events_that_cannot_be_recorded_fail_the_phase_and_not_the_heartbeat() -> None:
    called = threading.Event()

    def emit(event: Event) -> None:
        called.set()
        raise OSError("the disk is full")

    heartbeat = Heartbeat(emit, first=0.01)
    with heartbeat.phase("prepare", None):
        assert called.wait(30)
    with pytest.raises(OSError, match="full"):
        heartbeat.emit(PhaseRunning(phase="prepare", seconds=1.0))


def test_baselines_take_what_they_need_or_their_share_of_the_training() -> None:
    def seconds(share: float, training: float) -> float | None:
        return within_budget(Estimate(seconds=8.0), Estimate(seconds=training), share).cpu(Machine(1e9))

    assert seconds(0.0, 1.0) == 8
    assert seconds(0.2, 1.0) == 1
    assert seconds(0.2, 20.0) == 4
    assert seconds(0.2, 1000.0) == 8
    limited, free = (within_budget(Estimate(), Estimate(), share).method for share in (0.2, 0.0))
    assert limited != free


def test_the_baselines_of_umls_are_estimated() -> None:
    found = kge_baselines(entities=135, relations=46, train=5216, valid=652, test=661).cpu(Machine(1e9))
    assert found == pytest.approx(5.2, rel=0.5)  # measured: 4.5 to 5.8 CPU seconds


@pytest.mark.parametrize(
    ("text", "threads"),
    [("1.10 1.64 2.34 1/93 22878", 0), ("4.00 1.64 2.34 3/93 22878", 2), ("4.00 1.64 2.34 9/93 2", 4), ("odd", 4)],
)
def test_a_run_that_has_just_ended_is_no_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, threads: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 4.0, 4.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (tmp_path / "loadavg").write_text(text)
    assert load(tmp_path / "loadavg") == threads / 2
    assert load(tmp_path / "missing") == 2
