"""CREATE MODEL from request to version: results, resume after kill -9, interruption, refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from cases.jobs import request, workspace
from cases.paths import TESTS

from graphlearn.errors import (
    InputError,
    Interrupted,
    OptionError,
    ResourceError,
    TrainingDiverged,
    UserError,
    WorkspaceError,
)
from graphlearn.events import Evaluated, Event, JobFinished, Note, Step, silent
from graphlearn.jobs import create
from graphlearn.jobs.create import create_model, measure
from graphlearn.jobs.dataflow import Dataflow
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.runs import RunFolder, list_runs
from graphlearn.storage.workspace import Workspace
from graphlearn.types import Json

CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from cases.jobs import request
from graphlearn.storage.workspace import Workspace
from graphlearn.jobs.create import create_model
from graphlearn.jobs.train import Publish
from graphlearn.models.kge.engines.fused import FusedEngine
from graphlearn.events import name_of

kind, count, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
seen = 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def emit(event):
    global seen
    if name_of(event) == kind or getattr(event, "phase", None) == kind:
        seen += 1
        if seen == count:
            die()
if kind == "batch":
    plain = FusedEngine.step
    def step(self, batch, rate):
        global seen
        seen += 1
        if seen == count:
            die()
        return plain(self, batch, rate)
    FusedEngine.step = step
if kind == "committed":
    plain = Publish.run
    def publish(self, data, context):
        plain(self, data, context)
        die()
    Publish.run = publish
with Workspace.open({database!r}) as w:
    print(create_model(w, request(**{options!r}), emit=emit, resume=resume))
"""


def fingerprint(cursor: duckdb.DuckDBPyConnection, wanted: ModelRequest) -> str:
    return wanted.fingerprint(measure(cursor, wanted).fingerprints)


def planned(cursor: duckdb.DuckDBPyConnection, wanted: ModelRequest) -> Dataflow:
    return family(wanted.family).plan(wanted, measure(cursor, wanted))


def child(path: Path, kind: str, count: int, resume: str | None, options: Json) -> subprocess.CompletedProcess[str]:
    code = CHILD.format(tests=str(TESTS), database=str(path / "kg.duckdb"), options=options)
    return subprocess.run(
        [sys.executable, "-c", code, kind, str(count), resume or ""], capture_output=True, text=True, check=False
    )


def outcome(path: Path) -> tuple[dict[str, Any], str, float]:
    artifact = ArtifactStore(path / "kg.graphlearn").load("m")
    digest = artifact.manifest["files"]["weights.safetensors"]["sha256"]
    losses = [
        json.loads(line)["loss"]
        for line in (path / "kg.graphlearn" / "runs" / artifact.manifest["run"] / "events.jsonl")
        .read_text()
        .splitlines()
        if '"event": "step"' in line and '"epoch_done": true' in line
    ]
    return artifact.manifest["metrics"], digest, losses[-1]


OPTIONS: Json = {"checkpoint_seconds": 0.0, "evaluate_every": 1, "patience": 0, "schedule": "linear"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, float]:
    path = tmp_path_factory.mktemp("undisturbed")
    workspace(path).close()
    assert child(path, "", 0, None, OPTIONS).returncode == 0
    return outcome(path)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("encode", 1),
        ("batch", 1),
        ("batch", 5),
        ("checkpoint_saved", 2),
        ("checkpoint_saved", 13),
        ("evaluated", 1),
        ("evaluate", 1),
        ("publish", 1),
        ("committed", 1),
    ],
)
def test_a_killed_run_resumes_to_the_same_numbers(
    tmp_path: Path, kind: str, count: int, undisturbed: tuple[dict[str, Any], str, float]
) -> None:
    workspace(tmp_path).close()
    assert child(tmp_path, kind, count, None, OPTIONS).returncode == -signal.SIGKILL
    run = list_runs(tmp_path / "kg.graphlearn")[0]
    assert run["status"] == "killed"
    resumed = child(tmp_path, "", 0, run["run"], OPTIONS)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(tmp_path) == undisturbed
    assert [a.version for a in ArtifactStore(tmp_path / "kg.graphlearn").versions("m")] == [1]
    assert RunFolder.open(tmp_path / "kg.graphlearn", run["run"]).info()["status"] == "done"


