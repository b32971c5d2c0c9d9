"""The picture of a run: correct curves and a map of entities, for finished, running and empty runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from graphlearn import report
from graphlearn.errors import UserError
from graphlearn.events import Evaluated, Event, JobFinished, JobStarted, Step, silent
from graphlearn.jobs import drawing
from graphlearn.jobs.kge import picture
from graphlearn.jobs.kge.metrics import TABLE
from graphlearn.models.core.ranks import METRICS
from graphlearn.storage.files import write_json
from graphlearn.storage.runs import RunFolder
from graphlearn.storage.triples.ingest import encode_triples
from graphlearn.storage.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n"


def step(epoch: int, number: int, loss: float) -> Step:
    return Step(
        epoch=epoch,
        epochs=2,
        step=number,
        steps=10,
        loss=loss,
        examples_per_second=100.0,
        eta_seconds=1.0,
        unit="triples",
    )


def a_run(tmp_path: Path, events: list[Event]) -> Path:
    with RunFolder.create(tmp_path, "m", "CREATE MODEL m …", {}) as run:
        for event in events:
            run.append(event)
    return run.path


EVENTS: list[Event] = [
    JobStarted(run="r", model="m", family="complex", folder="", options={}),
    step(1, 5, 8.0),
    step(1, 10, 4.0),
    Evaluated(epoch=1, split="valid", metrics={"mrr": 0.2}),
    step(2, 10, 3.0),
    step(2, 10, 2.0),  # a resumed run took it again
    Evaluated(epoch=2, split="valid", metrics={"mrr": 0.3}, best=True),
    Evaluated(epoch=0, split="valid", metrics={"mrr": 0.3}),
    Evaluated(epoch=0, split="test", metrics={"mrr": 0.25}),
    JobFinished(run="r", model="m", status="done", seconds=4.0, version=1, metrics={"mrr": 0.25}),
]


def test_history(tmp_path: Path) -> None:
    history = drawing.read_history(a_run(tmp_path, EVENTS))
    assert history.loss == [(0.5, 8.0), (1.0, 4.0), (2.0, 2.0)]
    assert history.valid["mrr"] == [(1, 0.2), (2, 0.3)], "the final evaluation belongs to no epoch"
    assert history.final == {"mrr": 0.25}
    assert (history.model, history.family, history.status, history.speed) == ("m", "complex", "done", 100.0)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The files of a stored version: a star of integers, and awkward keys."""
    folder = tmp_path / "version"
    folder.mkdir()
    rows = [f"('$x_{i}$', 'knows', 'hub')" for i in range(30)] + [
        "('line' || chr(10) || 'break', 'says', '日本語')",
        "('" + "a.very." * 12 + "long.name', 'says', 'a long text with spaces that goes on and on and on')",
    ]
    with Workspace.open() as workspace:
        sql = f"SELECT head, relation, tail, 'train' AS split FROM (VALUES {', '.join(rows)}) t(head, relation, tail)"
        encoded = encode_triples(workspace.cursor(), sql, emit=silent)
        encoded.write(folder)
        vectors = np.random.default_rng(0).normal(size=(encoded.n_entities, 6)).astype(np.float32)
        encoded.close()
    save_file({"entities": vectors}, folder / "weights.safetensors")
    write_json(folder / "manifest.json", {"verdict": "complex loses to a baseline, $rules$: by a lot"})
    figures = {"split": "test", "side": "both", **dict.fromkeys(METRICS, 0.4)}
    rows = [
        {"method": method, "relation": r, "count": 50 + 20 * r, **figures}
        for method in ("complex", "rules", "popularity")
        for r in (-1, 0, 1)
    ]
    TABLE.write(folder, rows, "by hand")
    return folder


def test_the_map_takes_the_best_connected(version: Path) -> None:
    found = picture.read_map(version, points=3)
    assert "hub" in found.labels
    assert found.vectors.shape == (3, 6)
    hub = found.labels.index("hub")
    assert found.groups[hub] == "tail of knows"
    assert found.degrees[hub] == 30


def test_map_rows_are_the_rows_of_the_labels(version: Path) -> None:
    from safetensors.numpy import load_file

    from graphlearn.storage.dictionary import Dictionary

    keys = Dictionary(version / "entities.parquet").keys.to_pylist()
    vectors = load_file(version / "weights.safetensors")["entities"]
    found = picture.read_map(version)
    assert len(found.labels) == len(keys)
    for label, vector in zip(found.labels, found.vectors, strict=True):
        np.testing.assert_array_equal(vector, vectors[keys.index(label)])


def test_principal_components() -> None:
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(50, 2)).astype(np.float32) @ rng.normal(size=(2, 8)).astype(np.float32) + 5
    flat, share = drawing.principal(plane)
    assert flat.shape == (50, 2)
    assert share == pytest.approx(1.0)
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(flat[:, None] - flat[None], axis=2), distances, atol=1e-3)
    same, all_of_it = drawing.principal(np.ones((4, 1), np.float32))
    assert same.shape == (4, 2)
    assert all_of_it == 1.0


@pytest.mark.filterwarnings("error")
def test_draws_a_png(tmp_path: Path, version: Path) -> None:
    pytest.importorskip("matplotlib")
    run = a_run(tmp_path, EVENTS)
    path = report.draw_report(run, version)
    assert path == run / "report.png"
    assert path.read_bytes().startswith(PNG)
    assert not list(run.glob(".*.part")), "the picture appears whole"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_draws_a_run_that_has_not_ended(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    assert report.draw_report(a_run(tmp_path, EVENTS[:count])).read_bytes().startswith(PNG)


def test_a_run_without_events(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no events"):
        drawing.read_history(a_run(tmp_path, []))


def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "can_draw", lambda: False)
    with pytest.raises(UserError, match="matplotlib") as caught:
        report.draw_report(tmp_path)
    assert "graphlearn[plot]" in str(caught.value.help)
