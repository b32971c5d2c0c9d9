"""Workspaces: opening, locking, closing, and failures of the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest
from cases.storage import in_child

from graphlearn.errors import ResourceError, WorkspaceError
from graphlearn.storage import files
from graphlearn.storage.files import disk_errors, read_json, write_json
from graphlearn.storage.locks import FileLock, Staging, holder_of, is_free
from graphlearn.storage.workspace import Workspace, folder_of


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "kg.duckdb"
    with Workspace.open(path) as workspace:
        assert workspace.database == path
        assert workspace.folder == tmp_path / "kg.graphlearn"
        workspace.connection.execute("CREATE TABLE t AS SELECT 1 AS x")
        assert workspace.cursor().execute("FROM t").fetchall() == [(1,)]
        assert sorted(entry.name for entry in workspace.folder.iterdir()) == ["database.lock", "database.queue"]
        with workspace.writing() as folder:
            assert folder == workspace.folder
            assert (folder / "lock").is_file()
    with Workspace.open(str(path), read_only=True) as workspace:
        assert workspace.read_only
        assert workspace.connection.execute("FROM t").fetchall() == [(1,)]
        workspace.connection.execute("CREATE TEMP TABLE u AS FROM t")


@pytest.mark.parametrize(
    ("name", "folder"), [("kg.duckdb", "kg.graphlearn"), ("kg.db", "kg.db.graphlearn"), ("kg", "kg.graphlearn")]
)
def test_folder_names(name: str, folder: str) -> None:
    assert folder_of(Path("/x") / name) == Path("/x") / folder


def test_a_workspace_in_memory_leaves_nothing() -> None:
    workspace = Workspace.open()
    assert workspace.database is None
    with workspace.writing() as folder:
        (folder / "file").write_text("x")
    temporary = workspace.connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
    assert Path(temporary).parent == folder
    workspace.close()
    workspace.close()
    assert not folder.exists()


def test_closing_ends_all_cursors_and_unlocks_the_file(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "kg.duckdb")
    cursor = workspace.cursor()
    cursor.execute("CREATE TABLE t AS FROM range(10)")
    workspace.close()
    with pytest.raises(duckdb.ConnectionException):
        cursor.execute("SELECT 1")
    code = f"import duckdb; duckdb.connect({str(tmp_path / 'kg.duckdb')!r}).close()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_leaked_at_exit(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from graphlearn.events import silent\n"
        "from graphlearn.storage.triples.ingest import encode_triples\n"
        "from graphlearn.storage.workspace import Workspace\n"
        "workspace = Workspace.open(sys.argv[1])\n"
        "cursor = workspace.cursor()\n"
        "query = 'SELECT range AS head, 1 AS relation, 2 AS tail FROM range(9)'\n"
        "encoded = encode_triples(cursor, query, emit=silent)\n"
        "workspace.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "kg.duckdb")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_a_file_open_elsewhere_names_the_process(tmp_path: Path) -> None:
    path = tmp_path / "kg.duckdb"
    with in_child(lambda: duckdb.connect(str(path))) as pid:
        with pytest.raises(WorkspaceError) as caught:
            Workspace.open(path, patience=0)
        assert caught.value.message == f"{path} is in use by process {pid}"
        assert caught.value.help == "wait until it is done, or close the file there"
    Workspace.open(path).close()


def test_a_file_open_here_in_the_other_mode(tmp_path: Path) -> None:
    path = tmp_path / "kg.duckdb"
    with Workspace.open(path), pytest.raises(WorkspaceError, match="already open in this process for writing"):
        Workspace.open(path, read_only=True)
    with Workspace.open(path) as first, Workspace.open(path) as second:
        first.connection.execute("CREATE TABLE t AS SELECT 1")
        assert second.connection.execute("FROM t").fetchall() == [(1,)]


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello " * 10_000)
    empty = tmp_path / "empty.duckdb"
    empty.touch()
    good = tmp_path / "good.duckdb"
    with Workspace.open(good) as workspace:
        workspace.connection.execute("CREATE TABLE t AS FROM range(100_000)")
    damaged = tmp_path / "damaged.duckdb"
    content = bytearray(good.read_bytes())
    content[4096:8192] = b"x" * 4096
    damaged.write_bytes(content)
    for path, read_only, message in [
        (tmp_path, False, f"{tmp_path} is a folder, not a DuckDB file"),
        (tmp_path / "none" / "kg.duckdb", False, f"the folder {tmp_path / 'none'} does not exist"),
        (tmp_path / "none.duckdb", True, f"there is no database {tmp_path / 'none.duckdb'}"),
        (text, False, f"{text} is not a DuckDB file"),
        (empty, False, f"{empty} is an empty file, not a DuckDB file"),
        (damaged, False, f"{damaged} cannot be opened: Corrupt database file"),
        (Path("/sys/kg.duckdb"), False, "/sys/kg.duckdb is not writable"),
    ]:
        with pytest.raises(WorkspaceError) as caught:
            Workspace.open(path, read_only=read_only)
        assert caught.value.message.startswith(message)
        assert caught.value.help
    with pytest.raises(WorkspaceError, match="in-memory workspace cannot be read-only"):
        Workspace.open(read_only=True)


# --- the writer lock ----------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "kg.graphlearn"
    folder.mkdir()

    def hold() -> FileLock:
        lock = FileLock(folder / "lock")
        assert lock.acquire()
        return lock

    with Workspace.open(tmp_path / "kg.duckdb") as workspace:
        with in_child(hold) as pid:
            with pytest.raises(WorkspaceError, match=f"process {pid} is writing to {folder} since 20") as caught:
                workspace.writing(patience=0).__enter__()
            assert caught.value.help == "wait until it ends; `graphlearn runs` shows what is running"
        with workspace.writing():  # the holder has ended, which releases the lock
            assert holder_of(folder / "lock")["pid"] == os.getpid()


def test_writing_nests_in_a_thread_and_excludes_others(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with workspace.writing(patience=0):
                pass
        except WorkspaceError as error:
            refused.append(error.message)

    with Workspace.open(tmp_path / "kg.duckdb") as workspace:
        with workspace.writing(), workspace.writing():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert refused == [f"another job of this process is writing to {workspace.folder}"]
        other()
        assert len(refused) == 1
        with Workspace.open(tmp_path / "kg.duckdb") as twin, workspace.writing(), pytest.raises(WorkspaceError):
            twin.writing(patience=0).__enter__()


def test_a_read_only_workspace_cannot_write(tmp_path: Path) -> None:
    duckdb.connect(str(tmp_path / "kg.duckdb")).close()
    with Workspace.open(tmp_path / "kg.duckdb", read_only=True) as workspace:
        with pytest.raises(WorkspaceError, match="open read-only"), workspace.writing():
            pass
        assert not workspace.folder.exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with Workspace.open(tmp_path / "kg.duckdb") as workspace:
        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(WorkspaceError, match=r"kg\.graphlearn is not writable"), workspace.writing():
            pass


def test_forked_children_do_not_keep_a_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    with in_child(lambda: lock.held is False or None):
        assert not is_free(tmp_path / "lock")
        lock.release()
        assert is_free(tmp_path / "lock")
    assert not FileLock(tmp_path / "lock").held
    assert is_free(tmp_path / "never")


def test_staging_removes_the_files_of_dead_processes(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging")
    names: list[str] = []

    def begin() -> object:
        claim = staging.claim()
        path = claim.__enter__()
        path.mkdir()
        (path / "half").write_text("x")
        (tmp_path / "name").write_text(path.name)
        return claim

    with in_child(begin):
        names.append((tmp_path / "name").read_text())
        with staging.claim() as mine:
            mine.mkdir()
            assert (staging.folder / names[0] / "half").exists()  # its process is running
        assert not mine.exists()
    with staging.claim():
        assert not (staging.folder / names[0]).exists()
    assert [entry.name for entry in staging.folder.iterdir()] == [".lock"]


# --- atomic files -------------------------------------------------------------------------------------------------


def test_json_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1.5, float("nan"), {"b": float("inf")}], "é": Path("/p")})
    assert read_json(path) == {"a": [1.5, None, {"b": None}], "é": "/p"}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(WorkspaceError, match=r"the disk is full: could not write to .*x.json"), disk_errors(path):
        write_json(path, {"a": 2})
    assert read_json(path)["a"][0] == 1.5
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]
    path.write_text("[1]")
    with pytest.raises(ValueError, match="does not hold a JSON object"):
        read_json(path)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "x", "/a/b"), WorkspaceError, "the disk is full: could not write to /a/b"),
        (OSError(errno.EDQUOT, "x"), WorkspaceError, "the disk is full: could not write to here"),
        (PermissionError(errno.EACCES, "x", "/a/b"), WorkspaceError, "/a/b is not writable"),
        (duckdb.IOException("Could not write: No space left on device"), WorkspaceError, "the disk is full"),
        (duckdb.OutOfMemoryException("Out of Memory Error: x"), ResourceError, "DuckDB ran out of memory"),
        (MemoryError(), ResourceError, "out of memory"),
        (RuntimeError("Query interrupted"), KeyboardInterrupt, None),
        (FileNotFoundError(errno.ENOENT, "x"), FileNotFoundError, None),
        (ValueError("x"), ValueError, "x"),
    ],
)
def test_disk_failures_are_distinguished(error: Exception, kind: type[BaseException], message: str | None) -> None:
    with pytest.raises(kind, match=message), disk_errors("here"):
        raise error
