"""Workspaces with links and pipes where GraphLearn keeps its own folders and files.

Each is refused by one error that names it, or ignored; what a link leads to is left as it is, and no pipe blocks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from cases.loops import CountingLoop

from graphlearn.errors import WorkspaceError
from graphlearn.events import JobStarted, Note, silent
from graphlearn.jobs import checkpoint, drawing
from graphlearn.running import draw
from graphlearn.sinks import tensorboard_sink
from graphlearn.storage import runs
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.locks import FileLock, Staging, holder_of, is_free
from graphlearn.storage.runs import RunFolder, list_runs, read_events
from graphlearn.storage.workspace import Workspace

LINK = r"is a symbolic link, which GraphLearn never creates"


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody else, in which nothing may change."""
    folder = tmp_path / "victim"
    for name in ("letters", "1", "1-1", "3-2", "123-0123456789ab", ".0123456789ab", ".best-7"):
        (folder / name).mkdir(parents=True)
        (folder / name / "content").write_text("precious")
    (folder / "file").write_text("precious\n")
    (folder / ".best-1.safetensors").write_text("precious")
    (folder / "1" / "model.json").write_text("{}")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "kg.graphlearn"
    folder.mkdir()
    return folder


def store_model(home: Path) -> ArtifactStore:
    store = ArtifactStore(home)
    with store.stage("m") as staged:
        (staged.path / "weights").write_text("1")
        staged.commit({})
    return store


@pytest.mark.parametrize("name", ["models", "models/.staging"])
def test_models_are_not_staged_through_a_link(home: Path, victim: Path, name: str) -> None:
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).symlink_to(victim)
    with pytest.raises(WorkspaceError, match=LINK), ArtifactStore(home).stage("m"):
        pass


@pytest.mark.parametrize("name", ["runs", "runs/.staging"])
def test_runs_are_not_created_through_a_link(home: Path, victim: Path, name: str) -> None:
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).symlink_to(victim)
    with pytest.raises(WorkspaceError, match=LINK):
        RunFolder.create(home, "m", "SELECT 1", {})


def test_only_folders_of_ours_are_swept(tmp_path: Path, victim: Path) -> None:
    staging = Staging(tmp_path / "x" / "staging")
    shutil.copytree(victim, staging.folder)
    (staging.folder / "77-0123456789ab").symlink_to(victim)
    with staging.claim() as path:
        path.symlink_to(victim)
    left = set(contents(victim)) - {"123-0123456789ab", "123-0123456789ab/content"}
    assert set(contents(staging.folder)) == left | {".lock"}


def test_a_linked_model_is_damaged_and_only_the_link_is_dropped(home: Path, victim: Path) -> None:
    store = store_model(home)
    (home / "models" / "n").symlink_to(victim)
    (home / "models" / "m" / "2").symlink_to(victim)
    (home / "models" / "m" / "3").symlink_to(victim / "1")
    damage = {artifact.model: artifact.damage for artifact in store.models()}
    assert damage["n"] == f"{home / 'models' / 'n'} is a symbolic link"
    assert [artifact.damage is None for artifact in store.versions("m")] == [True, False, False]
    for call in (
        lambda: store.load("n"),
        lambda: store.load("m", 2),
        lambda: store.prune("n", 0),
        lambda: store.make_current("n", 1),
    ):
        with pytest.raises(WorkspaceError, match="is a symbolic link"):
            call()
    with pytest.raises(WorkspaceError, match=LINK), store.stage("n") as staged:
        staged.commit({})
    store.make_current("m", 1)
    assert store.prune("m", 1) == [2]
    store.drop("n")
    assert not (home / "models" / "n").is_symlink()
    assert list((home / "models" / ".staging").iterdir()) == [home / "models" / ".staging" / ".lock"]


def stopped(folder: Path) -> None:
    CountingLoop(folder, emit=silent).fit()


def test_checkpoints_are_not_read_or_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.symlink_to(victim)
    with pytest.raises(WorkspaceError, match=r"checkpoints cannot be used: it is a symbolic link"):
        checkpoint.newest(folder, "r", "j")
    with pytest.raises(WorkspaceError, match=LINK):
        checkpoint.stage(folder, {}, None)
    with pytest.raises(WorkspaceError, match=LINK):
        stopped(folder)


