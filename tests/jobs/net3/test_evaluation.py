"""What a run of TYPE net3 reports about its quality: baselines, intervals, verdicts, coverage, single series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphlearn.errors import OptionError
from graphlearn.events import Event, Note, PhaseAdvanced, PhaseStarted, silent
from graphlearn.session import Session, connect

SMALL = "epochs = 2, window = 3, dim = 3, core_limit = 3, learnt_rank = 2, threads = 1"
TABLES = """
CREATE TABLE readings AS
SELECT TIMESTAMP '2024-01-01' + to_hours(t) AS ts, 's' || s AS site,
       CASE WHEN hash(t, s) % 20 > 0
            THEN greatest(0, round(3 * s * (1 + sin(t * 0.26 + s)) + hash(t, s, 1) % 3 - 1)) END AS n
FROM range(300) a(t), range(5) b(s);
CREATE TABLE follows AS
WITH RECURSIVE v(t, a, b, c) AS (
  SELECT 0, 0.0, 0.0, 0.0
  UNION ALL
  SELECT t + 1, 0.9 * c + (hash(t, 1) % 1000) / 2000.0 - 0.25, 0.9 * a + (hash(t, 2) % 1000) / 2000.0 - 0.25,
         0.9 * b + (hash(t, 3) % 1000) / 2000.0 - 0.25
  FROM v WHERE t < 400
)
UNPIVOT (SELECT t AS ts, a, b, c FROM v) ON a, b, c INTO NAME k VALUE value;
"""


def rows(session: Session, sql: str) -> list[tuple[Any, ...]]:
    return session.sql(sql).fetchall()  # type: ignore[union-attr]


def create(options: str = "", query: str = "FROM readings", name: str = "m") -> str:
    limit = "" if "baseline" in options else "baseline_share = 0"
    listed = ", ".join(filter(None, [SMALL, limit, options]))
    return f"CREATE OR REPLACE MODEL {name} TYPE net3 OPTIONS ({listed}) AS {query}"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with connect(tmp_path / "w.duckdb", emit=silent) as opened:
        opened.connection.execute(TABLES)
        yield opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, list[Event]]]:
    heard: list[Event] = []
    with connect(tmp_path_factory.mktemp("net3") / "w.duckdb", emit=heard.append) as opened:
        opened.connection.execute(TABLES)
        opened.sql(create("horizon = 2", name="ahead"))
        opened.sql(create("task = 'recover', window = 1", name="filled").replace("window = 3, ", ""))
        yield opened, heard


def notes(heard: list[Event]) -> list[str]:
    return [event.message for event in heard if isinstance(event, Note)]


def test_rmse_has_an_interval_for_every_method_step_and_split(trained: tuple[Session, list[Event]]) -> None:
    session, _ = trained
    for model in ("ahead", "filled"):
        for name in ("rmse", "z_rmse"):
            wrong = f"{name}_low IS NULL OR NOT {name}_low <= {name} OR NOT {name} <= {name}_high"
            assert rows(session, f"SELECT count(*) FROM evaluate('{model}') WHERE {wrong}") == [(0,)]
    metrics = rows(session, "SELECT rmse, rmse_low, rmse_high FROM models WHERE model = 'ahead'")[0]
    assert metrics[1] < metrics[0] < metrics[2]


def test_the_coverage_is_near_the_nominal_level(trained: tuple[Session, list[Event]]) -> None:
    session, _ = trained
    found = rows(session, "SELECT coverage_80, coverage_90, coverage_95 FROM evaluate('ahead') WHERE coverage_80 > 0")
    assert len(found) == 3, "of each step and of all steps, for the model on the test split"
    np.testing.assert_allclose(found, [[0.8, 0.9, 0.95]] * 3, atol=0.08)
    recovered = rows(
        session, "SELECT coverage_80, coverage_90, coverage_95 FROM evaluate('filled') WHERE coverage_80 > 0"
    )
    np.testing.assert_allclose(recovered, [[0.8, 0.9, 0.95]], atol=0.12)


def test_the_coverage_equals_that_computed_in_sql(session: Session) -> None:
    """Every test cell is compared with the interval that forecast() gave before the targets of its window."""
    session.sql(create("horizon = 2, split = [0.8, 0.17, 0.03]"))
    end = "TIMESTAMP '2024-01-01' + to_hours({})"
    union = " UNION ALL ".join(f"FROM forecast('m', at := {end.format(t - 1)})" for t in range(291, 299))
    joined = f"({union}) f JOIN readings r USING (ts, site) WHERE r.n IS NOT NULL"
    inside = rows(session, f"SELECT avg((r.n BETWEEN lower AND upper)::INT), count(*) FROM {joined}")
    stored = "SELECT coverage_90, cells FROM evaluate('m') WHERE method = 'net3' AND split = 'test' AND step IS NULL"
    np.testing.assert_allclose(inside, rows(session, stored))


def test_counts_are_never_below_zero(trained: tuple[Session, list[Event]]) -> None:
    session, _ = trained
    union = " UNION ALL ".join(
        f"SELECT * EXCLUDE (step) FROM forecast('ahead', at := TIMESTAMP '2024-01-01' + to_hours({t}), horizon := 5)"
        for t in range(250, 300, 16)
    )
    assert rows(session, f"SELECT min(n) >= 0, min(lower) = 0 FROM ({union})") == [(True, True)]
    assert rows(session, "SELECT min(n) >= 0, min(lower) = 0 FROM recover('filled', every := true)") == [(True, True)]
    session.sql(create(query="SELECT * REPLACE (n - 3 AS n) FROM readings", name="signed"))
    assert rows(session, "SELECT min(lower) < -0.5 FROM forecast('signed')") == [(True,)]


def test_the_errors_of_each_series(trained: tuple[Session, list[Event]]) -> None:
    session, heard = trained
    total = "SELECT sqrt(sum(rmse ** 2 * cells) / sum(cells)), sum(cells) FROM evaluate('ahead', by := 'series')"
    stored = "SELECT rmse, cells FROM evaluate('ahead') WHERE step IS NULL AND split = 'test' AND method = "
    methods = rows(session, "SELECT DISTINCT method FROM evaluate('ahead', by := 'series') ORDER BY method = 'net3'")
    assert [method for (method,) in methods][-1] == "net3"
    assert len(methods) == 2, "the model and its best baseline"
    for (method,) in methods:
        by_series = rows(session, f"{total} WHERE method = '{method}'")
        np.testing.assert_allclose(by_series, rows(session, f"{stored} '{method}'"), rtol=1e-6)
    found = rows(session, "SELECT site, too_few, coverage_90 IS NULL, split FROM evaluate('ahead', by := 'series')")
    assert {row[0] for row in found} == {f"s{k}" for k in range(5)}
    assert {row[1] for row in found} == {False}
    assert rows(session, "SELECT DISTINCT too_few FROM evaluate('filled', by := 'series')") == [(True,)]
    assert any("5 of 5 series have fewer than 30 test readings" in note for note in notes(heard))
    with pytest.raises(OptionError, match="by must be 'step' or 'series'"):
        session.sql("FROM evaluate('ahead', by := 'site')")


def test_a_var_is_among_the_baselines_and_beats_the_linear_ar(session: Session) -> None:
    session.sql(create("time = 'ts', epochs = 1", "FROM follows").replace("epochs = 2, ", ""))
    found = dict(rows(session, "SELECT method, z_rmse FROM evaluate('m') WHERE split = 'test'"))
    assert found["VAR"] < 0.7 * found["linear AR"]
    assert found["VAR"] < 0.7 * found["seasonal AR"]
    assert "VAR" in rows(session, "SELECT verdict FROM models")[0][0]


def test_baselines_run_after_the_training_and_report_progress(trained: tuple[Session, list[Event]]) -> None:
    _, heard = trained
    phases = [event.phase for event in heard if isinstance(event, PhaseStarted)]
    assert phases[3:7] == ["prepare", "train", "baselines", "evaluate"]
    for phase in ("prepare", "baselines"):
        totals = [event.total for event in heard if isinstance(event, PhaseStarted) and event.phase == phase]
        done = [event.done for event in heard if isinstance(event, PhaseAdvanced) and event.phase == phase]
        assert done == [n for total in totals for n in range(1, (total or 0) + 1)]
        assert min(total or 0 for total in totals) > 3


def test_options_of_the_baselines(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []
    session._emit = heard.append
    session.sql(create("baselines = false"))
    assert rows(session, "SELECT DISTINCT method FROM evaluate('m')") == [("net3",)]
    assert rows(session, "SELECT coalesce(verdict, '') FROM models") == [("",)]
    assert "baselines" not in {row[0] for row in rows(session, "EXPLAIN " + create("baselines = false"))}
    from graphlearn.jobs import budget

    assert not any("to save time" in note for note in notes(heard))
    monkeypatch.setattr(budget, "LEAST", 0.0)
    session.sql(create("baseline_share = 1e-9"))
    assert {m for (m,) in rows(session, "SELECT DISTINCT method FROM evaluate('m')")} == {"net3", "last value"}
    cut = next(note for note in notes(heard) if "to save time" in note)
    assert "VAR was left out" in cut
    session.sql(create("baseline_share = 0"))
    methods = {m for (m,) in rows(session, "SELECT DISTINCT method FROM evaluate('m')")}
    assert methods > {"net3", "last value", "linear AR", "seasonal AR", "VAR"}


def test_a_baseline_is_tuned_on_the_validation_split(session: Session) -> None:
    """Its figures do not depend on the epochs of the model."""
    found = []
    for epochs in (1, 3):
        session.sql(create(f"epochs = {epochs}, baseline_share = 0").replace("epochs = 2, ", ""))
        found.append(
            rows(session, "SELECT * EXCLUDE (protocol) FROM evaluate('m') WHERE method <> 'net3' ORDER BY ALL")
        )
    assert found[0] == found[1]


def test_the_seasonal_ar_is_what_the_network_starts_from(session: Session) -> None:
    from graphlearn.jobs.budget import Budget
    from graphlearn.jobs.net3.baselines import BaselineRun
    from graphlearn.jobs.net3.calendar import make_calendar
    from graphlearn.models.net3.options import Net3Options
    from graphlearn.models.net3.training.make import make_training
    from graphlearn.storage.series.axis import Freq, TimeAxis
    from graphlearn.types import Split

    axis = TimeAxis(type="TIMESTAMP", freq=Freq(ticks=3_600_000_000), start=0, steps=300)
    x = np.random.default_rng(0).normal(size=(300, 4)).cumsum(axis=0).astype(np.float32)
    x[::7, 1] = np.nan
    training = make_training(x, {}, Net3Options(window=4, horizon=2, dim=2), make_calendar(axis, 240, 10))
    before = training.evaluate(Split.TEST).total
    for step in range(3):
        training.step(0, step)
    assert training.evaluate(Split.TEST).total != before
    label, found = BaselineRun(training, axis, Budget.unlimited()).seasonal_ar()
    assert label == "seasonal AR"
    assert found[Split.TEST].total["z_rmse"] == pytest.approx(before["z_rmse"], rel=1e-5)
