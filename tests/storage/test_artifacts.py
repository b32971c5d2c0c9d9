"""Stored models: complete or absent, verified, with names compared as in DuckDB."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases.storage import die_at, limited_file_size, write_format_1
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from graphlearn.errors import ArtifactError, ModelNotFound, UserError, WorkspaceError
from graphlearn.storage import artifacts, files
from graphlearn.storage.artifacts import ArtifactStore, folder_name


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "kg.graphlearn")


def put(store: ArtifactStore, model: str = "kg.medical", content: bytes = b"weights") -> int:
    with store.stage(model) as staged:
        (staged.path / "weights.bin").write_bytes(content)
        (staged.path / "index").mkdir()
        (staged.path / "index" / "manifest.json").write_bytes(content * 2)
        return staged.commit({"family": "complex", "loss": float("nan")})


def left_over(store: ArtifactStore) -> list[str]:
    return sorted(entry.name for entry in (store.folder / ".staging").iterdir() if entry.name != ".lock")


def test_a_version_is_stored_listed_and_loaded(store: ArtifactStore) -> None:
    assert list(store.models()) == []
    assert not store.exists("kg.medical")
    assert not store.folder.exists()
    assert put(store) == 1
    assert put(store, content=b"better") == 2
    artifact = store.load("KG.Medical")
    assert (artifact.model, artifact.version, artifact.damage) == ("kg.medical", 2, None)
    assert artifact.path == store.folder / "kg.medical" / "2"
    assert (artifact.path / "weights.bin").read_bytes() == b"better"
    assert artifact.manifest["format_version"] == 2
    assert artifact.manifest["family"] == "complex"
    assert artifact.manifest["loss"] is None
    assert {name: file["bytes"] for name, file in artifact.manifest["files"].items()} == {
        "index/manifest.json": 12,
        "weights.bin": 6,
    }
    assert (store.load("kg.medical", 1).path / "weights.bin").read_bytes() == b"weights"
    assert [a.version for a in store.versions("kg.medical")] == [1, 2]
    assert [(a.model, a.version) for a in store.models()] == [("kg.medical", 2)]
    assert not (artifact.path / "model.json").exists()
    assert left_over(store) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_all_files_of_a_version_have_the_mode_of_the_umask(store: ArtifactStore, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with store.stage("m") as staged:
            save_file({"x": np.zeros(3)}, staged.path / "weights.safetensors")
            (staged.path / "index").mkdir()
            pq.write_table(pa.table({"x": [1]}), staged.path / "index" / "keys.parquet")
            staged.commit({})
    finally:
        os.umask(before)
    entries = [entry for entry in store.load("m").path.rglob("*") if entry.is_file()]
    assert {entry.name for entry in entries} == {"weights.safetensors", "keys.parquet", "manifest.json"}
    assert {entry.stat().st_mode & 0o777 for entry in entries} == {mode}


def test_staged_files_vanish_unless_committed(store: ArtifactStore) -> None:
    with pytest.raises(KeyError), store.stage("m") as staged:
        (staged.path / str({}["the job fails"])).touch()
    with store.stage("m") as staged:
        (staged.path / "half").write_text("x")
    assert not staged.path.exists()
    assert not store.exists("m")
    assert left_over(store) == []
    with store.stage("m") as staged:
        staged.commit({})
        with pytest.raises(RuntimeError, match="already committed"):
            staged.commit({})


def test_two_stages_at_once_get_different_versions(store: ArtifactStore) -> None:
    with store.stage("m") as first, store.stage("m") as second:
        (first.path / "x").write_text("first")
        (second.path / "x").write_text("second")
        assert (second.commit({}), first.commit({})) == (1, 2)
    assert (store.load("m").path / "x").read_text() == "first"


# --- names --------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1, max_size=60).filter(lambda name: "\0" not in name), min_size=2, max_size=2))
def test_models_share_a_folder_only_if_duckdb_considers_their_names_equal(names: list[str]) -> None:
    folders = [folder_name(name) for name in names]
    fold = [artifacts.fold(name) for name in names]
    assert (folders[0] == folders[1]) == (fold[0] == fold[1])
    for folder in folders:
        assert len(folder.encode()) <= 120
        assert "/" not in folder
        assert not folder.startswith(".")
        assert folder.isascii()


@pytest.mark.parametrize(
    "name", [".staging", "..", "a/b", "日本", "É" * 300, 'with "quotes"', "select", "a\nb", "~", "%2E"]
)
def test_odd_names_are_kept(store: ArtifactStore, name: str) -> None:
    put(store, name)
    assert [a.model for a in store.models()] == [name]
    assert store.load(name).model == name
    assert not store.exists(name + "x")
    store.drop(name)
    assert list(store.models()) == []


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_model_needs_a_name(store: ArtifactStore, name: str) -> None:
    with pytest.raises(UserError, match="needs a name"), store.stage(name):
        pass


def test_missing_models_name_the_nearest(store: ArtifactStore) -> None:
    for call in (store.load, store.versions, store.drop, store.prune):
        with pytest.raises(ModelNotFound) as caught:
            call("kg.medicl")
        assert "no model is stored yet" in (caught.value.help or "")
    put(store)
    with pytest.raises(ModelNotFound) as caught:
        store.load("kg.medicl")
    assert caught.value.message == 'there is no model "kg.medicl"'
    assert caught.value.help == "did you mean: kg.medical?"
    with pytest.raises(ModelNotFound, match=r'"kg\.medical" has no version 7'):
        store.load("kg.medical", 7)


# --- drop and prune -----------------------------------------------------------------------------------------------


def test_drop_and_start_again(store: ArtifactStore) -> None:
    put(store)
    put(store, "other")
    store.drop("KG.MEDICAL")
    assert [a.model for a in store.models()] == ["other"]
    assert put(store) == 1
    assert left_over(store) == []


def test_prune_keeps_the_newest_and_the_current(store: ArtifactStore) -> None:
    for _ in range(5):
        put(store)
    assert store.prune("kg.medical", keep=2) == [1, 2, 3]
    assert store.prune("kg.medical", keep=2) == []
    (store.folder / "kg.medical" / "model.json").write_text('{"model": "kg.medical", "current": 4}')
    assert put(store) == 6
    (store.folder / "kg.medical" / "model.json").write_text('{"model": "kg.medical", "current": 4}')
    assert store.load("kg.medical").version == 4
    assert store.prune("kg.medical", keep=0) == [5]
    assert [a.version for a in store.versions("kg.medical")] == [4, 6]


# --- damage -------------------------------------------------------------------------------------------------------


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def reword(path: Path) -> None:
    path.write_text(path.read_text().replace('"complex"', '"rotate"'))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: corrupt(path / "weights.bin"), "weights.bin has changed since it was written"),
        (lambda path: (path / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda path: (path / "weights.bin").write_bytes(b"x"), "weights.bin has 1 bytes instead of 7"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: reword(path / "manifest.json"), "manifest.json has changed since it was written"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json is unreadable"),
        (lambda path: (path / "manifest.json").write_text("{}"), "manifest.json lacks format_version"),
        (
            lambda path: (path / "manifest.json").write_text('{"format_version": 9, "files": {}}'),
            "its format 9 is newer than this version of GraphLearn reads (2)",
        ),
        (
            lambda path: (path / "manifest.json").write_text('{"format_version": 2, "files": {"weights.bin": 3}}'),
            "manifest.json has changed since it was written",
        ),
    ],
    ids=range(9),
)
def test_a_damaged_model_is_named_and_the_others_stay(store: ArtifactStore, harm: object, message: str) -> None:
    put(store)
    put(store)
    put(store, "other")
    assert callable(harm)
    harm(store.folder / "kg.medical" / "2")
    with pytest.raises(ArtifactError) as caught:
        store.load("kg.medical")
    assert caught.value.message.startswith(f'model "kg.medical" version 2 cannot be used: {message}')
    assert "; other versions of it: 1" in (caught.value.help or "")
    assert ("pip install -U graphlearn" in (caught.value.help or "")) == ("newer" in message)
    assert store.load("kg.medical", 1).damage is None
    assert store.load("other").damage is None
    listed = {a.model: a.damage for a in store.models()}
    assert listed["other"] is None
    # lists check only sizes; bytes changed in place are detected when the model is used
    assert (listed["kg.medical"] is None) == message.startswith("weights.bin has changed")
    assert put(store) == 3
    assert store.load("kg.medical").version == 3
    store.drop("kg.medical")


def test_a_version_of_an_older_format_is_refused_by_name(store: ArtifactStore) -> None:
    write_format_1(store.folder, "kg.medical")
    put(store, "other")
    for refuse in (store.load, lambda model: store.load(model, 1), lambda model: store.make_current(model, 1)):
        with pytest.raises(ArtifactError) as caught:
            refuse("kg.medical")
        assert caught.value.message == (
            'model "kg.medical" version 1 cannot be used: '
            "its format 1 is older than this version of GraphLearn reads (2)"
        )
        assert caught.value.help == "train it again: graphlearn run FILE --force, or CREATE OR REPLACE MODEL"
    listed = {artifact.model: artifact for artifact in store.models()}
    assert listed["kg.medical"].manifest["family"] == "complex"
    assert listed["kg.medical"].damage == "its format 1 is older than this version of GraphLearn reads (2)"
    assert listed["other"].damage is None
    assert put(store) == 2
    assert store.load("kg.medical").version == 2
    with pytest.raises(ArtifactError, match="version 1 cannot be used"):
        store.load("kg.medical", 1)


def test_digests_are_computed_once_until_a_file_changes(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    asked: list[str] = []
    real = artifacts.digest
    monkeypatch.setattr(artifacts, "digest", lambda path: asked.append(path.name) or real(path))
    store.load("kg.medical")
    store.load("kg.medical")
    assert sorted(asked) == ["manifest.json", "weights.bin"]
    path = store.folder / "kg.medical" / "1" / "weights.bin"
    corrupt(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ArtifactError):
        store.load("kg.medical")


def test_a_lost_model_file_falls_back_to_the_newest_version(store: ArtifactStore) -> None:
    put(store, "Mixed Case")
    put(store, "Mixed Case")
    home = store.folder / folder_name("Mixed Case")
    (home / "model.json").unlink()
    assert store.load("mixed case").version == 2
    (home / "model.json").write_text("{")
    assert store.load("mixed case").version == 2
    shutil.rmtree(home / "2")
    (home / "model.json").write_text('{"model": "Mixed Case", "current": 2}')
    assert next(store.models()).version == 1


def test_messages_name_only_the_last_versions(store: ArtifactStore) -> None:
    put(store)
    home = store.folder / "kg.medical"
    for version in range(2, 3000):
        (home / str(version)).mkdir()
    with pytest.raises(ArtifactError) as caught:
        store.load("kg.medical", 2999)
    assert str(caught.value.help).endswith("; other versions of it: …, 2994, 2995, 2996, 2997, 2998")
    with pytest.raises(ModelNotFound) as missing:
        store.load("kg.medical", 3000)
    assert missing.value.help == "its versions: …, 2995, 2996, 2997, 2998, 2999"


# --- full and read-only disks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_full_disk_changes_nothing(store: ArtifactStore, size: int) -> None:
    put(store)
    with limited_file_size(size), pytest.raises(WorkspaceError, match="the disk is full"):
        put(store, content=b"larger weights")
    assert store.load("kg.medical").version == 1
    assert left_over(store) == []
    with limited_file_size(0):
        store.drop("kg.medical")  # dropping models must work, because it frees space
    assert list(store.models()) == []


@pytest.mark.parametrize("call", range(1, 12))
def test_a_disk_that_fills_at_any_flush(store: ArtifactStore, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    real, count = os.fsync, 0

    def flush(handle: int) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", flush)
    try:
        version = put(store)
    except WorkspaceError:
        version = None
    monkeypatch.undo()
    assert store.load("kg.medical").version in ((1, 2) if version is None else (version,))
    assert left_over(store) == []


def test_a_read_only_folder(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    real = os.open

    def refuse(path: object, flags: int, *rest: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    for change in (lambda: put(store), lambda: store.drop("kg.medical")):
        with pytest.raises(WorkspaceError, match="is not writable"):
            change()
    assert store.load("kg.medical").version == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_and_then_read_only_file_system(small_disk: Path) -> None:
    store = ArtifactStore(small_disk / "kg.graphlearn")
    put(store)
    with pytest.raises(WorkspaceError, match="the disk is full"):
        put(store, content=bytes(2 << 20))
    with suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(WorkspaceError, match="the disk is full"):
        put(store, "other")
    assert [a.model for a in store.models()] == ["kg.medical"]
    assert left_over(store) == []
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for change in (lambda: put(store), lambda: store.drop("kg.medical")):
        with pytest.raises(WorkspaceError, match="is not writable"):
            change()
    assert store.load("kg.medical").version == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    store.drop("kg.medical")
    assert list(store.models()) == []


# --- killed at any moment -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["first", "second", "drop", "prune"])
def test_killed_at_any_file_operation(tmp_path: Path, what: str) -> None:
    """After SIGKILL before the n-th file operation, for every n: the old or new state, and no lasting leftovers."""

    def change() -> None:
        store = ArtifactStore(tmp_path / str(step))
        if what == "drop":
            store.drop("kg.medical")
        elif what == "prune":
            store.prune("kg.medical", keep=1)
        else:
            put(store, content=b"new")

    seen, step = set(), 0
    while True:
        step += 1
        store = ArtifactStore(tmp_path / str(step))
        for _ in range({"first": 0, "second": 1, "drop": 1, "prune": 2}[what]):
            put(store)
        killed = die_at(step, change)
        current = list(store.models())
        versions = [a.version for a in store.versions("kg.medical")] if current else []
        if current:
            store.load("kg.medical")
            assert current[0].damage is None
            assert current[0].version == versions[-1]
        seen.add(tuple(versions))
        put(store, "next")
        assert left_over(store) == []
        assert put(store) == max(versions, default=0) + 1
        assert store.load("kg.medical").version == max(versions, default=0) + 1
        if not killed:
            break
    states = {"first": [(), (1,)], "second": [(1,), (1, 2)], "drop": [(), (1,)], "prune": [(1, 2), (2,)]}
    assert seen == set(states[what])
    assert step > 5


def test_readers_see_whole_versions_while_another_process_writes(store: ArtifactStore) -> None:
    put(store, content=b"0" * 1000)
    pid = os.fork()
    if pid == 0:
        try:
            for i in range(1, 30):
                put(store, content=str(i).encode() * 1000)
            os._exit(0)
        except BaseException:
            os._exit(1)
    last = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        artifact = store.load("kg.medical")
        assert artifact.version >= last
        last = artifact.version
        assert (artifact.path / "weights.bin").read_bytes() == str(last - 1).encode() * 1000
    assert store.load("kg.medical").version == 30
    assert json.loads((store.folder / "kg.medical" / "model.json").read_text())["current"] == 30


def test_a_version_is_read_while_its_model_file_moves(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((place, a, [*b, "model.json"]) for place, a, b in walk(top)))
    assert store.load("kg.medical").version == 1


def test_an_older_version_becomes_current_again(store: ArtifactStore) -> None:
    put(store)
    put(store, content=b"better")
    left = store.folder / "kg.medical" / "2" / "model.json"
    left.write_text('{"model": "kg.medical", "current": 2}')  # the state after a crash between the two renames
    assert store.make_current("KG.medical", 1).version == 1
    assert (store.current("kg.medical").version, store.load("kg.medical").version) == (1, 1)
    assert [a.version for a in store.versions("kg.medical")] == [1, 2]
    assert put(store) == 3
    assert store.current("kg.medical").version == 3
    for missing in ("kg.medical", 4), ("other", 1):
        with pytest.raises(ModelNotFound):
            store.make_current(*missing)
    with pytest.raises(ModelNotFound):
        store.current("other")


HOSTILE: dict[str, object] = {
    "files": [1],
    "files of no size": {"weights.bin": "x"},
    "files elsewhere": {"../../../../secret": {"bytes": 1, "sha256": ""}},
    "files of the system": {"/etc/passwd": {"bytes": 1, "sha256": ""}},
    "model": "../../other",
    "model of no name": 7,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_sealed_manifest_is_still_not_believed(store: ArtifactStore, what: str) -> None:
    put(store)
    path = store.folder / "kg.medical" / "1" / "manifest.json"
    manifest = json.loads(path.read_text()) | {what.partition(" ")[0]: HOSTILE[what]}
    path.write_text(json.dumps(artifacts.sealed(manifest)))
    (listed,) = store.models()
    assert (listed.model, listed.damage) == ("kg.medical", f"manifest.json has an invalid {what.partition(' ')[0]}")
    with pytest.raises(ArtifactError, match=r"cannot be used: manifest\.json has an invalid"):
        store.load("kg.medical")
    store.drop("kg.medical")
    assert list(store.models()) == []


@pytest.mark.parametrize("key", ["options", "inputs", "metrics", "counts"])
def test_keys_that_must_be_objects_are_checked_before_use(store: ArtifactStore, key: str) -> None:
    with store.stage("m") as staged:
        staged.commit({"family": "complex", key: "abc"})
    with pytest.raises(ArtifactError, match=f"manifest.json has an invalid {key}"):
        store.load("m")


def test_a_manifest_nested_without_end(store: ArtifactStore) -> None:
    put(store)
    path = store.folder / "kg.medical" / "1" / "manifest.json"
    path.write_text("[" * 200_000)
    assert "is unreadable" in str(next(store.models()).damage)
    store.drop("kg.medical")
