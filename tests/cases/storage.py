"""Shared by storage tests: simulated failures of disks and processes."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Inside the block, no file can grow beyond `size` bytes, which simulates a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def write_format_1(models: Path, model: str) -> Path:
    """A version in the first stored format: one file, and a manifest without its own digest."""
    folder = models / model / "1"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    files = {"weights.safetensors": {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    manifest = {"format_version": 1, "model": model, "version": 1, "family": "complex", "options": {}, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder.parent / "model.json").write_text(json.dumps({"model": model, "current": 1}))
    return folder


_TOUCHES_DISK = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}


def die_at(step: int, work: Callable[[], Any]) -> bool:
    """Do the work in a child that is killed before its `step`-th file operation; False if it finishes earlier."""
    child = os.fork()
    if child == 0:
        try:
            count = 0

            def hook(event: str, _: tuple[Any, ...]) -> None:
                nonlocal count
                if event in _TOUCHES_DISK:
                    count += 1
                    if count == step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@contextmanager
def in_child(hold: Callable[[], Any]) -> Iterator[int]:
    """Run `hold` in a child process, which keeps the result until the end of the block; yields its pid."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(done[1])
            kept = hold()
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os._exit(0 if kept is not None else 2)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(ready[1])
    try:
        assert os.read(ready[0], 1) == b"x", "the child failed"
        yield child
    finally:
        for handle in (ready[0], done[0], done[1]):
            os.close(handle)
        os.waitpid(child, 0)


def give_up_rights() -> None:
    """Make this process, if it is root's, respect the permissions of files as any other user's does.

    For `preexec_fn`: takes effect when the process starts a program. Raises OSError if that is not possible.
    """
    if os.getuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in _OVERRIDES:
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "cannot give up the rights of root")


_PR_CAPBSET_DROP = 24
_OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: to write and read whatever the permissions say."""


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Inside the block, nothing in the folder may be written, as in a read-only mount."""
    entries = [folder, *folder.rglob("*")]
    modes = {entry: entry.stat().st_mode for entry in entries}
    for entry in entries:
        entry.chmod(modes[entry] & ~0o222)
    try:
        yield
    finally:
        for entry in entries:
            entry.chmod(modes[entry])
