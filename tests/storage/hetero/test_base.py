"""Versions of a graph: ids of nodes and classes and the splits of nodes are stable. Compared with a Python oracle."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import InputError
from graphlearn.storage.hetero.edges import read_edges
from graphlearn.storage.hetero.features import feature_kinds
from graphlearn.storage.hetero.nodes import NodeTable, read_nodes
from graphlearn.storage.hetero.roles import columns_of, read_roles
from graphlearn.storage.hetero.sizes import measure_graph
from graphlearn.storage.hetero.tables import HeteroTables, read_hetero

Row = tuple[str, float | None, list[int], str | None, str | None]
PARTS = ["train", "valid", "test", None]


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2}) as connection:
        yield connection


def read(cursor: duckdb.DuckDBPyConnection, sql: str, base: NodeTable | None) -> NodeTable:
    columns = columns_of(cursor, {"n": sql})["n"]
    role = read_roles({"n": columns, "e": {"source": columns["id"], "hub": "INTEGER"}}).nodes["n"]
    return read_nodes(cursor, sql, role, feature_kinds(role, [], "label"), "label", base)


def register(cursor: duckdb.DuckDBPyConnection, rows: list[Row]) -> None:
    types = {
        "id": pa.string(),
        "x": pa.float64(),
        "w": pa.list_(pa.int32()),
        "label": pa.string(),
        "split": pa.string(),
    }
    columns = zip(*rows, strict=True)
    cursor.register("given", pa.table({n: pa.array(c, t) for (n, t), c in zip(types.items(), columns, strict=True)}))


def features(table: NodeTable) -> list[tuple[list[float], list[int]]]:
    """Dense and sparse features of every node."""
    found = table.features
    assert found is not None
    assert found.dense is not None
    assert found.indptr is not None
    assert found.indices is not None
    bags = [sorted(found.indices[a:b].tolist()) for a, b in zip(found.indptr[:-1], found.indptr[1:], strict=True)]
    return list(zip(found.dense.tolist(), bags, strict=True))


ROWS = st.tuples(
    st.sampled_from("abcdefgh"),
    st.one_of(st.none(), st.integers(-3, 3).map(float)),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(["p", "q", "r", None]),
    st.sampled_from(PARTS),
)
VERSIONS = st.lists(
    st.tuples(st.lists(ROWS, min_size=1, max_size=8, unique_by=lambda row: row[0]), st.booleans()),
    min_size=2,
    max_size=4,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VERSIONS, st.randoms(use_true_random=False))
def test_versions_keep_ids_classes_and_parts(
    cursor: duckdb.DuckDBPyConnection,
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[tuple[list[Row], bool]],
    chance: random.Random,
) -> None:
    base, ids, classes, parts = None, [], [], {}
    for rows, split in versions:
        fixed = [("y", 1.0, [0], "p", "train"), ("z", 2.0, [1], "q", "test")]  # two classes and a bag in any version
        rows = [*rows, *fixed]
        register(cursor, rows)
        query = "FROM given" if split else "SELECT * EXCLUDE (split) FROM given"
        table = read(cursor, query, base)
        fresh = read(cursor, query, None)
        there = {row[0]: row for row in rows}
        ids += sorted(set(there) - set(ids))
        classes += sorted({row[3] for row in rows if row[3] is not None} - set(classes))
        assert table.keys.dictionary.keys.to_pylist() == ids
        assert table.labels is not None
        assert table.labels.ids is not None
        assert table.labels.classes.dictionary.keys.to_pylist() == classes
        known = [there[key][3] if key in there else None for key in ids]
        assert [classes[i] if i >= 0 else None for i in table.labels.ids] == known
        at = dict(zip(sorted(there), features(fresh), strict=True))
        zeros = ([0.0] * len(at["y"][0]), [])
        assert features(table) == [at.get(key, zeros) for key in ids]
        if base is not None:
            assert table.present is not None
            assert table.present.tolist() == [key in there for key in ids]
            assert table.report.vanished == len(ids) - len(there)

        given_parts = [there[key][4] if key in there else None for key in ids]
        if split:
            expected = [
                parts.get(key, part) if key in there else None for key, part in zip(ids, given_parts, strict=True)
            ]
            assert table.split is not None
            assert [PARTS[i] for i in table.split] == expected
            assert table.report.kept_split == sum(a != b for a, b in zip(expected, given_parts, strict=True))
            drawn = table.split
        else:
            drawn = np.array([chance.choice([0, 1, 2, -1]) if key in there else -1 for key in ids], np.int8)
            kept = table.keep_parts(drawn)
            assert all(
                PARTS[k] == parts.get(key, PARTS[d]) for key, k, d in zip(ids, kept, drawn, strict=True) if d >= 0
            )
            assert (kept[drawn < 0] == -1).all()
            drawn = kept
        parts |= {key: PARTS[i] for key, i in zip(ids, drawn, strict=True) if i >= 0}

        folder = tmp_path_factory.mktemp("version")
        HeteroTables.of([table], [], {}).with_split("n", drawn).write(folder)
        chance.shuffle(rows)
        register(cursor, rows)
        again = read(cursor, query, base)
        assert again.keys.dictionary.keys.to_pylist() == ids
        assert features(again) == features(table)
        base = read_hetero(folder).nodes["n"]
        assert base.assigned is not None
        assert [PARTS[i] for i in base.assigned] == [parts.get(key) for key in ids]


def test_a_vanished_node_has_no_edges(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    nodes = "SELECT i AS id, i % 2 AS x FROM range(4) t(i)"
    edges = "SELECT i AS source, (i + 1) % 4 AS target FROM range(4) t(i)"

    def tables(sql: str, base: HeteroTables | None, unknown: str) -> HeteroTables:
        inputs = {"n": sql, "e": edges}
        roles = measure_graph(cursor, inputs, roles=read_roles(columns_of(cursor, inputs))).roles
        role = roles.nodes["n"]
        table = read_nodes(cursor, sql, role, feature_kinds(role, [], None), None, base.nodes["n"] if base else None)
        found, report = read_edges(cursor, edges, roles.edges["e"], {"n": table}, unknown)  # type: ignore[arg-type]
        return HeteroTables.of([table], found, {"e": report})

    tables(nodes, None, "error").write(tmp_path)
    base = read_hetero(tmp_path)
    fewer = f"FROM ({nodes}) WHERE id <> 1 UNION ALL SELECT 9, 0 UNION ALL SELECT 7, 1"
    with pytest.raises(InputError, match="2 edges of e refer to nodes that do not exist"):
        tables(fewer, base, "error")
    found = tables(fewer, base, "drop")
    assert found.nodes["n"].keys.dictionary.keys.to_pylist() == [0, 1, 2, 3, 7, 9]
    assert found.edges["e"].src.tolist() == [2, 3]
    assert (found.nodes["n"].report.vanished, found.nodes["n"].report.unlinked) == (1, 2)
    assert "n: 1 node of earlier versions no longer in the table: kept, but not as candidates" in [
        message for message, _ in found.report.notes()
    ]


EDGES = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(EDGES, st.booleans()), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_versions_keep_the_parts_of_edges(
    cursor: duckdb.DuckDBPyConnection,
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[tuple[set[tuple[int, int]], bool]],
    chance: random.Random,
) -> None:
    nodes = "SELECT i AS id, i AS x FROM range(6) t(i)"
    base: HeteroTables | None = None
    parts: dict[tuple[int, int], str | None] = {}
    for edges, split in versions:
        rows = [(source, target, chance.choice(PARTS)) for source, target in edges]
        columns = dict(zip(("source", "target", "split"), map(list, zip(*rows, strict=True)), strict=True))
        cursor.register(
            "links", pa.table(columns).cast(pa.schema({"source": "int64", "target": "int64", "split": "string"}))
        )
        inputs = {"n": nodes, "e": "FROM links" if split else "SELECT source, target FROM links"}
        roles = measure_graph(cursor, inputs, roles=read_roles(columns_of(cursor, inputs))).roles
        role = roles.nodes["n"]
        table = read_nodes(cursor, nodes, role, feature_kinds(role, [], None), None, base and base.nodes["n"])
        known = base.edges if base else None
        (found,), report = read_edges(cursor, inputs["e"], roles.edges["e"], {"n": table}, "error", known)
        ends = list(zip(found.src.tolist(), found.dst.tolist(), strict=True))
        assert ends == sorted(edges)
        if found.split is None:
            drawn = [chance.choice(PARTS) for _ in ends]
            codes = found.keep_parts(np.array([PARTS.index(part) if part else -1 for part in drawn], np.int8))
            assert [PARTS[i] for i in codes] == [parts.get(end, part) for end, part in zip(ends, drawn, strict=True)]
        else:
            given_parts = {row[:2]: row[2] for row in rows}
            codes = found.split
            assert [PARTS[i] for i in codes] == [parts.get(end, given_parts[end]) for end in ends]
            assert report.kept_split == sum(parts.get(end, part) != part for end, part in given_parts.items())
        parts |= {end: PARTS[i] for end, i in zip(ends, codes, strict=True) if i >= 0}
        folder = tmp_path_factory.mktemp("version")
        HeteroTables.of([table], [found], {"e": report}).with_split("e", codes).write(folder)
        base = read_hetero(folder)
        stored = base.edges["e"].assigned
        assert stored is not None
        ever = zip(stored.src.tolist(), stored.dst.tolist(), (PARTS[i] for i in stored.part), strict=True)
        assert list(ever) == [(*end, parts[end]) for end in sorted(parts)]


def test_classes_of_lists_keep_their_ids(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    first = read(cursor, "FROM (VALUES (1, 0, ['m', 'z']), (2, 0, ['z'])) t(id, x, label)", None)
    HeteroTables.of([first], [], {}).with_split("n", np.zeros(2, np.int8)).write(tmp_path)
    base = read_hetero(tmp_path).nodes["n"]
    second = read(cursor, "FROM (VALUES (0, 0, ['z', 'a']), (2, 0, ['b'])) t(id, x, label)", base)
    assert second.labels is not None
    assert second.labels.matrix is not None
    assert second.labels.classes.dictionary.keys.to_pylist() == ["m", "z", "a", "b"]
    assert second.keys.dictionary.keys.to_pylist() == [1, 2, 0]
    assert second.labels.matrix.astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "SELECT i::VARCHAR AS id, 0 AS x, i AS label FROM range(3) t(i)",
            "the keys of id of n are BIGINT in the model",
        ),
        (
            "SELECT i AS id, 0 AS x, 'c' || i AS label FROM range(3) t(i)",
            "the keys of label of n are BIGINT in the model",
        ),
    ],
)
def test_another_kind_of_key_is_refused(
    cursor: duckdb.DuckDBPyConnection, tmp_path: Path, sql: str, message: str
) -> None:
    first = read(cursor, "SELECT i AS id, 0 AS x, i AS label FROM range(3) t(i)", None)
    HeteroTables.of([first], [], {}).write(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read(cursor, sql, read_hetero(tmp_path).nodes["n"])
    assert caught.value.role == "n"
