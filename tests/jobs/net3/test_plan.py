"""The run of a NET3 model, from sizes to tasks, for every value of the option `task`."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from graphlearn import processors
from graphlearn.errors import InputError, OptionError, ResourceError
from graphlearn.events import Evaluated, Event, Note, PhaseStarted, silent
from graphlearn.jobs import machine
from graphlearn.jobs.create import create_model, measure
from graphlearn.jobs.dataflow import Data, Operator
from graphlearn.jobs.execute import Context, run_here
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.net3.options import Net3JobOptions
from graphlearn.jobs.net3.plan import Net3Sizes
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.workspace import Workspace

READINGS = """
CREATE TABLE readings AS
SELECT DATE '2024-01-01' + t::INTEGER AS ts, 's' || s AS site, 'v' || v AS variable,
       (10 * s + v + sin(t * 0.7 + s) + (t * 31 + s * 7 + v * 3) % 11 / 50)::DOUBLE AS value
FROM range(60) a(t), range(4) b(s), range(2) c(v);
CREATE TABLE roads AS SELECT 's' || i AS source, 's' || (i + 1) % 4 AS target, 1.0 + i AS weight FROM range(4) t(i);
"""
TASKS: dict[str, dict[str, Any]] = {
    "forecast": {"horizon": 2},
    "smooth": {"task": "recover"},
    "causal": {"task": "recover", "recovery": "causal"},
}
NET3 = family("net3")


def request(name: str = "m", series: str = "FROM readings", roads: str = "FROM roads", **options: Any) -> ModelRequest:
    """A request with small options: a series, an edge table of one mode, a generated graph of the other."""
    small: dict[str, Any] = {
        "epochs": 2,
        "dim": 3,
        "core_limit": 3,
        "learnt_rank": 2,
        "threads": 1,
        "baseline_share": 0.0,
    }
    made = Net3JobOptions(**(small | {"graphs": {"variable": "pearson"}} | options))
    inputs = {"series": series, "site": roads}
    return ModelRequest(name=name, family="net3", options=made, inputs=inputs, statement=f"CREATE MODEL {name}")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "w.duckdb") as opened:
        opened.connection.execute(READINGS)
        yield opened


def sizes_of(workspace: Workspace, wanted: ModelRequest) -> Net3Sizes:
    found = measure(workspace.connection, wanted)
    assert isinstance(found, Net3Sizes)
    return found


def test_the_sizes_of_the_inputs(workspace: Workspace) -> None:
    wanted = request()
    sizes = sizes_of(workspace, wanted)
    assert (sizes.series.rows, sizes.series.steps, sizes.series.modes) == (480, 60, {"site": 4, "variable": 2})
    assert (sizes.edges, sizes.known) == ({"site": 4}, True)
    before = wanted.fingerprint(sizes.fingerprints)
    workspace.connection.execute("UPDATE roads SET weight = 7 WHERE source = 's0'")
    assert wanted.fingerprint(sizes_of(workspace, wanted).fingerprints) != before
    empty = sizes_of(workspace, request(series="FROM readings WHERE false"))
    assert (empty.known, empty.series.rows) == (False, 0)
    plan = NET3.plan(request(), empty).table(Machine(1e12)).to_pylist()
    assert all(row[name] is None for row in plan for name in ("rows", "bytes", "flops", "memory", "seconds"))


@pytest.mark.parametrize("task", TASKS)
def test_a_plan_is_pure(workspace: Workspace, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request(**TASKS[task])
    sizes = sizes_of(workspace, wanted)
    first = NET3.plan(wanted, sizes).table(Machine(1e12))
    workspace.close()

    def unusable(*_: object, **__: object) -> Any:
        raise AssertionError("a plan does no I/O")

    monkeypatch.setattr(duckdb, "connect", unusable)
    for name in ("memory_available", "gemm_flops", "core_gemm", "cuda_gemm", "pace", "default_threads"):
        monkeypatch.setattr(machine, name, unusable)
    monkeypatch.setattr(processors, "cores", unusable)
    monkeypatch.setattr(Path, "open", unusable)
    again = NET3.plan(request(**TASKS[task]), pickle.loads(pickle.dumps(sizes)))
    assert again.table(Machine(1e12)) == first
    assert first.column("operator").to_pylist() == [
        "scan", "encode", "graphs", "prepare", "train", "baselines", "evaluate", "publish",
    ]  # fmt: skip
    slow = {row["operator"]: row["seconds"] for row in again.table(Machine(1e6)).to_pylist()}
    fast = {row["operator"]: row["seconds"] for row in first.to_pylist()}
    arithmetic = ["train", "evaluate"]
    assert [name for name in slow if slow[name] != fast[name]] == ["prepare"] * (task == "smooth") + arithmetic


@pytest.mark.parametrize("task", TASKS)
def test_tasks_that_need_no_database_run_elsewhere(workspace: Workspace, task: str) -> None:
    """Tasks and data are pickled in both directions; weights, metrics and events are the same."""
    sent: list[str] = []

    def elsewhere(operator: Operator, data: Data, context: Context) -> Data:
        assert pickle.loads(pickle.dumps(operator.task)) == operator.task
        if operator.needs.driver:
            return run_here(operator, data, context)
        sent.append(operator.name)
        carried, given = pickle.loads(pickle.dumps((operator.task, data)))
        outputs: Data = pickle.loads(pickle.dumps(carried.run(given, replace(context, driver=None))))
        return outputs

    heard: dict[str, list[Event]] = {"here": [], "there": []}
    create_model(workspace, request("here", **TASKS[task]), emit=heard["here"].append)
    create_model(workspace, request("there", **TASKS[task]), emit=heard["there"].append, executor=elsewhere)
    assert sent == ["prepare", "train", "baselines", "evaluate"]
    here, there = (ArtifactStore(workspace.folder).load(name).manifest for name in heard)
    assert here["metrics"] == there["metrics"]
    assert here["verdict"] == there["verdict"] != ""
    stored = {name: file["sha256"] for name, file in here["files"].items()}
    assert {name: file["sha256"] for name, file in there["files"].items()} == stored
    assert {"weights.safetensors", "intervals.safetensors", "metrics.parquet", "series.npy", "graph_0.parquet"} < {
        *stored
    }
    assert "series_errors.safetensors" in stored
    assert ("recovered.npy" in stored) == (task != "forecast")
    one, other = (
        [replace(e, time=0.0) for e in events if isinstance(e, Note | Evaluated)] for events in heard.values()
    )
    assert one == other
    phases = [e.phase for e in heard["here"] if isinstance(e, PhaseStarted)]
    assert phases == ["scan", "encode", "graphs", "prepare", "train", "baselines", "evaluate", "publish"]


@pytest.mark.parametrize(
    ("role", "change"),
    [("series", "DELETE FROM readings WHERE site = 's3'"), ("site", "UPDATE roads SET weight = 9 WHERE source = 's0'")],
)
def test_rows_that_change_between_plan_and_run_are_noticed(workspace: Workspace, role: str, change: str) -> None:
    wanted = request()
    sizes = measure(workspace.connection, wanted)
    workspace.connection.execute(change)
    with pytest.raises(InputError, match="rows of the query changed") as caught:
        create_model(workspace, wanted, emit=silent, sizes=sizes)
    assert caught.value.role == role


def test_a_series_beyond_any_memory_is_refused_and_can_be_explained(workspace: Workspace) -> None:
    wanted = request()
    sizes = sizes_of(workspace, wanted)
    huge = replace(sizes, series=replace(sizes.series, steps=1 << 40, modes={"site": 10**9, "variable": 10**9}))
    with pytest.raises(ResourceError, match=r"the series would be .* the free memory is 1,024 MiB") as caught:
        NET3.fits(wanted, huge, 1 << 30)
    assert "choose a longer freq" in str(caught.value.help)
    assert NET3.plan(wanted, huge).table(Machine(1e12)).num_rows == 8
    with pytest.raises(ResourceError, match=r"of memory to prepare, and 1\.0 MB is free") as caught:
        NET3.fits(wanted, sizes, 1 << 20)
    assert "dim" in str(caught.value.help)


def test_the_split_matters_to_a_recovery_with_a_graph_of_the_train_split() -> None:
    split = (0.7, 0.2, 0.1)
    assert request(task="recover", split=split).options.split == split
    with pytest.raises(OptionError, match="split has no effect with task = 'recover'"):
        request(task="recover", split=split, graphs={"variable": "chain"})