def test_interrupt_saves_and_names_the_run(tmp_path: Path, undisturbed: tuple[dict[str, Any], str, float]) -> None:
    options = OPTIONS | {"checkpoint_seconds": 1000.0}

    def ctrl_c(event: Event) -> None:
        if isinstance(event, Step) and event.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with workspace(tmp_path) as w:
        with pytest.raises(Interrupted) as caught:
            create_model(w, request(**options), emit=ctrl_c)
        run = caught.value.run
        assert run is not None
        assert f"--resume {run}" in str(caught.value.help)
        assert list_runs(w.folder)[0]["status"] == "interrupted"
        create_model(w, request(**OPTIONS), emit=silent, resume=run)
    assert outcome(tmp_path)[:2] == undisturbed[:2]


def test_result_and_events(tmp_path: Path) -> None:
    events: list[Event] = []
    with workspace(tmp_path) as w:
        result = create_model(w, request(epochs=4, evaluate_every=2), emit=events.append)
        assert (result.version, result.status, result.family) == (1, "done", "complex")
        assert 0 < result.metrics["mrr"] <= 1
        assert create_model(w, request(seed=1), emit=silent).version == 2
    assert sum(isinstance(e, Evaluated) for e in events) == 4  # twice during training, valid and test at the end
    finished = events[-1]
    assert isinstance(finished, JobFinished)
    assert finished.metrics == result.metrics


def test_the_fingerprint_depends_on_options_and_rows_but_not_their_order(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        c = w.cursor()
        same = fingerprint(c, request())
        assert fingerprint(c, request(sql="FROM triples")) == same
        assert fingerprint(c, request(seed=3)) != same
        c.execute("CREATE OR REPLACE TABLE triples AS FROM triples ORDER BY tail")
        assert fingerprint(c, request()) == same
        c.execute("DELETE FROM triples WHERE tail = 'p1'")
        assert fingerprint(c, request()) != same


def test_resume_refuses_another_job(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        result = create_model(w, request(), emit=silent)
        assert result.run is not None
        with pytest.raises(UserError, match="has changed since"):
            create_model(w, request(seed=9), emit=silent, resume=result.run)
        with pytest.raises(UserError, match="is done"):
            create_model(w, request(), emit=silent, resume=result.run)
        with pytest.raises(UserError, match='not "other"'):
            create_model(w, request(name="other"), emit=silent, resume=result.run)


def test_a_job_that_does_not_fit_is_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "memory_available", lambda: 10 << 20)
    with workspace(tmp_path) as w, pytest.raises(ResourceError, match=r"needs about .* MB .* 10\.0 MB is free"):
        create_model(w, request(), emit=silent)
    assert not (tmp_path / "kg.graphlearn" / "runs").exists()


def test_divergence_is_named(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        with pytest.raises(TrainingDiverged, match="loss is"):
            create_model(w, request(learning_rate=1e30, evaluate_every=0), emit=silent)
        run = list_runs(w.folder)[0]
        assert run["status"] == "failed"
        assert not ArtifactStore(w.folder).exists("m")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("FROM triples WHERE false", "no rows"),
        ("SELECT NULL::VARCHAR AS head, 'r' AS relation, 'x' AS tail", "NULL"),
        ("SELECT 'a' AS head, 'r' AS relation, 'a' AS tail", "single entity"),
        ("SELECT * REPLACE ('holdout' AS split) FROM triples", "holdout"),
        ("SELECT * REPLACE ('test' AS split) FROM triples", "train"),
    ],
)
def test_unusable_inputs(tmp_path: Path, sql: str, message: str) -> None:
    with workspace(tmp_path) as w:
        with pytest.raises(InputError, match=message):
            create_model(w, request(sql=sql), emit=silent)
        assert not ArtifactStore(w.folder).exists("m")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'a' AS head, 'r' AS relation, 'b' AS tail",
        "SELECT 'a' || i % 9 AS head, 'r' AS relation, 'a' || i % 9 AS tail FROM range(30) t(i)",
        "SELECT i AS head, 'r' AS relation, i + 1 AS tail FROM range(30) t(i)",
        "SELECT head, 'only' AS relation, tail, split FROM triples",
        "SELECT chr(233) || head AS head, 'it''s \"quoted\"' || relation AS relation, chr(233) || tail AS tail "
        "FROM triples",
        "SELECT repeat('x', 10000000) || (i % 3) AS head, 'r' AS relation, 'y' || i AS tail FROM range(6) t(i)",
        "SELECT head, relation, tail, CASE WHEN head = 'p7' THEN 'test' ELSE 'train' END AS split FROM triples",
    ],
    ids=["one triple", "self-loops", "integers", "one relation", "unicode", "10 MB keys", "only in test"],
)
def test_unusual_graphs_train(tmp_path: Path, sql: str) -> None:
    with workspace(tmp_path) as w:
        result = create_model(w, request(sql=sql, epochs=2), emit=silent)
        assert result.version == 1
        assert all(np.isfinite(v) for v in result.metrics.values())


