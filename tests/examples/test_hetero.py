"""The example jobs on graphs run, on small data with the same columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from cases import paths
from cases.paths import ROOT

import graphlearn
from graphlearn.events import silent

EXAMPLES = ROOT / "examples"
DATA = paths.DATA / "hetero"
SMALL = {"epochs": "2", "hidden": "8"}

TABLES = {
    "acm": {
        "paper": "SELECT i AS paper, i % 3 AS subject_area, [i % 3, 3 + i % 5]::INTEGER[] AS words, "
        "['train', 'valid', 'test'][1 + i // 3 % 3] AS split_20 FROM range(60) t(i)",
        "author": "SELECT i AS author, [i % 4]::INTEGER[] AS words FROM range(70) t(i)",
        "writes": "SELECT i AS paper, 10 + i AS author FROM range(60) t(i)",
        "about": "SELECT i AS paper, i % 5 AS subject FROM range(60) t(i)",
    },
    "imdb": {
        "movie": "SELECT i AS movie, 'title ' || i AS title, ['Action', 'Drama'][1 + i % 2] AS genre, "
        "'word|two words|k' || i % 4 AS plot_keywords, ['train', 'valid', 'test'][1 + i // 2 % 3] AS split "
        "FROM range(60) t(i)",
        "directs": "SELECT i AS movie, 'director ' || i % 9 AS director FROM range(60) t(i)",
        "plays": "SELECT i AS movie, 'actor ' || i % 7 AS actor FROM range(60) t(i)",
    },
}
FUNCTION, CLASS = "'m' || i % 3 || '.someName_' || i", "'m' || i % 3 || '.Class' || i"
FACTS = f"""
SELECT 'm' || i % 3 AS head, 'defines_function' AS relation, {FUNCTION} AS tail FROM range(60) t(i)
UNION ALL SELECT 'm' || i % 3, 'defines_class', {CLASS} FROM range(9) t(i)
UNION ALL SELECT {FUNCTION}, 'has_parameter', 'p' || i % 4 || '=' FROM range(60) t(i)
UNION ALL SELECT {FUNCTION}, 'calls', 'm' || i % 3 || '.someName_' || (i + 3) FROM range(57) t(i)
UNION ALL SELECT {FUNCTION}, 'raises', 'm' || i % 3 || '.Class' || i % 9 FROM range(60) t(i)
UNION ALL SELECT {CLASS}, 'inherits', 'm' || i % 3 || '.Class' || (i + 3) FROM range(6) t(i)
"""


@pytest.mark.parametrize("name", TABLES)
def test_examples_over_shared_data_run(tmp_path: Path, name: str) -> None:
    for table, query in TABLES[name].items():
        duckdb.sql(f"COPY ({query}) TO '{tmp_path / table}.parquet'")
    shown: list[list[tuple[Any, ...]]] = []

    def show(_: object, result: object) -> None:
        if isinstance(result, duckdb.DuckDBPyRelation):
            shown.append(result.fetchall())

    with graphlearn.connect(emit=silent) as session:
        (made,) = session.run_file(EXAMPLES / f"{name}.sql", overrides={"path": str(tmp_path), **SMALL}, show=show)
    assert 0 <= made.metrics["macro_f1"] <= 1
    queries = [rows for rows in shown if rows and len(rows[0]) > 1]
    measured, explained = queries[0], queries[-1]
    assert len({row[:2] for row in measured}) == len(measured)  # a row for each method and split
    assert None not in {value for row in (*measured, *explained) for value in row}
    assert {row[0] for row in explained} <= {"network", "linear"}


def test_the_example_of_packages_runs(tmp_path: Path) -> None:
    duckdb.sql(f"COPY ({FACTS}) TO '{tmp_path / 'facts.parquet'}'")
    with graphlearn.connect(emit=silent) as session:
        overrides = {"path": str(tmp_path / "facts.parquet"), **SMALL}
        (made,) = session.run_file(EXAMPLES / "python_packages.sql", overrides=overrides)
    assert made.counts["nodes"] == 69
    assert made.counts["graph"]["edges"]["uses"]["edges"] == 60


@pytest.mark.parametrize("name", TABLES)
def test_jobs_over_shared_data_can_start(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the data of examples/{name}.sql is not in {DATA}")
    with graphlearn.connect(emit=silent) as session:
        planned = session.plan_file(EXAMPLES / f"{name}.sql", overrides={"path": str(DATA / name)})
    assert [p.family for p in planned] == ["dhan"]
