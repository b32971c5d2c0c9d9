"""Node, edge and hub tables to arrays: every kind of column, keys of any type, counts of everything dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from graphlearn.errors import InputError, OptionError
from graphlearn.storage.hetero.edges import EdgeTable, read_edges
from graphlearn.storage.hetero.features import feature_kind, feature_kinds
from graphlearn.storage.hetero.nodes import NodeTable, read_nodes
from graphlearn.storage.hetero.paths import build_path, read_path
from graphlearn.storage.hetero.report import EdgeReport
from graphlearn.storage.hetero.roles import GraphRoles, columns_of, read_roles
from graphlearn.storage.hetero.sizes import measure_graph
from graphlearn.storage.hetero.tables import HeteroTables, read_hetero


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def node(
    cursor: duckdb.DuckDBPyConnection, sql: str, label: str | None = None, text: tuple[str, ...] = ()
) -> NodeTable:
    columns = columns_of(cursor, {"n": sql})["n"]
    edge = {"source": columns["id"], "hub": "INTEGER"}
    role = read_roles({"n": columns, "e": edge}).nodes["n"]
    return read_nodes(cursor, sql, role, feature_kinds(role, list(text), label), label)


def rows_of(table: NodeTable) -> list[list[int]]:
    f = table.features
    assert f is not None
    assert f.indptr is not None
    assert f.indices is not None
    return [f.indices[a:b].tolist() for a, b in zip(f.indptr[:-1], f.indptr[1:], strict=True)]


def graph(
    cursor: duckdb.DuckDBPyConnection, sql: dict[str, str], label: tuple[str, str] | None = None, unknown: str = "error"
) -> HeteroTables:
    roles = ends(cursor, sql)
    labels = dict([label]) if label else {}
    nodes = {
        name: read_nodes(cursor, sql[name], role, feature_kinds(role, [], labels.get(name)), labels.get(name))
        for name, role in roles.nodes.items()
    }
    edges: list[EdgeTable] = []
    reports: dict[str, EdgeReport] = {}
    for name, role in roles.edges.items():
        found, reports[name] = read_edges(cursor, sql[name], role, nodes, unknown)  # type: ignore[arg-type]
        edges += found
    return HeteroTables.of(list(nodes.values()), edges, reports)


# features


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("INTEGER", "number"), ("DECIMAL(9,2)", "number"), ("BOOLEAN", "number"), ("HUGEINT", "number"),
        ("FLOAT[]", "vector"), ("DOUBLE[3]", "vector"), ("INTEGER[3]", "vector"), ("DECIMAL(4,1)[]", "vector"),
        ("INTEGER[]", "bag"), ("UBIGINT[]", "bag"), ("VARCHAR[]", "bag"), ("ENUM('a', 'b')[]", "bag"),
        ("VARCHAR", "text"), ("DATE", None), ("STRUCT(a INTEGER)", None), ("FLOAT[][]", None), ("INTERVAL", None),
    ],
)  # fmt: skip
def test_what_a_column_can_be(type_name: str, kind: str | None) -> None:
    assert feature_kind(type_name) == kind


def test_numbers_and_their_gaps(cursor: duckdb.DuckDBPyConnection) -> None:
    table = node(cursor, "FROM (VALUES (3, 1.5, true), (1, NULL, false), (2, -2, NULL)) t(id, x, y)")
    assert table.keys.dictionary.keys.to_pylist() == [1, 2, 3]
    assert table.features is not None
    assert table.features.dense is not None
    np.testing.assert_array_equal(table.features.dense, [[0, 1, 0, 0], [-2, 0, 0, 1], [1.5, 0, 1, 0]])
    assert table.report.null_values == 2


def test_vectors(cursor: duckdb.DuckDBPyConnection) -> None:
    table = node(cursor, "FROM (VALUES ('b', [1.0, 2.0]), ('a', NULL), ('c', [5, 6])) t(id, v)")
    assert table.features is not None
    assert table.features.dense is not None
    np.testing.assert_array_equal(table.features.dense, [[0, 0], [1, 2], [5, 6]])
    assert table.report.null_values == 1


def test_bags_share_nothing_but_values(cursor: duckdb.DuckDBPyConnection) -> None:
    sql = "FROM (VALUES (1, [900, 7, 7], ['x']), (2, [7], []), (3, NULL, ['y', 'x', NULL])) t(id, w, tags)"
    table = node(cursor, sql)
    assert table.features is not None
    assert table.features.sparse_width == 4  # 7, 900, x, y
    assert rows_of(table) == [[0, 1, 2], [0], [2, 3]]
    assert table.report.null_values == 1


def test_words_must_occur_in_two_nodes(cursor: duckdb.DuckDBPyConnection) -> None:
    sql = "FROM (VALUES (1, 'The Érable, again'), (2, 'ÉRABLE the'), (3, 'lonely'), (4, NULL)) t(id, title)"
    table = node(cursor, sql, text=("title",))
    assert rows_of(table) == [[0, 1], [0, 1], [], []]
    assert table.report.empty_nodes == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("(1, 'nan'::DOUBLE), (2, 1)", "x of n has 1 value that is NaN or infinite"),
        ("(1, 1e300), (2, 1)", "beyond what float32 holds"),
        ("(1, [1.0]), (2, [1.0, 2]), (3, [3.0])", "x of n has vectors of 2 lengths: 2 of 1, 1 of 2"),
        ("(1, [1.0, NULL]), (2, [1.0, 2])", "x of n has NULLs inside its vectors"),
        ("(1, []::INTEGER[]), (2, NULL)", "x of n is empty in every row"),
        ("(1, NULL)", "x of n is NULL in every row"),
        ("(1, 'a')", "x of n is VARCHAR: a feature must be a number or a list"),
        ("(1, DATE '2024-01-01')", "x of n is DATE, which cannot be a feature"),
        ("(NULL, 1), (2, 1)", "1 row of n has a NULL id"),
        ("(7, 1), (7, 1), (8, 2)", "1 row of n repeats an id: 7"),
    ],
)
def test_unusable_nodes(cursor: duckdb.DuckDBPyConnection, values: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        node(cursor, f"FROM (VALUES {values}) t(id, x)")
    assert caught.value.role == "n"


def test_labels_of_one_class_and_of_several(cursor: duckdb.DuckDBPyConnection) -> None:
    table = node(cursor, "FROM (VALUES (1, 0.5, 'b'), (2, 1.5, NULL), (3, 2, 'a')) t(id, x, y)", "y")
    assert table.labels is not None
    assert table.labels.ids is not None
    assert table.labels.ids.tolist() == [1, -1, 0]
    table = node(cursor, "FROM (VALUES (1, 0.5, ['b', 'a']), (2, 1.5, NULL), (3, 2, ['a'])) t(id, x, y)", "y")
    assert table.labels is not None
    assert table.labels.matrix is not None
    assert table.labels.matrix.tolist() == [[True, True], [False, False], [True, False]]
    assert table.labels.known.tolist() == [True, False, True]
    with pytest.raises(InputError, match="y of n has only one class, 'b'"):
        node(cursor, "FROM (VALUES (1, 0.5, 'b'), (2, 1.5, NULL)) t(id, x, y)", "y")
    with pytest.raises(InputError, match="y of n is DOUBLE: a class must be"):
        node(cursor, "SELECT 1 AS id, 2 AS x, 0.5::DOUBLE AS y", "y")


def test_split_has_three_words(cursor: duckdb.DuckDBPyConnection) -> None:
    table = node(cursor, "FROM (VALUES (1, 0, 'test'), (2, 0, NULL), (3, 1, 'train'), (4, 1, 'valid')) t(id, x, split)")
    assert table.split is not None
    assert table.split.tolist() == [2, -1, 0, 1]
    with pytest.raises(InputError, match="split of n contains 'holdout'"):
        node(cursor, "SELECT 1 AS id, 2 AS x, 'holdout' AS split")


# roles and ends


PEOPLE = "SELECT 'p' || i AS id, i AS x FROM range(4) t(i)"
FILMS = "SELECT i AS id, i AS x FROM range(4) t(i)"


def ends(cursor: duckdb.DuckDBPyConnection, sql: dict[str, str], **given: tuple[str, ...]) -> GraphRoles:
    return measure_graph(cursor, sql, roles=read_roles(columns_of(cursor, sql)), ends=given).roles


def test_ends_by_name_type_alias_and_rows(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("CREATE TABLE t AS SELECT i AS film, i + 2 AS later, 'p' || i AS who FROM range(2) t(i)")
    sql = {"person": PEOPLE, "film": FILMS, "year": "SELECT i AS id, i AS x FROM range(90) t(i)"}
    by_name = ends(
        cursor, sql | {"e": "SELECT film, film AS year FROM t", "f": "SELECT who AS source, 1 AS hub FROM t"}
    )
    assert (by_name.edges["e"].source.node, by_name.edges["e"].target.node) == ("film", "year")
    person = {"e": "SELECT who AS source, film AS target FROM t", "f": "SELECT film AS source, later AS year FROM t"}
    by_type = ends(cursor, sql | person)
    assert (by_type.edges["e"].source.node, by_type.edges["e"].target.node) == ("person", "film")
    rows = {"e": "SELECT who AS source, later + 20 AS target FROM t", "f": "SELECT film, film % 3 AS hub FROM t"}
    by_rows = ends(cursor, sql | rows)
    assert by_rows.edges["e"].target.node == "year"
    assert (by_rows.edges["f"].source.node, by_rows.edges["f"].hub) == ("film", True)
    both = {"e": "SELECT later AS source, later + 1 AS target FROM t", "f": "SELECT who AS source, 1 AS hub FROM t"}
    with pytest.raises(InputError, match="source of e could be film or year: both have all of its keys"):
        ends(cursor, sql | both)
    given = ends(cursor, sql | both, e=("film", "year"))
    assert (given.edges["e"].source.node, given.edges["e"].target.node) == ("film", "year")


def test_a_node_table_without_edges(cursor: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(InputError, match="no edge table links to film"):
        ends(cursor, {"person": PEOPLE, "film": FILMS, "e": "SELECT 'p1' AS source, 'p2' AS target"})


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("SELECT 1 AS source, 2 AS target, 3 AS hub", "e has both target and hub"),
        ("SELECT 1 AS id, 2 AS source", "e has both id and source"),
        ("SELECT 1 AS sourc, 2 AS dest", "e is neither a node table .* nor an edge table"),
        ("SELECT 1 AS source, 2 AS targt", "the edge table e has no hub or target"),
        ("SELECT 1 AS source, 2 AS target, 3 AS colour", "not used: colour"),
        ("SELECT 1 AS source, 2 AS target, 'x' AS weight", "weight of e is VARCHAR, not a number"),
        ("SELECT 1 AS source, 2 AS target, 3 AS split", "split of e is INTEGER, not text"),
        ("SELECT 1 AS source, DATE '2024-01-01' AS target", "target of e is DATE, but no node table has such keys"),
        ("SELECT 1 AS source, NULL AS target", "e: target is NULL in every row"),
    ],
)
def test_unusable_edge_tables(cursor: duckdb.DuckDBPyConnection, role: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ends(cursor, {"film": FILMS, "e": role})
    assert caught.value.role == "e"


# edges


def test_every_row_of_an_edge_table_is_counted(cursor: duckdb.DuckDBPyConnection) -> None:
    rows = "('p0', 1, 2.0), ('p0', 1, 0.5), ('p1', NULL, 1), ('p2', 9, 1), ('zz', 9, 1), ('p3', 3, NULL), ('p3', 3, 1)"
    sql = {"person": PEOPLE, "film": FILMS, "likes": f"FROM (VALUES {rows}) t(person, film, weight)"}
    with pytest.raises(InputError) as caught:
        graph(cursor, sql)
    assert caught.value.message == (
        "2 edges of likes refer to nodes that do not exist: 1 key in person without a row in person ('zz') and 1 key "
        "in film without a row in film (9)"
    )
    tables = graph(cursor, sql, unknown="drop")
    likes, report = tables.edges["likes"], tables.report.edges["likes"]
    assert (likes.src.tolist(), likes.dst.tolist()) == ([0, 3], [1, 3])
    assert likes.weight is not None
    assert likes.weight.tolist() == [2.5, 1.0]
    assert (report.rows, report.null_rows, report.unknown_rows, report.unknown_keys) == (7, 2, 2, 2)
    assert report.rows == report.null_rows + report.unknown_rows + report.duplicate_rows + report.edges
    assert tables.report.nodes["film"].unlinked == 2
    notes = " / ".join(text for text, _ in tables.report.notes())
    assert "likes: dropped 2 rows with a NULL" in notes
    assert "likes: dropped 2 rows with 2 unknown keys" in notes


def test_dense_edges_suggest_a_hub_table(cursor: duckdb.DuckDBPyConnection) -> None:
    films = "SELECT i AS id, i AS x FROM range(600) t(i)"
    pairs = "SELECT a.i AS source, b.i AS target FROM range(600) a(i), range(600) b(i) WHERE a.i % 2 = b.i % 2"
    notes = [text for text, _ in graph(cursor, {"film": films, "same": pairs}).report.notes()]
    assert notes[-1].startswith("same: 300 edges per node on average: if these nodes share something")


def test_several_relations_in_one_table(cursor: duckdb.DuckDBPyConnection) -> None:
    rows = "(0, 1, 'b'), (1, 2, 'a'), (0, 1, 'a'), (2, 2, NULL)"
    tables = graph(cursor, {"film": FILMS, "e": f"FROM (VALUES {rows}) t(source, target, relation)"})
    assert list(tables.edges) == ["e.a", "e.b"]
    assert tables.edges["e.a"].src.tolist() == [0, 1]
    assert tables.report.edges["e"].relations == {"e.a": 2, "e.b": 1}


def walks(cursor: duckdb.DuckDBPyConnection, sql: dict[str, str], steps: tuple[str, ...]) -> int:
    sizes = measure_graph(cursor, sql, roles=read_roles(columns_of(cursor, sql)), metapaths={"p": steps})
    return sizes.edges["p"].edges


def test_hubs_and_paths(cursor: duckdb.DuckDBPyConnection) -> None:
    hubs = "SELECT i % 4 AS source, 'h' || i % 3 AS hub FROM range(12) t(i) UNION ALL SELECT 0, 'alone'"
    sql = {"film": FILMS, "topic": hubs}
    tables = graph(cursor, sql)
    topic = tables.edges["topic"]
    assert topic.hubs is not None
    assert topic.hubs.dictionary.keys.to_pylist() == ["alone", "h0", "h1", "h2"]
    assert tables.report.edges["topic"].lonely_hubs == 1
    assert topic.paths == 3 * 16 + 1
    roles = ends(cursor, sql)
    path = read_path("same", ("topic", "topic"), roles)
    assert walks(cursor, sql, ("topic", "topic")) == topic.paths
    made, report = build_path(cursor, path, [topic])
    assert (len(made), report.self_loops) == (16, 4)


def test_paths_follow_their_steps(cursor: duckdb.DuckDBPyConnection) -> None:
    plays = "SELECT 'p' || i % 4 AS source, i % 3 AS target FROM range(7) t(i)"
    sql = {"person": PEOPLE, "film": FILMS, "plays": plays}
    roles = ends(cursor, sql)
    tables = graph(cursor, sql)
    for steps, start in ((("plays", "plays"), "person"), (("-plays", "plays"), "film")):
        path = read_path("p", steps, roles)
        assert (path.source, path.target) == (start, start)
        here, there = ("source", "target") if start == "person" else ("target", "source")
        distinct = f"(SELECT DISTINCT * FROM ({plays}))"
        pairs_of = f"SELECT a.{here} AS a, b.{here} AS b FROM {distinct} a JOIN {distinct} b USING ({there})"
        oracle = f"SELECT count(*), count(DISTINCT (a, b)) FROM ({pairs_of})"
        expected, pairs = cursor.execute(oracle).fetchall()[0]
        assert walks(cursor, sql, steps) == expected
        assert len(build_path(cursor, path, list(tables.edges.values()))[0]) == pairs
    for steps, message in (
        (("plays", "palys"), "names palys, which is not an edge table"),
        (("plays",), "needs at least two steps"),
        (("-plays", "-plays"), "has reached person and cannot follow -plays"),
    ):
        with pytest.raises(OptionError, match=message):
            read_path("p", steps, roles)
    with pytest.raises(OptionError, match="defines Film, which is already an input"):
        read_path("Film", ("plays", "plays"), roles)


# stored


KEYS = {
    "BIGINT": "{}",
    "VARCHAR": "'key ' || {} || ' é'",
    "UUID": "('00000000-0000-0000-0000-00000000000' || {})::UUID",
    "HUGEINT": "{}::HUGEINT * 100000000000000000000",
    "DATE": "DATE '2024-01-01' + {}::INTEGER",
    "DECIMAL(18,3)": "{}::DECIMAL(18,3)",
    "DOUBLE": "{} + 0.5::DOUBLE",
    "BLOB": "('k' || {})::BLOB",
    "BOOLEAN": "{} % 2 = 0",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ '2024-01-01 00:00:00+00' + to_hours({})",
    "INTEGER[]": "[{}::INTEGER, 1]",
    "STRUCT(a BIGINT, b VARCHAR)": "{{'a': {}, 'b': 'x'}}",
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type_are_returned_unchanged(cursor: duckdb.DuckDBPyConnection, tmp_path: Path, kind: str) -> None:
    n = 2 if kind == "BOOLEAN" else 5
    key = KEYS[kind]
    sql = {
        "thing": f"SELECT {key.format('i')} AS id, i AS x, i % 2 AS y, 'train' AS split FROM range({n}) t(i)",
        "e": f"SELECT {key.format('i')} AS source, {key.format(f'((i + 1) % {n})')} AS target FROM range({n}) t(i)",
        "h": f"SELECT {key.format('i')} AS source, {key.format('(i % 2)')} AS hub FROM range({n}) t(i)",
    }
    tables = graph(cursor, sql, ("thing", "y"))
    tables.with_split("thing", np.zeros(n, np.int8)).write(tmp_path)
    found = read_hetero(tmp_path)
    keys = found.nodes["thing"].keys
    assert keys.dictionary.type == kind
    cursor.register("stored", keys.table())
    joined = f"SELECT count(*) FROM stored s JOIN ({sql['thing']}) t ON s.key = t.id"
    assert cursor.execute(joined).fetchall() == [(n,)]
    for name in ("e", "h"):
        np.testing.assert_array_equal(found.edges[name].src, tables.edges[name].src)
        np.testing.assert_array_equal(found.edges[name].dst, tables.edges[name].dst)
    assert found.edges["h"].hubs is not None
    assert len(found.edges["h"].hubs) == min(n, 2)
    assert found.report == tables.report
    labels = found.nodes["thing"].labels
    assert labels is not None
    assert labels.classes.dictionary.keys.to_pylist() == [0, 1]


def test_the_order_of_rows_does_not_matter(cursor: duckdb.DuckDBPyConnection) -> None:
    made = []
    for order in ("i", "hash(i)"):
        numbers = f"(SELECT i FROM range(40) t(i) ORDER BY {order})"
        sql = {
            "film": f"SELECT i AS id, [i % 3, i % 5] AS w, i % 2 AS y FROM {numbers}",
            "e": f"SELECT i AS source, i * 7 % 40 AS target FROM {numbers}",
        }
        made.append(graph(cursor, sql, ("film", "y")))
    a, b = made
    np.testing.assert_array_equal(a.edges["e"].dst, b.edges["e"].dst)
    assert rows_of(a.nodes["film"]) == rows_of(b.nodes["film"])
    np.testing.assert_array_equal(a.nodes["film"].labels.ids, b.nodes["film"].labels.ids)  # type: ignore[union-attr,arg-type]
