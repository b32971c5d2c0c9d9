"""The dataflow of TYPE dhan: time estimates, inputs, and the data and events of its tasks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from graphlearn.errors import InputError
from graphlearn.events import Note, silent
from graphlearn.jobs.create import create_model, measure
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.workspace import Workspace

INPUTS = {
    "paper": "SELECT 'p' || i AS id, [i % 3, 3 + i % 5] AS words, i / 7 AS x, ['a', 'b', 'c'][1 + i % 3] AS area "
    "FROM range(90) t(i)",
    "author": "SELECT i AS id, [i % 4] AS words FROM range(40) t(i)",
    "writes": "SELECT i % 40 AS author, 'p' || (i * 7 % 90) AS paper FROM range(380) t(i)",
    "subject": "SELECT 'p' || i AS source, i % 6 AS hub FROM range(90) t(i)",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "w.duckdb") as opened:
        yield opened


def request(inputs: dict[str, str] = INPUTS) -> ModelRequest:
    small = {"hidden": 8, "heads": 2, "epochs": 3, "hops": 1, "device": "cpu"}
    options = family("dhan").options_type(target="area", metapaths={"coauthor": ("writes", "-writes")}, **small)
    return ModelRequest(name="m", family="dhan", options=options, inputs=inputs, statement="CREATE MODEL m")


def test_arithmetic_takes_less_time_on_a_faster_machine(workspace: Workspace) -> None:
    wanted = request()
    wanted = replace(wanted, options=replace(wanted.options, baseline_share=0.0))  # a limit may be its floor of 1 s
    plan = family("dhan").plan(wanted, measure(workspace.cursor(), wanted))
    slow, fast = (
        {row["operator"]: row["seconds"] for row in plan.table(Machine(gemm)).to_pylist()} for gemm in (1e8, 1e12)
    )
    assert {name for name in slow if slow[name] != fast[name]} == {"prepare", "train", "baselines", "evaluate"}
    assert slow["train"] > fast["train"] > 0


@pytest.mark.parametrize("role", ["paper", "writes"])
def test_rows_that_change_between_measuring_and_reading_are_refused(workspace: Workspace, role: str) -> None:
    cursor = workspace.cursor()
    cursor.execute(f"CREATE TABLE changing AS {INPUTS[role]}")
    wanted = request(inputs={**INPUTS, role: "FROM changing"})
    sizes = measure(cursor, wanted)
    first = cursor.sql("FROM changing").columns[0]
    cursor.execute(f"DELETE FROM changing WHERE {first} = (SELECT max({first}) FROM changing)")
    with pytest.raises(InputError, match="changed while the job was reading them") as caught:
        create_model(workspace, wanted, emit=silent, sizes=sizes, cursor=cursor)
    assert caught.value.role == role


def test_a_prepared_training_is_pickled_with_its_graph(workspace: Workspace) -> None:
    kept = {}

    def executor(operator, data, context):  # type: ignore[no-untyped-def]
        outputs = operator.task.run(data, context)
        if operator.name == "prepare":
            kept.update(outputs)
            outputs = pickle.loads(pickle.dumps(outputs))
        return outputs

    create_model(workspace, request(), emit=silent, executor=executor)
    tables = kept["tables"]
    stored = family("dhan").graph(ArtifactStore(workspace.folder).load("m"))
    for name, node in tables.nodes.items():
        assert stored.nodes[name].keys.dictionary.keys.equals(node.keys.dictionary.keys)
    assert stored.edges["subject"].hubs.dictionary.keys.equals(pa.array(range(6)))


def test_notes_and_phases_come_in_order(workspace: Workspace) -> None:
    heard = []
    create_model(workspace, request(), emit=heard.append)
    phases = [event.phase for event in heard if type(event).__name__ == "PhaseStarted"]
    encoded = [f"encode {name}" for name in (*INPUTS, "coauthor")]
    assert phases == ["scan", *encoded, "prepare", "train", "baselines", "evaluate", "publish"]
    notes = [event.message for event in heard if isinstance(event, Note)]
    assert any("merged" in note for note in notes[:-1])
    assert any("baseline" in note for note in notes)
    assert "decides" in notes[-1] or "decide together" in notes[-1]