def test_only_checkpoints_of_ours_are_removed(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(victim, folder)
    (folder / ".best-1.safetensors").unlink()
    stopped(folder)
    assert {"letters", "1", "file", ".best-7", "123-0123456789ab"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "1-1").exists()


def put(kind: str, path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    match kind:
        case "link":
            path.symlink_to(victim / "file")
        case "new":
            path.symlink_to(victim / "new")
        case "pipe":
            os.mkfifo(path)


KINDS = ["link", "new", "pipe"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_a_regular_file(tmp_path: Path, victim: Path, kind: str) -> None:
    path = tmp_path / "lock"
    put(kind, path, victim)
    for shared in (False, True):
        lock = FileLock(path)
        with pytest.raises(WorkspaceError, match=r"lock is ") as caught:
            lock.acquire(shared=shared)
        assert caught.value.help is not None
        lock.release()
    assert is_free(path)
    assert holder_of(path) == {}


def opening(home: Path) -> None:
    Workspace.open(home.with_suffix(".duckdb"), patience=0).close()


def training(home: Path) -> None:
    with Workspace(home).training("m"):
        pass


def publishing(home: Path) -> None:
    with Workspace(home).writing():
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("database.lock", opening),
        ("database.queue", opening),
        ("lock", publishing),
        ("training/m.lock", training),
        ("models/.staging/.lock", store_model),
    ],
)
def test_every_lock_of_a_workspace(
    home: Path, victim: Path, kind: str, name: str, act: Callable[[Path], object]
) -> None:
    put(kind, home / name, victim)
    with pytest.raises(
        WorkspaceError, match=r"is (a symbolic link|not a regular file), which GraphLearn never creates"
    ):
        act(home)


def test_the_folder_of_training_locks_is_no_link(home: Path, victim: Path) -> None:
    (home / "training").symlink_to(victim)
    with pytest.raises(WorkspaceError, match=LINK):
        training(home)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lock", "events.jsonl"])
def test_files_of_a_run(home: Path, victim: Path, kind: str, name: str) -> None:
    with RunFolder.create(home, "m", "SELECT 1", {}) as run:
        pass
    put(kind, run.path / name, victim)
    assert list(read_events(run.path)) == []
    assert [info["status"] for info in list_runs(home)] == ["killed"]
    resumed = RunFolder.open(home, run.id)
    with pytest.raises(WorkspaceError, match=rf"{name} is "), resumed:
        resumed.append(Note(message="x"))


def test_lines_longer_than_any_event_are_skipped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LONGEST_EVENT", 1000)
    with RunFolder.create(home, "m", "SELECT 1", {}) as run:
        run.append(Note(message="first"))
        events = run.path / "events.jsonl"
        line = events.read_bytes()
        longest = line.replace(b"first", b"x" * (1005 - len(line)))
        events.write_bytes(line + b"\0" * 1000 + b"\n" + line + longest + b"\0" * 2500 + line + line)
    assert [event["message"][:5] for event in read_events(run.path)] == ["first", "first", "xxxxx", "first"]
    with open(events, "ab") as file:
        file.truncate(1 << 34)  # zeros, which take no space on the disk
    monkeypatch.setattr(runs, "MOST_EVENTS", 10_000)
    assert len(list(read_events(run.path))) == 4


def test_a_linked_run_is_ignored(home: Path, victim: Path) -> None:
    (home / "runs").mkdir()
    (home / "runs" / "r").symlink_to(victim)
    assert list_runs(home) == []


def test_a_picture_replaces_a_link(tmp_path: Path, victim: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in (".report.png.part", "report.png"):
        (tmp_path / name).symlink_to(victim / "file")
    drawing.save(drawing.new_figure(1, 1), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_no_picture_is_drawn_outside_the_runs(home: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr("graphlearn.report.draw_report", lambda folder, _: drawn.append(folder))
    store = store_model(home)
    session = SimpleNamespace(workspace=SimpleNamespace(folder=home))
    run = RunFolder.create(home, "m", "SELECT 1", {})
    run.close()
    for name in ("../../victim", str(victim), "..", ".", run.id):
        result = SimpleNamespace(model="m", version=store.current("m").version, run=name)
        draw(session, result, False)  # type: ignore[arg-type]
    assert drawn == [run.path]


def test_tensorboard_files_are_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").symlink_to(victim)
    sink = tensorboard_sink()
    assert sink is not None
    with pytest.raises(WorkspaceError, match=LINK):
        sink(JobStarted(run="r", model="m", family="complex", folder=str(tmp_path), options={}))
