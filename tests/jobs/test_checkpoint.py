"""Checkpoints: what they contain, and a corpus of crafted ones, each of which is refused by name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.jobs import request, workspace
from cases.loops import CountingLoop, CountingOptions
from cases.storage import die_at, limited_file_size
from safetensors.torch import load_file, save_file

from graphlearn.errors import ArtifactError, WorkspaceError
from graphlearn.events import CheckpointSaved, Event, silent
from graphlearn.jobs import checkpoint
from graphlearn.jobs.create import create_model
from graphlearn.jobs.saver import Saver
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.runs import list_runs
from graphlearn.storage.seal import measure, sealed
from graphlearn.types import Json


class Stopped(Exception):
    """Raised by a listener, in place of a kill."""


def stop_at(name: str) -> Callable[[Event], None]:
    """A listener that ends training after the checkpoint of an epoch and step, such as 2-1."""

    def emit(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and Path(event.path).name == name:
            raise Stopped

    return emit


def stopped(folder: Path, name: str = "2-2", **given: Any) -> CountingLoop:
    """A loop that was stopped after a checkpoint: of three epochs of four steps, the second one scores best."""
    loop = CountingLoop(folder, emit=stop_at(name), **given)
    with pytest.raises(Stopped):
        loop.fit()
    return loop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of checkpoints, with one after two steps of the third epoch."""
    stopped(tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


# contents


def test_a_checkpoint_continues_training(folder: Path) -> None:
    whole, resumed = CountingLoop(folder.parent / "whole"), CountingLoop(folder)
    whole.fit()
    assert resumed.resume()
    assert (resumed.progress.total_steps, int(resumed.steps_taken)) == (10, 10)
    resumed.fit()
    assert resumed.count.tolist() == whole.count.tolist() == [[8.0, 8.0]] * 3, "the best weights: of the second epoch"
    assert resumed.squares.tolist() == whole.squares.tolist()


def test_the_best_weights_are_stored_once(tmp_path: Path) -> None:
    """They have the same file in every checkpoint, and at the best epoch the state does not repeat them."""
    folder = tmp_path / "checkpoints"
    inodes = []
    for name in ("2-0", "2-2"):
        shutil.rmtree(folder, ignore_errors=True)
        stopped(folder, name)
        (path,) = folder.glob("[0-9]*")
        (kept,) = folder.glob(".best-*")
        inodes.append(kept.stat().st_ino == (path / checkpoint.BEST).stat().st_ino)
        assert set(load_file(path / checkpoint.BEST)) == {"count"}
        assert ("count" in load_file(path / checkpoint.STATE)) == (name == "2-2")
    assert inodes == [True, True]
    resumed = CountingLoop(folder)
    assert resumed.resume()


@pytest.mark.parametrize("scores", [(1.0, 3.0, 2.0), (1.0, 2.0, 3.0), ()])
def test_when_training_has_finished_only_the_best_weights_are_kept(tmp_path: Path, scores: tuple[float, ...]) -> None:
    loop = CountingLoop(tmp_path / "c", scores=scores)
    loop.fit()
    (path,) = (tmp_path / "c").glob("[0-9]*")
    assert sorted(file.name for file in path.iterdir()) == [checkpoint.BEST, checkpoint.RECORD]
    again = CountingLoop(tmp_path / "c", scores=scores)
    assert again.resume()
    again.fit()
    assert again.progress.finished
    assert again.count.tolist() == loop.count.tolist()
    assert (
        again.progress.cpu_seconds >= json.loads((path / checkpoint.RECORD).read_text())["progress"]["cpu_seconds"] > 0
    )


def test_tensors_of_all_types_and_shapes(tmp_path: Path) -> None:
    types = list(checkpoint._dtypes())
    tensors = {f"t{i}": torch.arange(6).reshape(2, 3).to(kind) for i, kind in enumerate(types)}  # type: ignore[arg-type]
    tensors |= {"none": torch.zeros(0, 3), "one": torch.tensor(7), "größe": torch.arange(6.0).reshape(2, 3).T}
    checkpoint.write_tensors(tmp_path / "ours", tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "library")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()
    found = load_file(tmp_path / "ours")
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert checkpoint.read_tensors(tmp_path / "ours", tensors).keys() == tensors.keys()


# a corpus of crafted checkpoints


def path_of(folder: Path) -> Path:
    (path,) = folder.glob("[0-9]*")
    return path


def reseal(folder: Path, change: Callable[[Json], Any] = lambda _: None) -> None:
    """Change the record, and compute all sizes and digests again, as an attacker would."""
    path = path_of(folder) / checkpoint.RECORD
    record = json.loads(path.read_text())
    for name in record["files"]:
        record["files"][name] = measure(path.parent / name)
    change(record)
    path.write_text(json.dumps(sealed(record)))


def text(content: str | bytes) -> Callable[[Path], None]:
    """Another content of state.json."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (path_of(folder) / checkpoint.RECORD).write_bytes(data) and None


def progress(**fields: Any) -> Callable[[Path], None]:
    """Other fields in the progress, resealed."""
    return lambda folder: reseal(folder, lambda record: record["progress"].update(fields))


def record(**fields: Any) -> Callable[[Path], None]:
    """Other keys in the record, resealed."""
    return lambda folder: reseal(folder, lambda found: found.update(fields))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any], name: str = checkpoint.STATE) -> Callable[[Path], None]:
    """Other tensors, resealed."""

    def craft(folder: Path) -> None:
        path = path_of(folder) / name
        found = {key: value.clone() for key, value in load_file(path).items()}
        change(found)
        path.unlink()
        save_file(found, path)
        reseal(folder)

    return craft


def content(change: Callable[[bytes], bytes], *, seal: bool) -> Callable[[Path], None]:
    """Another content of state.safetensors."""

    def craft(folder: Path) -> None:
        path = path_of(folder) / checkpoint.STATE
        path.write_bytes(change(path.read_bytes()))
        if seal:
            reseal(folder)

    return craft


def unsealed(folder: Path) -> None:
    path = path_of(folder) / checkpoint.RECORD
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 1'))


def linked(name: str) -> Callable[[Path], None]:
    """A file, or with '' the whole checkpoint, replaced by a symbolic link to its content."""

    def craft(folder: Path) -> None:
        path = path_of(folder) / name if name else path_of(folder)
        path.rename(folder.parent / "moved")
        path.symlink_to(folder.parent / "moved")

    return craft


def fifo(folder: Path) -> None:
    path = path_of(folder) / checkpoint.STATE
    path.unlink()
    os.mkfifo(path)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (path_of(folder) / name).unlink()


def header(text: bytes) -> Callable[[bytes], bytes]:
    return lambda _: len(text).to_bytes(8, "little") + text


def of_another(**given: Any) -> Callable[[Path], None]:
    """The checkpoint of another run or job."""

    def craft(folder: Path) -> None:
        shutil.rmtree(folder)
        stopped(folder, **given)

    return craft


OVERLAPPING = (
    b'{"count":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},'
    b'"steps":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}'
)

CORPUS: dict[str, tuple[Callable[[Path], None], str]] = {
    # the record
    "a list": (text("[]"), "state.json is unreadable"),
    "a number": (text("7"), "state.json is unreadable"),
    "an empty object": (text("{}"), "symbolic link or empty"),
    "an empty file": (text(""), "state.json is unreadable"),
    "no JSON": (text("\0" * 100), "state.json is unreadable"),
    "no text": (text(b"\xff\xfe\x00"), "state.json is unreadable"),
    "nested lists": (text("[" * 100_000), "state.json is unreadable"),
    "nested objects": (text('{"a":' * 100_000), "state.json is unreadable"),
    "a large record": (text(b" " * (checkpoint.LARGEST_HEADER + 1)), "has more than .* bytes"),
    "a huge number": (text('{"step": ' + "9" * 10_000 + "}"), "state.json is unreadable"),
    "no record": (without(checkpoint.RECORD), "state.json is missing"),
    "the record of an earlier format": (text('{"epoch": 2, "step": 2, "best_epoch": 2}'), "its format is None"),
    "changed": (unsealed, "state.json has changed since it was written"),
    "a newer format": (record(format_version=2), "its format is 2"),
    "a true format": (record(format_version=True), "its format is True"),
    "another run": (of_another(run="run-2"), "it belongs to the run 'run-2'"),
    "another job": (of_another(job="job-2"), "it belongs to another job"),
    "a long name": (record(run="x" * 10_000), "it belongs to the run 'xxx"),
    "another folder": (lambda folder: path_of(folder).rename(folder / "2-3") and None, "renamed: it is '2-2'"),
    "another name": (record(name="2-1"), "renamed: it is '2-1'"),
    "files as a list": (record(files=[]), "invalid files"),
    "a file outside": (record(files={"../../secret": {"bytes": 1, "sha256": ""}}), "invalid files"),
    "a file without digest": (record(files={checkpoint.STATE: {"bytes": 1}}), "invalid files"),
    "files missing": (record(files={}), "does not list state.safetensors"),
    "shared as text": (record(shared="count"), "invalid shared"),
    "shared unknown": (record(shared=["nothing"]), "unexpected tensor 'nothing'"),
    "shared too much": (record(shared=["steps"]), "unexpected tensor 'steps'"),
    "progress as a list": (record(progress=[]), "invalid progress"),
    # the progress
    "epoch 10**9": (progress(epoch=10**9), "epoch is 1000000000"),
    "a negative epoch": (progress(epoch=-1), "epoch is -1"),
    "half an epoch": (progress(epoch=1.5), "epoch is not an integer"),
    "epoch as text": (progress(epoch="2"), "epoch is not an integer"),
    "epoch true": (progress(epoch=True), "epoch is not an integer"),
    "epoch NaN": (progress(epoch=float("nan")), "epoch is not an integer"),
    "a step too far": (progress(step=5), "not the state after step 5 of epoch 2"),
    "a negative step": (progress(step=-1), "step is -1"),
    "fewer steps": (progress(total_steps=1), "step is 2"),
    "a loss of NaN": (progress(loss_sum=float("nan")), "loss_sum is not a finite number"),
    "a huge loss": (progress(loss_sum=10**4000), "loss_sum is not a finite number"),
    "a loss like infinity": (progress(loss_sum=1e308), "loss_sum is not a finite number"),
    "a loss of nothing": (progress(loss_count=0), "loss_sum is the loss of no examples"),
    "examples without end": (progress(loss_count=10**4000), "loss_count is 10*…"),
    "more steps": (progress(total_steps=11), "total_steps is 11, and not 10"),
    "steps without end": (progress(total_steps=10**30), f"total_steps is {10**30}, and not 10"),
    "a huge score": (progress(best_score=10**4000), "best_score is not a finite number"),
    "a score like infinity": (progress(best_score=1e308), "best_score is not a finite number"),
    "endless time": (progress(cpu_seconds=1e299), "cpu_seconds is "),
    "a loss as list": (progress(loss_sum=[]), "loss_sum is not a finite number"),
    "a score as text": (progress(best_score="1"), "best_score is not a finite number"),
    "a best epoch to come": (progress(best_epoch=3), "best_epoch is 3"),
    "a best epoch without a score": (progress(best_score=None), "do not agree"),
    "endless patience": (progress(worse=-(10**9)), "worse is"),
    "finished maybe": (progress(finished=1), "finished is not true or false"),
    "negative time": (progress(cpu_seconds=-1.0), "cpu_seconds is -1.0"),
    "an unknown field": (progress(secret=1), "does not know, secret"),
    "a missing field": (lambda folder: reseal(folder, lambda r: r["progress"].pop("worse")), "lacks, .* worse"),
    # the tensors
    "a flipped bit": (content(lambda data: data[:-1] + bytes([data[-1] ^ 1]), seal=False), "safetensors has changed"),
    "truncated": (content(lambda data: data[:-1], seal=False), "bytes instead of"),
    "truncated and sealed": (content(lambda data: data[:-1], seal=True), "state.safetensors: "),
    "an empty tensor file": (content(lambda _: b"", seal=True), "state.safetensors: "),
    "no header": (content(lambda data: b"\xff" * len(data), seal=True), "the header is too large"),
    "a large header": (content(header(b" " * (checkpoint.LARGEST_HEADER + 1)), seal=True), "the header is too large"),
    "a nested header": (content(header(b"[" * 100_000), seal=True), "state.safetensors: "),
    "overlapping tensors": (content(lambda _: header(OVERLAPPING)(b"") + bytes(24), seal=True), "state.safetensors: "),
    "no tensors": (without(checkpoint.STATE), "state.safetensors is missing"),
    "no best weights": (without(checkpoint.BEST), "best.safetensors is missing"),
    "a renamed tensor": (tensors(lambda t: t.update(counts=t.pop("count"))), "the tensor 'count' is missing"),
    "a missing tensor": (tensors(lambda t: t.pop("optimiser.squares")), "the tensor 'optimiser.squares' is missing"),
    "an extra tensor": (tensors(lambda t: t.update(more=torch.zeros(1))), "an unexpected tensor 'more'"),
    "a cast tensor": (tensors(lambda t: t.update(count=t["count"].half())), r"'count' is float16\[3, 2\] instead"),
    "a wider tensor": (tensors(lambda t: t.update(count=t["count"].double())), r"'count' is float64\[3, 2\]"),
    "a reshaped tensor": (tensors(lambda t: t.update(count=t["count"].reshape(2, 3))), r"float32\[2, 3\] instead"),
    "a broadcast tensor": (tensors(lambda t: t.update(count=torch.zeros(1, 2))), r"float32\[1, 2\] instead"),
    "steps before the first": (tensors(lambda t: t.update(steps=torch.tensor(-5))), "steps is -5 after 10 steps"),
    "steps to come": (tensors(lambda t: t.update(steps=torch.tensor(2**63 - 1))), "steps is 9.2.* after 10 steps"),
    "cast best weights": (
        tensors(lambda t: t.update(count=t["count"].half()), checkpoint.BEST),
        "best.safetensors: the tensor 'count' is float16",
    ),
    # links and special files
    "a linked checkpoint": (linked(""), "symbolic link"),
    "a linked record": (linked(checkpoint.RECORD), "it is a symbolic link"),
    "linked tensors": (linked(checkpoint.STATE), "state.safetensors is not a regular file"),
    "linked best weights": (linked(checkpoint.BEST), "best.safetensors is not a regular file"),
    "a named pipe": (fifo, "state.safetensors is not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPUS)
def test_a_crafted_checkpoint_is_refused(folder: Path, name: str) -> None:
    craft, message = CORPUS[name]
    craft(folder)
    loop = CountingLoop(folder)
    with pytest.raises(ArtifactError) as caught:
        loop.resume()
    assert re.search(message, caught.value.message), caught.value.message
    assert f"the checkpoint {path_of(folder)} cannot be used" in caught.value.message
    assert "without --resume" in str(caught.value.help)
    assert len(caught.value.message) < 1000
    assert (loop.progress, int(loop.count.sum())) == (CountingLoop(folder).progress, 0), "nothing was taken over"


@pytest.mark.parametrize("name", ["a list", "epoch 10**9", "a flipped bit"])
def test_nothing_is_published_from_a_crafted_checkpoint(tmp_path: Path, name: str) -> None:
    options = {"checkpoint_seconds": 0.0, "evaluate_every": 1}
    with workspace(tmp_path) as w:
        with pytest.raises(Stopped):
            create_model(w, request(**options), emit=stop_at("1-2"))
        run = list_runs(w.folder)[0]["run"]
        CORPUS[name][0](w.folder / "runs" / run / "checkpoints")
        with pytest.raises(ArtifactError, match="cannot be used"):
            create_model(w, request(**options), emit=silent, resume=run)
        assert not ArtifactStore(w.folder).exists("m")
        (row,) = list_runs(w.folder)
        assert row["status"] == "failed"
        assert "the checkpoint" in row["message"]


# failures while saving


def saver(folder: Path) -> Saver:
    made = Saver(folder, "run-1", "job-1")
    made.begin(CountingLoop(folder).state())
    return made


def save(folder: Path, step: int, size: int = 3) -> None:
    """Save a checkpoint of a step, as the loop does."""
    loop = CountingLoop(folder, size=size)
    loop.progress.step = loop.progress.total_steps = step
    loop.count += step
    made = saver(folder)
    made.keep_best(0, loop.weights())
    made.save(loop.progress.to_json(), loop.state)
    made.wait()


def test_a_kill_at_any_moment_leaves_a_checkpoint(tmp_path: Path) -> None:
    folder, step, killed = tmp_path / "c", 0, True
    save(folder, 1)
    seen = set()
    while killed:
        step += 1
        killed = die_at(step, lambda: save(folder, 2))
        found = checkpoint.newest(folder, "run-1", "job-1")
        assert found is not None
        like = CountingLoop(folder)
        number = found.step
        assert found.state(like.state())["count"].tolist() == [[number] * 2] * 3
        assert found.best(like.weights())["count"].tolist() == [[number] * 2] * 3
        if number == 2:
            seen.add(step)
            shutil.rmtree(folder)
            save(folder, 1)
    assert step > 10
    assert len(seen) < step
    save(folder, 3)
    assert sorted(p.name for p in folder.iterdir()) == [".best-0.safetensors", "0-3"], "no leftovers"


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "c", 1, size=1000)
    with limited_file_size(4096), pytest.raises(WorkspaceError, match="disk is full"):
        save(tmp_path / "c", 2, size=1000)
    assert checkpoint.newest(tmp_path / "c", "run-1", "job-1").step == 1  # type: ignore[union-attr]


def test_without_hard_links_the_best_weights_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    stopped(tmp_path / "c")
    resumed = CountingLoop(tmp_path / "c")
    assert resumed.resume()
    resumed.fit()
    assert resumed.count.tolist() == [[8.0, 8.0]] * 3


def test_best_weights_that_changed_while_training_are_refused(tmp_path: Path) -> None:
    def tamper(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and Path(event.path).name == "2-3":
            (best,) = (tmp_path / "c").glob(".best-*")
            best.unlink()
            save_file({"count": torch.zeros(3, 2, dtype=torch.float16)}, best)

    with pytest.raises(ArtifactError, match="'count' is float16"):
        CountingLoop(tmp_path / "c", emit=tamper, options=CountingOptions(epochs=4), scores=(1, 3, 2, 2)).fit()


def test_a_removed_run_folder_is_one_error_and_is_not_made_again(tmp_path: Path) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.step == 2:
            shutil.rmtree(tmp_path / "run")

    (tmp_path / "run").mkdir()
    with pytest.raises(WorkspaceError, match="the folder of the run was removed while it was running"):
        CountingLoop(tmp_path / "run" / "checkpoints", emit=remove).fit()
    assert not (tmp_path / "run").exists()
