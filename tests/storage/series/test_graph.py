"""Graphs of a mode: edge tables with the user's keys, and graphs computed from values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pytest

from graphlearn.errors import InputError
from graphlearn.events import Event, Note, silent
from graphlearn.models.net3.data import graphs as series_graphs
from graphlearn.models.net3.data.graphs import BuiltGraph, chain, identity, pearson
from graphlearn.storage.series.graph import encode_mode_graph
from graphlearn.storage.series.ingest import Mode, encode_series


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"threads": 1})
    yield connection
    connection.close()


def mode(cursor: duckdb.DuckDBPyConnection, keys: str) -> Mode:
    """A mode "site" with these keys, written as rows of VALUES."""
    sql = f"SELECT i AS ts, site, 1 AS v FROM range(2) t(i), (VALUES {keys}) s(site)"
    return encode_series(cursor, sql, time="ts", modes=["site"], value="v", emit=silent).modes[0]


def test_edges_and_counts(cursor: duckdb.DuckDBPyConnection) -> None:
    events: list[Event] = []
    sites = mode(cursor, "('a'), ('b'), ('c'), ('d')")
    rows = (
        "('b','a',1.5), ('a','b',1), ('a','b',2), ('c','c',0), ('a','x',9), ('y','x',9), (NULL,'a',1), ('a','b',NULL)"
    )
    found = encode_mode_graph(
        cursor, f"SELECT * FROM (VALUES {rows}) t(Source, TARGET, weight);", sites, emit=events.append
    )
    assert (found.source.tolist(), found.target.tolist()) == ([0, 1, 2], [1, 0, 2])
    assert found.weight.tolist() == [3, 1.5, 0]
    assert (found.source.dtype, found.target.dtype, found.weight.dtype) == (np.int64, np.int64, np.float32)
    assert found.report.to_json() == {
        "mode": "site",
        "rows": 8,
        "null_rows": 2,
        "unknown_rows": 2,
        "unknown_keys": 2,
        "duplicate_rows": 1,
        "edges": 3,
        "self_loops": 1,
        "missing_nodes": 1,
    }
    assert found.report.line() == "graph of site: 3 edges from 8 rows"
    assert [(e.message, e.level) for e in events if isinstance(e, Note)] == [
        ("graph of site: dropped 2 edges with a NULL source, target or weight", "warning"),
        ("graph of site: dropped 2 edges with 2 keys that the series lacks", "warning"),
        ("graph of site: added 1 edge to others with the same ends", "info"),
        ("graph of site: kept 1 self-loop: source and target are the same", "info"),
        ("graph of site: 1 key of the series without an edge", "warning"),
    ]
    assert cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("keys", "edge"),
    [
        ("(1::SMALLINT), (2)", "1::BIGINT, 2::TINYINT"),
        ("(1::HUGEINT), (2)", "1, 2"),
        ("('a'), ('b')", "'a'::ENUM('a', 'z'), 'b'"),
        ("(1.50::DECIMAL(9,2)), (2)", "1.5::DECIMAL(3,1), 2.000::DECIMAL(9,3)"),
        ("(-0.0::DOUBLE), (0.5)", "0.0::FLOAT, 0.5::DOUBLE"),
        ("({'x': 1}), ({'x': 2})", "{'x': 1}, {'x': 2}"),
        (
            "(TIMESTAMPTZ '2024-01-01'), (TIMESTAMPTZ '2025-01-01')",
            "TIMESTAMPTZ '2024-01-01', TIMESTAMPTZ '2025-01-01'",
        ),
        ("(TIMETZ '10:00:00+02'), (TIMETZ '11:00:00+02')", "TIMETZ '10:00:00+02', TIMETZ '11:00:00+02'"),
    ],
)
def test_keys_of_the_same_kind_match(cursor: duckdb.DuckDBPyConnection, keys: str, edge: str) -> None:
    source, target = edge.rsplit(", ", 1)
    found = encode_mode_graph(cursor, f"SELECT {source} AS source, {target} AS target", mode(cursor, keys), emit=silent)
    assert (found.source.tolist(), found.target.tolist(), found.weight.tolist()) == ([0], [1], [1])


def test_case_counts_in_keys_whatever_the_collation(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("SET default_collation = 'nocase'")
    found = encode_mode_graph(cursor, "SELECT 'A' AS source, 'a' AS target", mode(cursor, "('a'), ('A')"), emit=silent)
    assert (found.source.tolist(), found.target.tolist()) == ([0], [1])


BAD: dict[str, tuple[str, str, str]] = {
    "no target": ("SELECT 'a' AS source, 'b' AS targets", 'graph site has no column "target"', "targets AS target"),
    "extra": ("SELECT 'a' AS source, 'b' AS target, 1 AS w", "not used: w", "weight"),
    "other keys": (
        "SELECT 1 AS source, 2 AS target",
        "source of the graph site is INTEGER, but the series has VARCHAR",
        "source::VARCHAR",
    ),
    "text weight": (
        "SELECT 'a' AS source, 'b' AS target, 'x' AS weight",
        "weight of the graph site is VARCHAR",
        "weight::DOUBLE",
    ),
    "negative": (
        "SELECT 'a' AS source, 'b' AS target, -1.5 AS weight",
        r"1 weight below 0 or not finite: \('a', 'b', -1.5\)",
        "abs",
    ),
    "infinite": (
        "SELECT 'a' AS source, 'b' AS target, unnest(['inf'::DOUBLE, 'nan']) AS weight",
        "2 weights below 0",
        "abs",
    ),
    "large": ("SELECT 'a' AS source, 'b' AS target, 1e39 AS weight", "beyond what float32", "divide"),
    "no rows": ("SELECT 'a' AS source, 'b' AS target WHERE false", "has no rows", "query"),
    "only NULL": ("SELECT NULL::VARCHAR AS source, 'b' AS target", "a NULL in every row", "query"),
    "strangers": (
        "SELECT 'A' AS source, 'B' AS target",
        "no edge of the graph site joins two keys",
        "like 'A', 'B', the series like 'a', 'b'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_graphs(cursor: duckdb.DuckDBPyConnection, name: str) -> None:
    sql, message, help = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        encode_mode_graph(cursor, sql, mode(cursor, "('a'), ('b')"), emit=silent)
    assert help in (error.value.help or "")
    assert error.value.role == "site"
    assert cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall() == [(0,)]


# --- from values --------------------------------------------------------------------------------------------------


def dense(graph: BuiltGraph, n: int) -> np.ndarray[Any, Any]:
    assert np.array_equal(np.lexsort((graph.target, graph.source)), np.arange(len(graph.source)))
    found = np.zeros((n, n))
    np.add.at(found, (graph.source, graph.target), graph.weight)
    return found


def test_identity_and_chain() -> None:
    assert np.array_equal(dense(identity(4), 4), np.eye(4))
    assert np.array_equal(dense(chain(4), 4), np.eye(4, k=1) + np.eye(4, k=-1))
    assert len(chain(1).source) == 0


def slow_pearson(values: np.ndarray[Any, Any], mode: int) -> np.ndarray[Any, Any]:
    """For each pair, standardise every series and pool the cells that both nodes have."""
    values = values.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z = (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)
    nodes = [
        np.take(np.where(np.isfinite(z) | np.isnan(values), z, 0), i, axis=1 + mode).ravel()
        for i in range(values.shape[1 + mode])
    ]
    found = np.zeros((len(nodes), len(nodes)))
    for i, a in enumerate(nodes):
        for j, b in enumerate(nodes):
            both = ~np.isnan(a) & ~np.isnan(b)
            if i != j and both.sum() >= 3 and a[both].std() > 1e-9 and b[both].std() > 1e-9:
                found[i, j] = np.corrcoef(a[both], b[both])[0, 1]
    return found


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("block", [1, 1 << 10])
def test_pearson_equals_a_plain_loop(monkeypatch: pytest.MonkeyPatch, mode: int, block: int) -> None:
    monkeypatch.setattr(series_graphs, "_ROWS", 2 if block == 1 else block)
    monkeypatch.setattr(series_graphs, "_CELLS", 40 if block == 1 else 1 << 22)
    chance = np.random.default_rng(0)
    common = chance.normal(size=(60, 1, 1))
    values = (common * chance.normal(size=(1, 5, 4)) + chance.normal(size=(60, 5, 4)) + 1000).astype(np.float32)
    values[chance.random(values.shape) < 0.3] = np.nan
    values[:, 2, 1] = 7
    values[:, 3, 2] = np.nan
    expected = slow_pearson(values[:40], mode)
    n = values.shape[1 + mode]
    train = slice(0, 40)
    found = pearson(values, mode, train)
    assert dense(found, n) == pytest.approx(np.where(expected > 0, expected, 0), abs=1e-5)
    values[40:] = chance.normal(size=values[40:].shape)  # values after the train split have no effect
    assert np.array_equal(pearson(values, mode, train).weight, found.weight)
    strong = np.abs(expected) > 0.2
    assert dense(pearson(values, mode, train, threshold=0.2, absolute=True), n) == pytest.approx(
        np.where(strong, np.abs(expected), 0), abs=1e-5
    )
    one = dense(pearson(values, mode, train, top_k=1), n)
    best = np.zeros((n, n))
    for i in range(n):
        j = expected[i].argmax()
        best[i, j] = best[j, i] = max(expected[i, j], 0)
    assert one == pytest.approx(best, abs=1e-5)


def test_pearson_of_nothing() -> None:
    empty = np.full((10, 3), np.nan, np.float32)
    assert len(pearson(empty, 0, slice(0, 10)).source) == 0
    assert len(pearson(np.ones((10, 3), np.float32), 0, slice(0, 10)).source) == 0
    assert len(pearson(np.arange(10, dtype=np.float32)[:, None], 0, slice(0, 10)).source) == 0
    for options in ({"threshold": 1.0}, {"threshold": -0.1}, {"top_k": 0}):
        with pytest.raises(ValueError, match="must be"):
            pearson(empty, 0, slice(0, 10), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="training range is empty"):
        pearson(empty, 0, slice(0, 0))