def test_early_stop_keeps_the_best(tmp_path: Path) -> None:
    events: list[Event] = []
    with workspace(tmp_path) as w:
        create_model(w, request(epochs=60, evaluate_every=1, patience=2, learning_rate=0.5), emit=events.append)
    while_training = [e for e in events if isinstance(e, Evaluated) and e.epoch]
    best = max(e.metrics["mrr"] for e in while_training)
    final = next(e for e in events if isinstance(e, Evaluated) and not e.epoch and e.split == "valid")
    assert len(while_training) < 60
    assert final.metrics["mrr"] == pytest.approx(best)
    assert any(isinstance(e, Note) and "stopped early" in e.message for e in events)


def test_loop_options_change_the_run(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / str(i)).mkdir()
    (plain, linear, longer) = (
        _weights(tmp_path / "0", schedule="constant"),
        _weights(tmp_path / "1", schedule="linear"),
        _weights(tmp_path / "2", schedule="constant", epochs=5, evaluate_every=0),
    )
    assert len({plain, linear, longer}) == 3


def _weights(path: Path, **options: Any) -> str:
    with workspace(path) as w:
        create_model(w, request(**options), emit=silent)
        return str(ArtifactStore(w.folder).load("m").manifest["files"]["weights.safetensors"]["sha256"])


def test_evaluate_at_most_and_holdout(tmp_path: Path) -> None:
    events: list[Event] = []
    sql = "SELECT head, relation, tail FROM triples"
    with workspace(tmp_path) as w:
        result = create_model(
            w,
            request(sql=sql, evaluate_at_most=10, evaluate_every=1, valid_fraction=0.2, test_fraction=0.1),
            emit=events.append,
        )
    first = next(e for e in events if isinstance(e, Evaluated))
    assert first.metrics["count"] == 20
    c = result.counts
    assert c["valid"] > c["test"] > 0


def test_without_held_out_triples_there_are_no_metrics(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        sql = "SELECT head, relation, tail FROM triples"
        result = create_model(w, request(sql=sql, valid_fraction=0.0, test_fraction=0.0), emit=silent)
    assert result.metrics == {}


def test_cuda_without_a_gpu_gives_one_clear_error(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with workspace(tmp_path) as w, pytest.raises(OptionError, match="no GPU"):
        create_model(w, request(device="cuda"), emit=silent)


def test_plan_is_a_graph_with_estimates(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        plan = planned(w.cursor(), request())
        table = plan.table(Machine(1e9)).to_pylist()
        names = ["scan", "encode", "split", "train", "baselines", "evaluate", "publish"]
        assert [row["operator"] for row in table] == names
        without = planned(w.cursor(), request(baselines=False)).table(Machine(1e9)).to_pylist()
        assert [row["operator"] for row in without] == [name for name in names if name != "baselines"]
        assert list(plan.graph.successors("scan")) == ["encode"]
        assert all(row["rows"] is not None for row in table)
        assert table[3]["flops"] > 0
        bigger = planned(w.cursor(), replace(request(), options=request(dim=16).options))
        assert bigger.table(Machine(1e9)).to_pylist()[3]["flops"] == pytest.approx(2 * table[3]["flops"])
        assert not (w.folder / "runs").exists()
        assert "└─ train" in plan.text(Machine(1e9))


@pytest.mark.parametrize("tail", ["(i + 3000)::INTEGER", "i + 3000", "(i + 3000)::HUGEINT"])
def test_a_plan_counts_the_entities_of_both_ends(tmp_path: Path, tail: str) -> None:
    sql = f"SELECT i AS head, 'r' || i % 3 AS relation, {tail} AS tail FROM range(3000) t(i)"
    with workspace(tmp_path) as w:
        table = planned(w.cursor(), request(sql=sql)).table(Machine(1e9)).to_pylist()
    found = re.search(r"about ([\d,]+) entities, about 3 relations", table[1]["detail"])
    assert found, table[1]["detail"]
    assert int(found[1].replace(",", "")) == pytest.approx(6000, rel=0.1)
    assert table[0]["rows"] == 3000


def test_a_read_only_workspace_trains_nothing(tmp_path: Path) -> None:
    with workspace(tmp_path):
        pass
    with Workspace.open(tmp_path / "kg.duckdb", read_only=True) as w:
        with pytest.raises(WorkspaceError, match="is open read-only"):
            create_model(w, request(), emit=silent)
        assert not (w.folder / "runs").exists()
