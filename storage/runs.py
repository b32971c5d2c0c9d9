"""Run folders: everything about one training run, readable during the run and after a crash.

    runs/<utc>-<model>/   job.sql   config.json   run.json   events.jsonl   checkpoints/   lock

run.json is replaced atomically; events.jsonl grows by whole lines. The training process holds the lock, so a run with
status "running" whose lock is free was killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from graphlearn.errors import ArtifactError, UserError, WorkspaceError, did_you_mean
from graphlearn.events import Event, to_json
from graphlearn.storage.artifacts import fold, folder_name
from graphlearn.storage.files import (
    disk_errors,
    dump_json,
    open_regular,
    read_json,
    sync_folder,
    write_bytes,
    write_json,
)
from graphlearn.storage.locks import FileLock, Staging, holder_of, is_free
from graphlearn.types import Json

CONFIG = "config.json"
STATE = "run.json"
LONGEST_EVENT, MOST_EVENTS = 4 << 20, 1 << 30
"""Bytes of a line of events.jsonl, and of all lines."""
FINAL = frozenset({"done", "unchanged", "failed", "interrupted"})
RESUMABLE = frozenset({"killed", "failed", "interrupted"})


@contextmanager
def run_errors(path: Path) -> Iterator[None]:
    """`disk_errors` for writing to a run folder; also raises WorkspaceError if the folder was removed."""
    with disk_errors(path):
        try:
            yield
        except FileNotFoundError:
            if path.exists():
                raise
            raise gone(path) from None


def gone(path: Path) -> WorkspaceError:
    """The error for a run folder that was removed."""
    return WorkspaceError(
        f"the folder of the run was removed while it was running: {path}", help="run the job again, without --resume"
    )


class RunFolder:
    """One run. The process that creates it, or first writes to it after `open`, owns it until `close` or its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.checkpoints = path / "checkpoints"
        self._lock = FileLock(path / "lock")
        self._events: int | None = None
        self._state: Json | None = None

    @property
    def removed(self) -> bool:
        """Whether the folder, or the file of events that this process has open, was removed."""
        if self._events is not None and not os.fstat(self._events).st_nlink:
            return True
        return not self.path.exists()

    @classmethod
    def create(cls, folder: Path, model: str, job_sql: str, config: Json) -> RunFolder:
        """A new run of the model, owned by this process, with status "running".

        `folder` is the workspace folder. Raises WorkspaceError if the disk is full or not writable.
        """
        home = Path(folder) / "runs"
        now = datetime.now(UTC)
        base = f"{now:%Y%m%dT%H%M%S}-{folder_name(model)}"
        with disk_errors(home), Staging(home / ".staging").claim() as staged:
            (staged / "checkpoints").mkdir(parents=True)
            write_bytes(staged / "job.sql", job_sql.encode())
            write_json(staged / CONFIG, config)
            state: Json = {
                "run": base,
                "model": model,
                "status": "running",
                "started_at": now.isoformat(timespec="milliseconds"),
                "pid": os.getpid(),
            }
            lock = FileLock(staged / "lock")
            lock.acquire()
            count = 1
            while True:
                state["run"] = base if count == 1 else f"{base}-{count}"
                write_json(staged / STATE, state)
                try:
                    os.rename(staged, home / state["run"])
                except OSError:
                    if not (home / state["run"]).exists():
                        lock.release()
                        raise
                    count += 1
                    continue
                break
            sync_folder(home)
        run = cls(home / state["run"])
        lock.path = run._lock.path
        run._lock = lock
        run._state = state
        return run

    @classmethod
    def open(cls, folder: Path, run_id: str) -> RunFolder:
        """A run by its id. Reading takes no lock; the first write does. Raises UserError naming similar ids."""
        home = Path(folder) / "runs"
        if run_id in _run_ids(home):
            return cls(home / run_id)
        known = _run_ids(home)
        raise UserError(
            f'there is no run "{run_id}"',
            help=did_you_mean(run_id, known) if known else "nothing has run in this workspace yet",
        )

    def update(self, **fields: Any) -> None:
        """Set fields of run.json, atomically. A final status also sets `finished_at`.

        Fields that readers use: status, epoch, epochs, step, loss, examples_per_second, eta_seconds, version, metrics,
        message, finished_at. Raises WorkspaceError if another process owns the run, the disk is full or the folder was
        removed.
        """
        state = self._own()
        state.update(fields)
        status = fields.get("status")
        if status == "running":
            state.update(pid=os.getpid())
            state.pop("finished_at", None)
        elif status in FINAL:
            state.setdefault("finished_at", datetime.now(UTC).isoformat(timespec="milliseconds"))
        with run_errors(self.path):
            write_json(self.path / STATE, state, durable=status is not None)

    def append(self, event: Event) -> None:
        """Append an event to events.jsonl as one line, immediately visible to readers.

        Raises WorkspaceError if another process owns the run, the disk is full or the folder was removed.
        """
        self._own()
        line = (dump_json(to_json(event)) + "\n").encode()
        with run_errors(self.path):
            if self._events is None:
                self._events = self._open_events()
            written = os.write(self._events, line)
            while written < len(line):
                try:
                    written += os.write(self._events, line[written:])
                except OSError:
                    os.ftruncate(self._events, os.fstat(self._events).st_size - written)
                    raise

    def events(self) -> Iterator[Json]:
        """The events so far, oldest first. A line truncated by a crash is skipped."""
        return read_events(self.path)

    def info(self) -> Json:
        """run.json, with status "killed" if its process no longer exists and "damaged" if the file is unusable."""
        try:
            state = self._read(STATE, "model", "status")
        except ArtifactError as error:
            return {"run": self.id, "model": None, "status": "damaged", "message": error.message}
        state["run"] = self.id
        if state.get("status") not in FINAL and not self._lock.held and is_free(self._lock.path):
            state["status"] = "killed"
            state["message"] = f"process {state.get('pid')} exited unexpectedly"
        return state

    @property
    def model(self) -> str:
        """The model that the run trains. Raises ArtifactError if run.json is unusable."""
        return str(self._read(STATE, "model", "status")["model"])

    def config(self) -> Json:
        """config.json, which has at least `model` and `fingerprint`. Raises ArtifactError if it is unusable."""
        return self._read(CONFIG, "model", "fingerprint")

    @property
    def resumable(self) -> bool:
        """Whether the run stopped before its end and has a checkpoint."""
        return self.info().get("status") in RESUMABLE and self.has_checkpoint

    @property
    def has_checkpoint(self) -> bool:
        """Whether checkpoints/ has any entry whose name does not begin with a dot."""
        try:
            return any(not entry.name.startswith(".") for entry in self.checkpoints.iterdir())
        except OSError:
            return False

    def close(self) -> None:
        """Give up ownership without changing the status. May be called twice."""
        if self._events is not None:
            os.close(self._events)
            self._events = None
        self._lock.release()
        self._state = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own(self) -> Json:
        if self.removed:
            raise gone(self.path)
        if self._state is not None and self._lock.held:
            return self._state
        with run_errors(self.path):
            acquired = self._lock.acquire()
        if not acquired:
            pid = holder_of(self._lock.path).get("pid", "unknown")
            raise WorkspaceError(
                f'run "{self.id}" is in use by process {pid}',
                help="wait until it ends; `graphlearn runs` shows what is running",
            )
        try:
            self._state = self._read(STATE, "model", "status")
        except ArtifactError:
            self._lock.release()
            raise
        return self._state

    def _read(self, name: str, *keys: str) -> Json:
        """A JSON file of the run whose `keys` are texts."""
        path = self.path / name
        try:
            found = read_json(path)
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{name} ")
            reason = "it does not fit in memory" if isinstance(error, MemoryError) else reason
            raise self._damaged(f"{path} is unreadable ({reason})") from error
        wrong = next((key for key in keys if not isinstance(found.get(key), str)), None)
        if wrong is not None:
            raise self._damaged(f"{path} has no valid {wrong}")
        return found

    def _damaged(self, why: str) -> ArtifactError:
        return ArtifactError(f'run "{self.id}" is damaged: {why}', help="start a new run, without --resume")

    def _open_events(self) -> int:
        """Open for appending, and complete a last line truncated by a crash with a newline."""
        path = self.path / "events.jsonl"
        handle = open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")
        return handle


