"""Checkpoints: states from which a run continues, complete or absent on disk, and verified when they are read.

    checkpoints/<epoch>-<step>/   state.json           progress, run, job, and sizes and SHA-256 of the other files
                                  state.safetensors    the tensors that training changes, until it has finished
                                  best.safetensors     the weights of the best validation so far
    checkpoints/.best-<epoch>.safetensors              a hard link to the latter, for the next checkpoint

`stage` copies the tensors to files without waiting for the disk, so that training can go on: the system's page cache
holds the copy and, when memory is short, writes it out. `commit` computes the digests, flushes and renames, on any
thread. A process killed at any moment leaves the previous checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphlearn.errors import ArtifactError
from graphlearn.storage.files import own_folder, read_json, sync_file, sync_folder, write_json
from graphlearn.storage.seal import changed, digest, is_measure, measure, sealed, wrong_size
from graphlearn.types import Json

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
RECORD = "state.json"
STATE = "state.safetensors"
BEST = "best.safetensors"
NAME = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
STAGED = re.compile(r"\.[0-9a-f]{12}")
LARGEST_HEADER = 1 << 24
"""Bytes that state.json and the header of a safetensors file may have: 16 MB, enough for 100,000 tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose record has been verified. `state` and `best` verify and read the tensors."""

    path: Path
    record: Json

    @property
    def step(self) -> int:
        """The number of steps taken since the start of training; 0 if it is unusable."""
        steps = self.record["progress"].get("total_steps")
        return steps if type(steps) is int else 0

    @property
    def progress(self) -> Json:
        """The progress of training, unchecked."""
        progress: Json = self.record["progress"]
        return progress

    def state(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that training changes, memory-mapped. Raises ArtifactError unless they have the form of `like`.

        Those that are also among the best weights are stored once, there.
        """
        shared = set(self.record["shared"])
        if unknown := shared - set(like):
            raise self.refused(f"{RECORD} lists an unexpected tensor {quoted(min(unknown))}")
        rest = {name: value for name, value in like.items() if name not in shared}
        found = self._read(STATE, rest) if rest else {}
        if shared:
            best = self._read(BEST, {name: like[name] for name in shared}, others=True)
            found |= {name: best[name] for name in shared}
        return found

    def best(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The best weights, memory-mapped. Raises ArtifactError unless they have the form of `like`."""
        return self._read(BEST, like)

    def has(self, name: str) -> bool:
        """Whether the checkpoint contains the file."""
        return name in self.record["files"]

    def refused(self, why: str) -> ArtifactError:
        """The error for a checkpoint that cannot be used."""
        return _refused(self.path, why)

    def _read(self, name: str, like: Mapping[str, Tensor], *, others: bool = False) -> dict[str, Tensor]:
        expected, path = self.record["files"].get(name), self.path / name
        if expected is None:
            raise self.refused(f"{RECORD} does not list {name}")
        try:
            wrong = wrong_size(path, name, expected["bytes"])
            if wrong is None and digest(path) != expected["sha256"]:
                wrong = changed(name)
            if wrong is not None:
                raise self.refused(wrong)
            return read_tensors(path, like, others=others)
        except OSError as error:
            raise self.refused(f"{name} is unreadable ({error.strerror})") from error
        except ValueError as error:
            raise self.refused(f"{name}: {error}") from error


def newest(folder: Path, run: str, job: str) -> Checkpoint | None:
    """The newest checkpoint of the run, None if there is none.

    Raises ArtifactError if it is damaged, or was written by another run or job.
    """
    if folder.is_symlink():
        raise _refused(folder, "it is a symbolic link")
    found = [p for p in folder.iterdir() if NAME.fullmatch(p.name)] if folder.is_dir() else []
    path = max(found, key=lambda p: tuple(map(int, p.name.split("-"))), default=None)
    if path is None:
        return None
    try:
        record = {} if path.is_symlink() else _read_record(path / RECORD)
        wrong = _wrong_record(record, path.name, run, job) if record else "it is a symbolic link or empty"
    except FileNotFoundError:
        wrong = f"{RECORD} is missing"
    except (OSError, ValueError, RecursionError) as error:
        wrong = f"{RECORD} is unreadable ({str(error).removeprefix(f'{RECORD} ')})"
    if wrong is not None:
        raise _refused(path, wrong)
    return Checkpoint(path, record)


def stage(folder: Path, state: Mapping[str, Tensor], best: Path | None) -> Path:
    """A new temporary folder with the tensors, for `commit`; `best` is hard-linked. Raises OSError."""
    own_folder(folder, parents=False)  # not its parents: the run folder may have been removed
    staged = folder / f".{secrets.token_hex(6)}"
    staged.mkdir()
    try:
        if state:
            write_tensors(staged / STATE, state)
        if best is not None:
            link(best, staged / BEST)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return staged


def commit(staged: Path, record: Json, best: Json | None = None) -> Checkpoint:
    """Turn a staged folder into the newest checkpoint, and remove the older ones. Raises OSError.

    record: `name`, `run`, `job`, `progress`, and `shared`, the names of the tensors that are only in the best weights.
    best: size and digest of the best weights, if known.
    """
    folder = staged.parent
    target = folder / record["name"]
    try:
        files = {}
        for path in sorted(staged.iterdir()):
            files[path.name] = best if best is not None and path.name == BEST else measure(path)
            sync_file(path)
        record = sealed({**record, "format_version": FORMAT_VERSION, "files": files})
        write_json(staged / RECORD, record)
        os.rename(staged, target)
        sync_folder(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    for other in folder.iterdir():
        ours = NAME.fullmatch(other.name) or STAGED.fullmatch(other.name)
        if ours and other != target and other.is_dir() and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)
    return Checkpoint(target, record)


def link(source: Path, target: Path) -> None:
    """Make a file available under a second name, as a copy where the file system has no hard links. Raises OSError."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a new safetensors file, without a second copy in memory and without waiting for the disk. Raises OSError.

    It has the same bytes as that of `safetensors.torch.save_file`, which takes several times as long; see
    benchmarks/checkpoints.py.
    """
    import torch

    order = list(_dtypes())
    ordered = sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0]))
    header: Json = {}
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.nbytes
        header[name] = {"dtype": _dtypes()[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, value in ordered:
            file.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def read_tensors(path: Path, like: Mapping[str, Tensor], *, others: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises ValueError unless they have the names, shapes and types of `like`; with `others` there may be more tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
            raise ValueError("the header is too large")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    for name in like:
        if name not in found:
            raise ValueError(f"the tensor {quoted(name)} is missing")
    for name, value in found.items():
        if name not in like:
            if others:
                continue
            raise ValueError(f"there is an unexpected tensor {quoted(name)}")
        given, wanted = (f"{x.dtype}{list(x.shape)}".removeprefix("torch.") for x in (value, like[name]))
        if given != wanted:
            raise ValueError(f"the tensor {quoted(name)} is {given} instead of {wanted}")
    return found


def _dtypes() -> dict[object, str]:
    """The names of types in safetensors, in the order of tensors in a file: each is aligned."""
    import torch

    return {
        torch.int64: "I64",
        torch.float64: "F64",
        torch.float32: "F32",
        torch.int32: "I32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }


def _read_record(path: Path) -> Json:
    if path.is_symlink():
        raise ValueError("it is a symbolic link")
    return read_json(path, longest=LARGEST_HEADER)


def _wrong_record(record: Json, name: str, run: str, job: str) -> str | None:
    """What is wrong with the record of a checkpoint; None if nothing is."""
    written, files, shared = record.get("format_version"), record.get("files"), record.get("shared")
    if written != FORMAT_VERSION or isinstance(written, bool):
        return f"its format is {quoted(written)}, and this version of GraphLearn reads {FORMAT_VERSION}"
    if sealed(record) != record:
        return changed(RECORD)
    if record.get("run") != run:
        return f"it belongs to the run {quoted(record.get('run'))}"
    if record.get("job") != job:
        return "it belongs to another job, or to other data"
    if record.get("name") != name:
        return f"it was renamed: it is {quoted(record.get('name'))}"
    if not isinstance(files, dict) or not all(n in (STATE, BEST) and is_measure(f) for n, f in files.items()):
        return f"{RECORD} has an invalid files"
    if not isinstance(shared, list) or not all(isinstance(name, str) for name in shared):
        return f"{RECORD} has an invalid shared"
    return None if isinstance(record.get("progress"), dict) else f"{RECORD} has an invalid progress"


def _refused(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"the checkpoint {path} cannot be used: {why}", help="train from the start: run the job again without --resume"
    )


def quoted(value: object) -> str:
    """A value from a file, for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
