"""The display of a time series model: its picture, and its lines in lists, system tables and messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import graphlearn
from graphlearn import cli, report
from graphlearn.events import Evaluated, Event, JobFinished, JobStarted, Step, silent
from graphlearn.jobs.drawing import below, new_figure, read_history
from graphlearn.jobs.metrics import HITS_AT_10, MRR, metrics_line
from graphlearn.jobs.net3 import picture
from graphlearn.jobs.net3.metrics import NET3_METRICS
from graphlearn.jobs.net3.predictor import Net3Predictor
from graphlearn.jobs.request import ModelResult
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.runs import RunFolder
from graphlearn.storage.series.axis import Freq, TimeAxis
from graphlearn.text import number

PNG = b"\x89PNG\r\n\x1a\n"
JOB = """
CREATE TABLE readings AS
SELECT TIMESTAMP '2024-03-01' + INTERVAL (h) HOUR AS ts, 's$' || s || '$' AS station, k AS kind,
       CASE WHEN h % 11 = s THEN NULL ELSE 10 * s + sin(h / 4 + s) + cos(h * (s + 2)) END AS value
FROM range(90) t(h), range(3) u(s), (VALUES ('heat'), ('wind')) v(k);
CREATE MODEL ahead TYPE net3
  OPTIONS (window = 4, horizon = 2, dim = 2, epochs = 2, threads = 1, graphs = {'kind': 'chain'})
  AS (series AS (FROM readings), station AS (SELECT 's$0$' AS source, 's$1$' AS target));
CREATE MODEL filled TYPE net3 OPTIONS (task = 'recover', dim = 2, epochs = 2, threads = 1) AS FROM readings;
CREATE MODEL kg TYPE distmult OPTIONS (dim = 4, epochs = 1, negatives = 4, threads = 1)
  AS SELECT 'e' || i % 50 AS head, 'r' AS relation, 'e' || i * 7 % 53 AS tail FROM range(400) t(i);
FROM forecast('ahead');
"""


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two time series models and a knowledge graph model."""
    folder = tmp_path_factory.mktemp("series")
    (folder / "job.sql").write_text(JOB)
    output = run("run", str(folder / "job.sql"), "-w", str(folder / "w.duckdb"))
    (folder / "output.txt").write_text(output)
    return folder / "w.duckdb"


def stored(home: Path, model: str) -> Path:
    return ArtifactStore(home.with_suffix(".graphlearn")).versions(model)[-1].path


# the picture


