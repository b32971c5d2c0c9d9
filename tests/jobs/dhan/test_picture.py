"""Pictures, lists and exports of graph models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphlearn.cli import main
from graphlearn.events import silent
from graphlearn.jobs.dhan.stored import read_stored
from graphlearn.report import draw_report
from graphlearn.session import Session, connect
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.runs import list_runs

SMALL = "hidden = 8, heads = 2, epochs = 3, hops = 1"
THING = "SELECT 'é$' || i AS id, [i % 4, i % 6] AS w, {}, i / 7 AS x FROM range(60) t(i)"
NEAR = "SELECT 'é$' || i AS source, 'é$' || (i + 4) % 60 AS target, 1 + i % 2 AS weight FROM range(60) t(i)"
HUB = "SELECT 'é$' || i AS source, DATE '2024-01-01' + (i % 6)::INTEGER AS hub FROM range(60) t(i)"
MODELS = {
    "class": ("target = 'kind'", "['a_$', 'b'][1 + i % 2] AS kind"),
    "links": ("target = 'near'", "i AS y"),
    "free": ("", "i % 3 AS label"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with connect(tmp_path_factory.mktemp("graphs") / "w.duckdb", emit=silent) as session:
        for name, (options, column) in MODELS.items():
            listed = ", ".join(filter(None, [options, SMALL]))
            roles = f"thing AS ({THING.format(column)}), near AS ({NEAR}), day AS ({HUB})"
            session.sql(f"CREATE MODEL {name} TYPE dhan OPTIONS ({listed}) AS ({roles})")
        yield session


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_is_drawn(workspace: Session, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    folder = workspace.workspace.folder
    run = next(run for run in list_runs(folder) if run["model"] == name)
    version = ArtifactStore(folder).load(name).path
    for place, stored in (("whole.png", version), ("curves.png", None)):
        path = draw_report(folder / "runs" / str(run["run"]), stored, tmp_path / place)
        assert path.stat().st_size > 20_000
    read = read_stored(version)
    assert set(read.relations) <= {"near", "near, backwards", "day", "similar thing"}
    assert sum(read.relations.values()) == pytest.approx(1, abs=1e-3)
    assert read.map.vectors.shape[1] == 8
    assert (name == "links") == (set(read.map.groups) == {""}) == (read.map.links is not None)
    if name == "class":
        assert read.confusion is not None
        assert read.confusion.sum() == 12
        rows = [row for row in read.rows if (row["method"], row["split"]) == ("dhan", "test") and row["class"]]
        by_class = {row["class"]: (row["count"], row["recall"]) for row in rows}
        for i, key in enumerate(read.classes):
            count, recall = by_class[key]
            assert read.confusion[i].sum() == count
            assert read.confusion[i, i] == pytest.approx(recall * count)


def command(workspace: Session, *arguments: str) -> str:
    path = workspace.workspace.folder.with_suffix(".duckdb")
    done = CliRunner().invoke(main, [*arguments, "--workspace", str(path)])
    assert done.exit_code == 0, done.output
    return done.output


def test_lists_show_graph_models(workspace: Session) -> None:
    models = command(workspace, "models")
    assert "learns" in models
    assert "macro-F1" in models
    assert "NMI" in models
    shown = command(workspace, "show", "class")
    assert "kind of thing, 2 classes: 36 train, 12 valid, 12 test" in shown
    assert "thing: 60 nodes, 7 features" in shown
    assert "day: 60 edges through 6 hubs (as pairs: 600)" in shown
    assert "majority" in shown
    links = command(workspace, "show", "links")
    assert "links of near: 36 train, 12 valid, 12 test" in links
    assert "NDCG@10" in links
    assert "embeddings from links alone" in command(workspace, "show", "free")
    runs = command(workspace, "runs")
    assert "nodes" in runs
    assert "macro-F1" in runs
