"""Run folders: readable during a run and after any crash."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from cases.storage import die_at, in_child, limited_file_size

from graphlearn.errors import ArtifactError, UserError, WorkspaceError
from graphlearn.events import Note, Step
from graphlearn.storage.runs import RunFolder, latest_resumable, list_runs


def create(folder: Path, model: str = "kg.medical") -> RunFolder:
    return RunFolder.create(folder, model, "CREATE MODEL é", {"dim": 3, "margin": float("inf")})


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    run = create(tmp_path)
    assert run.path == tmp_path / "runs" / run.id
    assert run.id.split("-", 1)[1] == "kg.medical"
    assert (run.path / "job.sql").read_text() == "CREATE MODEL é"
    assert json.loads((run.path / "config.json").read_text()) == {"dim": 3, "margin": None}
    assert run.checkpoints.is_dir()
    info = run.info()
    assert (info["status"], info["pid"], info["model"], info["run"]) == ("running", os.getpid(), "kg.medical", run.id)
    run.append(Note(message="two\nlines"))
    run.append(
        Step(
            epoch=1,
            epochs=2,
            step=5,
            steps=9,
            loss=float("nan"),
            examples_per_second=1.0,
            eta_seconds=2.0,
            unit="triples",
        )
    )
    assert [event["event"] for event in RunFolder.open(tmp_path, run.id).events()] == ["note", "step"]
    assert [event.get("loss") for event in run.events()] == [None, None]
    run.update(epoch=1, loss=0.5)
    assert RunFolder.open(tmp_path, run.id).info()["loss"] == 0.5
    run.update(status="done", version=3, metrics={"mrr": 0.3})
    info = RunFolder.open(tmp_path, run.id).info()
    assert (info["status"], info["version"], info["epoch"]) == ("done", 3, 1)
    assert info["finished_at"] >= info["started_at"]
    run.close()
    run.close()
    assert run.info()["status"] == "done"


def test_runs_in_the_same_second_have_different_ids(tmp_path: Path) -> None:
    runs = [create(tmp_path, name) for name in ("m", "m", "m", "a/b", "日本" * 60)]
    assert len({run.id for run in runs}) == 5
    started = [info["started_at"] for info in list_runs(tmp_path)]
    assert started == sorted(started, reverse=True)
    assert {info["model"] for info in list_runs(tmp_path)} == {"m", "a/b", "日本" * 60}
    assert {info["status"] for info in list_runs(tmp_path)} == {"running"}


def test_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    assert latest_resumable(tmp_path, "m") is None
    with pytest.raises(UserError) as caught:
        RunFolder.open(tmp_path, "x")
    assert caught.value.help == "nothing has run in this workspace yet"


def test_a_missing_run_names_the_nearest(tmp_path: Path) -> None:
    run = create(tmp_path)
    with pytest.raises(UserError) as caught:
        RunFolder.open(tmp_path, run.id[:-1])
    assert caught.value.message == f'there is no run "{run.id[:-1]}"'
    assert caught.value.help == f"did you mean: {run.id}?"
    for outside in ("..", "", ".staging", "../runs"):
        with pytest.raises(UserError):
            RunFolder.open(tmp_path, outside)


def test_a_run_belongs_to_one_process(tmp_path: Path) -> None:
    run = create(tmp_path)
    other = RunFolder.open(tmp_path, run.id)
    with pytest.raises(WorkspaceError, match=f'run "{run.id}" is in use by process {os.getpid()}'):
        other.update(epoch=3)
    with pytest.raises(WorkspaceError, match="in use"):
        other.append(Note(message="x"))
    run.close()
    other.update(status="running", epoch=4)
    assert run.info()["epoch"] == 4
    assert run.info()["status"] == "running"


def test_a_killed_run_is_recognised_and_can_be_resumed(tmp_path: Path) -> None:
    def start() -> RunFolder:
        run = create(tmp_path)
        run.append(Note(message="begun"))
        run.update(epoch=7)
        return run

    with in_child(start) as pid:
        (info,) = list_runs(tmp_path)
        assert (info["status"], info["pid"]) == ("running", pid)
        assert latest_resumable(tmp_path, "kg.medical") is None
        os.kill(pid, signal.SIGKILL)
    (info,) = list_runs(tmp_path)
    assert info["status"] == "killed"
    assert info["message"] == f"process {pid} exited unexpectedly"
    assert latest_resumable(tmp_path, "kg.medical") is None  # nothing to continue from
    run = RunFolder.open(tmp_path, info["run"])
    assert not run.resumable
    (run.checkpoints / ".half").touch()
    assert not run.resumable
    (run.checkpoints / "7").touch()
    assert run.resumable
    found = latest_resumable(tmp_path, "KG.Medical")
    assert found is not None
    assert found.id == run.id
    assert latest_resumable(tmp_path, "other") is None
    run.update(status="running")
    assert run.info()["pid"] == os.getpid()
    assert run.info()["epoch"] == 7
    run.append(Note(message="again"))
    assert [event["message"] for event in run.events()] == ["begun", "again"]


def test_a_resumed_run_has_no_end_yet(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.update(status="interrupted")
    assert "finished_at" in run.info()
    run.update(status="running")
    assert "finished_at" not in run.info()


def test_a_line_cut_by_a_crash_is_left_out_and_closed(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.append(Note(message="whole"))
    run.close()
    with open(run.path / "events.jsonl", "ab") as file:
        file.write(b'{"event": "note", "mess')
    assert [event["message"] for event in run.events()] == ["whole"]
    run.append(Note(message="next"))
    assert [event["message"] for event in run.events()] == ["whole", "next"]


GARBAGE: dict[str, str | bytes] = {
    "an empty file": "",
    "half an object": "{",
    "a list": "[]",
    "a number": "7",
    "an empty object": "{}",
    "no text": b"\xff\xfe\x00",
    "nested lists": "[" * 100_000,
    "nested objects": '{"model":' * 100_000,
    "a model as list": '{"model": [], "status": "running", "fingerprint": "x"}',
    "a status as list": '{"model": "m", "status": [], "fingerprint": []}',
    "a huge number": '{"model": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=list(GARBAGE))
def test_a_damaged_run_is_named_and_hides_no_others(tmp_path: Path, content: str | bytes) -> None:
    good, bad = create(tmp_path), create(tmp_path)
    bad.close()
    for name in ("run.json", "config.json"):
        (bad.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    listed = {info["run"]: info for info in list_runs(tmp_path)}
    assert {run: info["status"] for run, info in listed.items()} == {good.id: "running", bad.id: "damaged"}
    assert str(bad.path / "run.json") in listed[bad.id]["message"]
    assert not bad.resumable
    assert latest_resumable(tmp_path, "kg.Medical") is None
    for use in (lambda: bad.update(epoch=1), lambda: bad.model, lambda: bad.append(Note(message="x"))):
        with pytest.raises(ArtifactError, match=re.escape(f'run "{bad.id}" is damaged: {bad.path / "run.json"} ')):
            use()  # type: ignore[no-untyped-call]
    with pytest.raises(ArtifactError, match=re.escape(f'run "{bad.id}" is damaged: {bad.path / "config.json"} ')):
        bad.config()
    assert good.model == good.info()["model"]


def test_a_missing_file_of_a_run_is_named(tmp_path: Path) -> None:
    run = create(tmp_path)
    for name, use in (("config.json", run.config), ("run.json", lambda: run.model)):
        (run.path / name).unlink()
        with pytest.raises(ArtifactError, match=rf"{name} is unreadable \(No such file or directory\)"):
            use()
    assert list_runs(tmp_path)[0]["status"] == "damaged"


def test_a_removed_run_folder_is_one_error_and_is_not_made_again(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.append(Note(message="first"))
    (run.path / "events.jsonl").unlink()
    with pytest.raises(WorkspaceError, match="the folder of the run was removed while it was running"):
        run.update(status="failed")
    shutil.rmtree(run.path)
    with pytest.raises(WorkspaceError, match="the folder of the run was removed while it was running"):
        run.append(Note(message="second"))
    with pytest.raises(WorkspaceError, match="the folder of the run was removed while it was running"):
        run.update(status="failed")
    run.close()
    assert not run.path.exists()
    assert list_runs(tmp_path) == []


def test_a_full_disk(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.append(Note(message="first"))
    size = (run.path / "events.jsonl").stat().st_size
    with limited_file_size(size + 10), pytest.raises(WorkspaceError, match="the disk is full"):
        run.append(Note(message="second"))
    assert (run.path / "events.jsonl").stat().st_size == size
    with limited_file_size(10), pytest.raises(WorkspaceError, match="the disk is full"):
        run.update(status="failed")
    assert run.info()["status"] == "running"
    with limited_file_size(10), pytest.raises(WorkspaceError, match="the disk is full"):
        create(tmp_path)
    assert len(list_runs(tmp_path)) == 1
    run.append(Note(message="third"))
    assert [event["message"] for event in run.events()] == ["first", "third"]


def test_killed_at_any_file_operation(tmp_path: Path) -> None:
    def work() -> None:
        run = create(tmp_path / str(step))
        run.append(Note(message="x"))
        run.update(status="done")
        run.close()

    seen, step = set(), 0
    while True:
        step += 1
        killed = die_at(step, work)
        infos = list_runs(tmp_path / str(step))
        seen |= {info["status"] for info in infos} or {"absent"}
        create(tmp_path / str(step), "next").close()
        runs = tmp_path / str(step) / "runs"
        assert {entry.name for entry in (runs / ".staging").iterdir()} == {".lock"}
        if not killed:
            break
    assert seen == {"absent", "killed", "done"}