def test_every_run_has_a_picture(home: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = list(home.with_suffix(".graphlearn").glob("runs/*/report.png"))
    assert len(pictures) == 3
    assert all(path.read_bytes().startswith(PNG) for path in pictures)
    assert "could not be drawn" not in (home.parent / "output.txt").read_text()


def test_a_forecast_is_drawn_at_its_steps(home: Path) -> None:
    found = picture.read_stored(stored(home, "ahead"))
    assert (found.task, found.horizon, found.freq, found.value) == ("forecast", 2, "1 hour", "value")
    assert len(found.panels) == 4
    assert len({panel.label.split(" · ")[0] for panel in found.panels[:3]}) == 3, (
        "of each mode others, as far as it goes"
    )
    model = Net3Predictor(ArtifactStore(home.with_suffix(".graphlearn")).versions("ahead")[-1])
    labels = {picture.label_of(model.series, (i, j)): (i, j) for i in range(3) for j in range(2)}
    for panel in found.panels:
        place = labels[panel.label]
        assert panel.far is not None
        assert panel.ahead is not None
        assert panel.near.times[0] == np.datetime64("2024-03-04T09")
        assert panel.ahead.times.tolist() == [np.datetime64(f"2024-03-04T{h}", "us").item() for h in (18, 19)]
        np.testing.assert_array_equal(panel.truth.values[-20:], model.series.values[-20:, *place])
        for step, line in ((0, panel.near), (1, panel.far)):
            predicted = model.training.predict(np.array([90 - 4 - 1 - step]))[0, step]
            assert line.values[-1] == pytest.approx(predicted[place], rel=1e-4)
    panel = found.panels[0]
    station, kind = (part.split(" ", maxsplit=1)[1] for part in panel.label.split(" · "))
    asked = f"SELECT value, lower, upper FROM forecast('ahead') WHERE station = '{station}' AND kind = '{kind}'"
    with graphlearn.connect(str(home), emit=silent) as session:
        answers = session.sql(asked).fetchall()  # type: ignore[union-attr]
    assert panel.ahead is not None
    drawn = np.stack([panel.ahead.values, panel.ahead.lower, panel.ahead.upper], axis=1)  # type: ignore[list-item]
    np.testing.assert_allclose(drawn, answers, rtol=1e-4)


def test_a_recovery_shows_what_was_held_out(home: Path) -> None:
    found = picture.read_stored(stored(home, "filled"))
    held = [panel.held for panel in found.panels]
    assert all(h is not None and h.any() for h in held)
    assert all(np.isfinite(panel.near.values).all() for panel in found.panels)
    assert all(np.isfinite(p.truth.values[p.held]).all() for p in found.panels)


def test_the_longest_gap() -> None:
    x = np.ones((20, 2, 2), np.float32)
    assert picture.longest_gap(x) is None
    x[:6, 0, 0] = x[15:, 1, 1] = np.nan  # before the first or after the last reading: no gap
    x[5:7, 1, 0], x[9:12, 0, 1] = np.nan, np.nan
    assert picture.longest_gap(x) == ((0, 1), 9, 3)


def test_series_are_chosen_with_variety() -> None:
    values = np.random.default_rng(0).normal(size=(50, 6, 4)).astype(np.float32) * np.arange(1, 25).reshape(6, 4)
    values[:, 5] = np.nan
    chosen = picture.choose_series(values, 4)
    assert len({i for i, _ in chosen}) == len({j for _, j in chosen}) == 4
    assert 5 not in {i for i, _ in chosen}, "a series without readings is the last choice"
    assert picture.choose_series(values[:, :1, :1], 4) == [(0, 0)]
    assert len(picture.choose_series(np.full((3, 2), np.nan, np.float32), 4)) == 2


def test_times_outside_the_calendar_are_numbers() -> None:
    whole = TimeAxis(type="BIGINT", freq=Freq(ticks=5), start=7, steps=3)
    assert picture.times_of(whole, 1, 2).tolist() == [12, 17]
    far = TimeAxis(type="TIMESTAMP", freq=Freq(ticks=86_400_000_000), start=300_000_000_000_000_000, steps=3)
    assert picture.times_of(far, 1, 2).tolist() == [1, 2]


EVENTS: list[Event] = [
    JobStarted(run="r", model="m", family="net3", folder="", options={}),
    Step(
        epoch=1, epochs=1, step=1, steps=1, loss=1.0, examples_per_second=9.0, eta_seconds=0, epoch_done=True,
        unit="windows",
    ),
    Evaluated(epoch=1, split="valid", metrics={"rmse": 2.0, "z_rmse": 0.2}),
    Evaluated(epoch=0, split="test", metrics={"rmse": 3.0, "z_rmse": 0.3}),
    JobFinished(run="r", model="m", status="done", seconds=1.0, metrics={"rmse": 3.0, "z_rmse": 0.3}),
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", range(1, len(EVENTS) + 1))
def test_a_run_without_a_stored_version(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    with RunFolder.create(tmp_path, "m", "CREATE MODEL m …", {}) as run_:
        for event in EVENTS[:count]:
            run_.append(event)
    assert report.draw_report(run_.path).read_bytes().startswith(PNG)
    history = read_history(run_.path)
    assert history.valid.get("rmse", []) == ([(1, 2.0)] if count > 2 else [])
    assert history.unit == ("windows" if count > 1 else "")


ODD = {
    "one series without keys": ("SELECT h AS t, sin(h) AS value FROM range(60) r(h)", "time = 't', horizon = 1"),
    "no test split": ("SELECT h AS t, sin(h) AS value FROM range(60) r(h)", "time = 't', split = [0.8, 0.2, 0]"),
    "train split only": ("SELECT h AS t, sin(h) AS value FROM range(60) r(h)", "time = 't', split = [1, 0, 0]"),
    "constant and empty series": (
        "SELECT DATE '2024-01-01' + h::INT AS t, k, CASE k WHEN 'a' THEN 1 WHEN 'b' THEN sin(h) END AS value "
        "FROM range(60) r(h), (VALUES ('a'), ('b'), ('c')) v(k)",
        "horizon = 3",
    ),
    "recovery of one": ("SELECT h AS t, sin(h) AS value FROM range(60) r(h)", "time = 't', task = 'recover'"),
}


@pytest.mark.filterwarnings("error:.*:UserWarning")
@pytest.mark.parametrize("case", ODD)
def test_odd_series_have_a_picture(tmp_path: Path, case: str) -> None:
    pytest.importorskip("matplotlib")
    sql, options = ODD[case]
    with graphlearn.connect(str(tmp_path / "w.duckdb"), emit=silent) as session:
        made = session.sql(f"CREATE MODEL m TYPE net3 OPTIONS (dim = 2, epochs = 1, threads = 1, {options}) AS {sql}")
        assert isinstance(made, ModelResult)
        assert repr(made).startswith("model m version 1: net3")
    folder = tmp_path / "w.graphlearn"
    path = report.draw_report(folder / "runs" / str(made.run), stored(tmp_path / "w.duckdb", "m"))
    assert path.read_bytes().startswith(PNG)
    for command in (["models"], ["show", "m"], ["runs"]):
        run(*command, "-w", str(tmp_path / "w.duckdb"))


def test_lines_of_the_same_height_are_both_seen(home: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = stored(home, "ahead")
    rows = picture.read_stored(folder, panels=1)
    figure = new_figure(4, 4)
    axes = figure.add_subplot()
    picture._draw_errors(axes, rows)
    drawn = {str(line.get_label()): line for line in axes.get_lines()}
    ours = drawn.pop("net3")
    assert len(drawn) > 2
    colours = [line.get_color() for line in (ours, *drawn.values())]
    assert len(set(colours)) == len(colours)
    assert not {picture.FAR, picture.AFTER, picture.TRUTH} & set(colours)  # which the series have
    for line in drawn.values():
        assert line.get_zorder() > ours.get_zorder()
        assert line.get_linewidth() < ours.get_linewidth()
        assert line.get_linestyle() != "-"


def test_clauses_of_a_verdict_are_lines() -> None:
    assert below("") == ""
    verdict = "dhan wins (a 1 %; b 2 %); the network $decides$ (x; y: 3); " + "long " * 60
    first, one, two, *rest = below(verdict).split("\n")
    assert (first, one, two) == ("", "dhan wins (a 1 %; b 2 %)", r"the network \$decides\$ (x; y: 3)")
    assert len(rest) == 2


# listings


def test_models_and_runs_of_both_kinds(home: Path) -> None:
    text = run("models", "-w", str(home))
    for part in ("test MRR", "RMSE (z)", "best baseline", "1 hour", "forecast", "recover"):
        assert part in text
    text = run("runs", "-w", str(home))
    for part in (" windows", " triples", "RMSE ", "MRR "):
        assert part in text
    assert "windows/s" in run("runs", "--model", "ahead", "-w", str(home))
    assert "triples/s" in run("runs", "--model", "kg", "-w", str(home))


def test_show(home: Path) -> None:
    text = run("show", "ahead", "-w", str(home))
    for part in (
        "forecast, window 4, horizon 2",
        "90 steps of 1 hour x 3 station x 2 kind",
        "NULL values: not observed",
        "station: 1 edge,",
        "kind: 2 edges (chain)",
        "baseline, ",
        "MAPE (%)",
        "last value",
        "linear AR",
        "RMSE by step ahead (test split)",
    ):
        assert part in text
    assert "iterative SVD" in run("show", "filled", "-w", str(home))
    assert json.loads(run("show", "ahead", "--json", "-w", str(home)))["verdict"]


def test_system_tables(home: Path) -> None:
    with graphlearn.connect(str(home), emit=silent) as session:
        rows = session.sql(
            "SELECT model, steps, freq, series, rmse > 0, mrr IS NULL, verdict LIKE '%baseline%' FROM models ORDER BY 1"
        )
        assert rows is not None
        assert rows.fetchall()[0] == ("ahead", 90, "1 hour", 6, True, True, True)
        info = session.sql(
            "SELECT DISTINCT unit FROM training_info WHERE kind = 'epoch' AND model = 'ahead'"
        ).fetchall()
        assert info == [("windows",)]
        assert session.sql("SELECT unit, z_rmse > 0 FROM runs WHERE model = 'filled'").fetchall() == [("windows", True)]


def test_words(home: Path) -> None:
    output = (home.parent / "output.txt").read_text()
    assert "valid: RMSE " in output
    assert "windows/s" in output
    assert "test RMSE " in output
    with graphlearn.connect(str(home), emit=silent) as session:
        made = session.sql(JOB.split(";")[1].replace("CREATE", "CREATE OR REPLACE").replace("epochs = 2", "epochs = 1"))
    assert isinstance(made, ModelResult)
    assert "; test RMSE " in repr(made)
    assert made.verdict in repr(made)
    assert "<th>MAPE (%)</th>" in made._repr_html_()
    assert made.verdict in made._repr_html_().replace("&#x27;", "'")


def test_labels() -> None:
    assert metrics_line({"mrr": 0.25, "hits_at_10": 0.5}, (MRR, HITS_AT_10)) == "MRR 0.2500 · Hits@10 0.5000"
    assert metrics_line({"what": 1.0}, NET3_METRICS) == "what 1.0000"
    series = {"rmse": 12.34, "mae": 1.5, "mape": 7.25, "z_rmse": 0.5, "z_mae": 0.4, "count": 3}
    assert metrics_line(series, NET3_METRICS) == "RMSE 12.3 · MAE 1.5000 · MAPE 7.2 % · RMSE (z) 0.5000"
    assert [metric.title for metric in NET3_METRICS] == [
        *("RMSE", "MAE", "MAPE (%)", "RMSE (z)", "MAE (z)"),
        *("in 80 % interval", "in 90 % interval", "in 95 % interval"),
    ]
    assert [number(x) for x in (0.0, 0.00001, 1.0, 12345.6)] == ["0.0000", "1e-05", "1.0000", "12,345.6"]