def read_events(path: Path) -> Iterator[Json]:
    """The events in a run folder that can be read, oldest first.

    Lines truncated by a crash, or longer than any event, are skipped, and what follows after MOST_EVENTS bytes.
    """
    try:
        with open(open_regular(path / "events.jsonl"), "rb") as file:
            inside = False  # of a line that is too long
            while file.tell() < MOST_EVENTS and (line := file.readline(LONGEST_EVENT)):
                whole, inside = not inside, not line.endswith(b"\n")
                if not whole or (inside and len(line) == LONGEST_EVENT):
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict):
                    yield value
    except (OSError, WorkspaceError):
        return


def list_runs(folder: Path) -> list[Json]:
    """`info` of all runs of a workspace folder, newest first."""
    home = Path(folder) / "runs"
    found = [RunFolder(home / run_id).info() for run_id in _run_ids(home)]
    return sorted(found, key=lambda run: (str(run.get("started_at") or run["run"]), run["run"]), reverse=True)


def latest_resumable(folder: Path, model: str) -> RunFolder | None:
    """The newest run of the model if it stopped before its end and has a checkpoint; otherwise None."""
    for info in list_runs(folder):
        if fold(str(info.get("model"))) == fold(model):
            run = RunFolder(Path(folder) / "runs" / str(info["run"]))
            return run if info.get("status") in RESUMABLE and run.has_checkpoint else None
    return None


def _run_ids(home: Path) -> list[str]:
    """The names of the folders of runs; links are ignored."""
    try:
        entries = [entry for entry in home.iterdir() if entry.is_dir() and not entry.is_symlink()]
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
