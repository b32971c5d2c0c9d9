"""Saves checkpoints while a model trains, at a bounded cost.

Training stops only while its tensors are copied (`checkpoint.stage`); digests and flushing follow on another thread.
The cost of a checkpoint is the time that training was stopped plus the processor time of the thread. A checkpoint is
due when, with its cost, all checkpoints of the process take at most SHARE of the time since training began.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graphlearn.jobs import checkpoint
from graphlearn.jobs.checkpoint import Checkpoint
from graphlearn.storage.files import own_folder
from graphlearn.storage.runs import run_errors
from graphlearn.types import Json

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.03
"""The largest share of the training time that checkpoints take."""
RATE = 400e6
"""Bytes per second assumed before the first checkpoint."""
_BEST = re.compile(r"\.best-([0-9]+|resumed)\.safetensors")
GRACE = 1.0
"""Seconds that the checkpoint at the end of training may take beyond the share."""


class Saver:
    """The checkpoints of one run, in `folder`. `job` is the fingerprint of the job; see `checkpoint.newest`."""

    def __init__(self, folder: Path, run: str, job: str) -> None:
        self.folder, self.run, self.job = folder, run, job
        self.stopped = 0.0  # seconds that training was stopped for checkpoints
        self.spent = 0.0  # the same, with the processor time of saving in the background
        self._seconds_per_byte = 1 / RATE
        self._size = 0
        self._began = self._staged_at = time.monotonic()
        self._saved_at: float | None = None
        self._best: Path | None = None
        self._measured: dict[Path | None, Json | None] = {}  # size and digest of the best weights
        self._thread: threading.Thread | None = None
        self._cost = (0.0, 0.0)  # of the last one: seconds that training was stopped, and processor time of its thread
        self._saved: Checkpoint | None = None
        self._error: BaseException | None = None

    def begin(self, state: Mapping[str, Tensor], resumed: Checkpoint | None = None) -> None:
        """Start the clock. `state`: tensors as large as those to be saved. `resumed`: the verified current one."""
        self._size = _bytes(state)
        self._began = self._staged_at = time.monotonic()
        self._saved_at = self._began if resumed is not None else None
        if resumed is not None and resumed.has(checkpoint.BEST):
            with run_errors(self.folder.parent):
                own_folder(self.folder, parents=False)
                best = self.folder / ".best-resumed.safetensors"
                best.unlink(missing_ok=True)
                checkpoint.link(resumed.path / checkpoint.BEST, best)
                self._set_best(best)

    def since(self) -> float | None:
        """Seconds of training that would be lost if the process were killed now; None before the first checkpoint."""
        return None if self._saved_at is None else time.monotonic() - self._saved_at

    def due(self, at_least: float) -> bool:
        """Whether to save now: `at_least` seconds after the last checkpoint, and only if it keeps to the SHARE.

        With at_least = 0 always, whatever it costs.
        """
        if at_least == 0:
            return True
        now = time.monotonic()
        if self._thread is not None or now - self._staged_at < at_least:
            return False
        return self._fits(0.0)

    def fits_at_the_end(self) -> bool:
        """Whether the last checkpoint of the run, which only has the best weights, keeps to SHARE and GRACE."""
        return self._fits(GRACE)

    def _fits(self, grace: float) -> bool:
        cost = self._size * self._seconds_per_byte
        return self.spent + cost <= SHARE * (time.monotonic() - self._began) + grace

    def keep_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Copy the best weights so far to a file, which becomes part of the next checkpoint."""
        started = time.monotonic()
        with run_errors(self.folder.parent):
            own_folder(self.folder, parents=False)
            best = self.folder / f".best-{epoch}.safetensors"
            best.unlink(missing_ok=True)
            checkpoint.write_tensors(best, weights)
            self._set_best(best)
        self._count(started)

    def _set_best(self, best: Path) -> None:
        self._best = best
        for other in self.folder.iterdir():
            if other != best and _BEST.fullmatch(other.name):
                other.unlink(missing_ok=True)

    def best(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The best weights so far, memory-mapped. Raises ArtifactError if the file has changed since."""
        assert self._best is not None
        with run_errors(self.folder.parent):
            try:
                return checkpoint.read_tensors(self._best, like)
            except ValueError as error:
                raise Checkpoint(self._best, {}).refused(str(error)) from error

    def save(
        self,
        progress: Json,
        state: Callable[[], Mapping[str, Tensor]] | None,
        best: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Save a checkpoint in the background, after waiting for the previous one.

        `state`: None once training has finished; the best weights are enough then. `best`: the best weights if those
        are the current ones; what the state shares with them is stored once. Errors are raised by `poll` and `wait`.
        """
        self._join()
        started = time.monotonic()
        tensors = dict(state()) if state is not None else {}
        shared = [name for name, value in (best or {}).items() if name in tensors and _equal(value, tensors[name])]
        name = f"{progress['epoch']}-{progress['step']}"
        record: Json = {"name": name, "run": self.run, "job": self.job, "progress": progress, "shared": shared}
        for name in shared:
            del tensors[name]
        with run_errors(self.folder.parent):
            staged = checkpoint.stage(self.folder, tensors, self._best)
        stopped = self._count(started)
        if state is not None:
            self._size = max(1, sum(path.stat().st_size for path in staged.iterdir()))
        self._staged_at = started
        arguments = (staged, record, self._best, stopped, started)
        self._thread = threading.Thread(target=self._commit, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def _commit(self, staged: Path, record: Json, best: Path | None, stopped: float, started: float) -> None:
        try:
            with run_errors(self.folder.parent):
                self._saved = checkpoint.commit(staged, record, self._measured.get(best))
            self._measured = {best: self._saved.record["files"].get(checkpoint.BEST)}
            self._saved_at = started
        except BaseException as error:
            self._error = error
        finally:
            self._cost = (stopped, time.thread_time())

    def poll(self) -> Checkpoint | None:
        """The checkpoint that was completed since the last call, if one was. Raises the error of one that failed."""
        if self._thread is None or self._thread.is_alive():
            return None
        return self.wait()

    def wait(self) -> Checkpoint | None:
        """Like `poll`, once the checkpoint that is being saved is complete."""
        self._join()
        saved, self._saved = self._saved, None
        return saved

    def abandon(self) -> None:
        """Let the checkpoint that is being saved complete, without raising its error."""
        if self._thread is not None:
            self._thread.join()

    def share(self) -> float:
        """Seconds that training was stopped for checkpoints, per second since it began."""
        return self.stopped / max(1e-9, time.monotonic() - self._began)

    def _join(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
            stopped, seconds = self._cost
            self.spent += seconds
            self._seconds_per_byte = (stopped + seconds) / max(1, self._size)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _count(self, started: float) -> float:
        seconds = time.monotonic() - started
        self.stopped += seconds
        self.spent += seconds
        return seconds


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values())


def _equal(a: Tensor, b: Tensor) -> bool:
    import torch

    return a.dtype == b.dtype and torch.equal(a, b)
