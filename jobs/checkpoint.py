"""Training states on disk: safetensors for arrays, JSON for the rest, complete or absent.

    checkpoints/<step>/         state.safetensors   state.json     only the newest one is kept
    checkpoints/best-<epoch>/   state.safetensors   state.json     weights of the best validation so far

A state is written to a temporary folder, which is then renamed. A process killed at any moment leaves the previous one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from graphlearn.errors import ArtifactError
from graphlearn.storage.files import disk_errors
from graphlearn.types import Json

if TYPE_CHECKING:
    from torch import Tensor

ARRAYS = "state.safetensors"
RECORD = "state.json"


def save(folder: Path, name: str, tensors: dict[str, Tensor], record: Json) -> Path:
    """Write a state to `folder/name`, unless it exists. Raises WorkspaceError when the disk is full."""
    from safetensors.torch import save_file

    target = folder / name
    if target.exists():
        return target
    staged = folder / f".{name}-{secrets.token_hex(4)}"
    with disk_errors(folder):
        staged.mkdir(parents=True)
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staged / ARRAYS)
            (staged / RECORD).write_text(json.dumps(record))
            os.rename(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return target


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    steps = [p for p in folder.glob("*") if p.name.isdecimal()] if folder.is_dir() else []
    return max(steps, key=lambda p: int(p.name), default=None)


def save_step(folder: Path, step: int, tensors: dict[str, Tensor], record: Json) -> Path:
    """Write the state of a step, then delete older steps and best weights that it does not refer to."""
    path = save(folder, str(step), tensors, record)
    keep = {path, best_path(folder, int(record["best_epoch"]))}
    for other in folder.iterdir():
        if other not in keep and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
    return path


def best_path(folder: Path, epoch: int) -> Path:
    """The folder with the weights of a best epoch."""
    return folder / f"best-{epoch}"


def load_record(path: Path) -> Json:
    """The JSON part of a state. Raises ArtifactError if it is unreadable."""
    try:
        record: Json = json.loads((path / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"the checkpoint {path} is unreadable: {error}", help="start the job again without --resume"
        ) from error
    return record


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The arrays of a state, memory-mapped. Raises ArtifactError if they are unreadable."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path / ARRAYS)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"the checkpoint {path} is unreadable: {error}", help="start the job again without --resume"
        ) from error
