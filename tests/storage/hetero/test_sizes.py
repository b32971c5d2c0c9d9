"""The size of a graph, measured in one scan of each input: it is that of the encoded graph."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from cases.scans import CountedScans, count_scans

from graphlearn.errors import InputError, OptionError
from graphlearn.storage.fingerprint import fingerprint
from graphlearn.storage.hetero.edges import read_edges
from graphlearn.storage.hetero.features import feature_kinds
from graphlearn.storage.hetero.nodes import NodeTable, read_nodes
from graphlearn.storage.hetero.roles import columns_of, read_roles
from graphlearn.storage.hetero.sizes import EdgeSize, GraphSizes, NodeSize, measure_graph

GRAPH = {
    "paper": "SELECT i AS id, i * 0.5 AS x, [i % 5, i % 7] AS words, 'word' || i % 4 || ' of the title' AS title, "
    "i % 3 AS area, 'train' AS split FROM range(300) t(i)",
    "venue": "SELECT 1000 + i AS id, [i, 2, 3]::FLOAT[] AS v FROM range(9) t(i)",
    "author": "SELECT 'a' || i AS id FROM range(50) t(i)",
    "cites": "SELECT i % 300 AS source, i * 7 % 300 AS target FROM range(400) t(i)",
    "appears": "SELECT i % 300 AS source, 1000 + i % 9 AS target, 'train' AS split FROM range(600) t(i)",
    "topic": "SELECT i % 300 AS paper, 't' || i % 11 AS hub, 2 AS weight FROM range(500) t(i)",
    "writes": "SELECT 'a' || i % 50 AS source, i % 300 AS paper, 'r' || i % 2 AS relation FROM range(350) t(i)",
}
ENDS = {"cites": ("paper", "paper"), "appears": ("paper", "venue")}
METAPATHS = {"coauthor": ("writes", "-writes"), "same": ("topic", "topic"), "far": ("cites", "cites", "appears")}


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def measure(cursor: duckdb.DuckDBPyConnection, sql: dict[str, str], **options: Any) -> GraphSizes:
    roles = read_roles(columns_of(cursor, sql))
    texts = {"paper": ["title"]}
    kinds = {name: feature_kinds(role, texts.get(name, []), "area") for name, role in roles.nodes.items()}
    return measure_graph(cursor, sql, roles=roles, kinds=kinds, **options)


def encode(cursor: duckdb.DuckDBPyConnection, sql: dict[str, str], sizes: GraphSizes) -> dict[str, str]:
    """The fingerprints of the encoded tables, by role."""
    nodes: dict[str, NodeTable] = {}
    for name, role in sizes.roles.nodes.items():
        label = "area" if "area" in role.columns else None
        nodes[name] = read_nodes(cursor, sql[name], role, sizes.kinds[name], label)
    read = {name: table.fingerprint for name, table in nodes.items()}
    for name, edge in sizes.roles.edges.items():
        tables, report = read_edges(cursor, sql[name], edge, nodes, "error")
        assert report.rows == sizes.rows[name]
        read[name] = tables[0].fingerprint
    return read


def counted_inputs(
    cursor: duckdb.DuckDBPyConnection, sql: dict[str, str]
) -> tuple[dict[str, CountedScans], dict[str, str]]:
    """Views that count their scans, and queries that read them through a filter and in another order of columns."""
    views = {role: count_scans(cursor, f"counted_{role}", query) for role, query in sql.items()}
    queries = {}
    for role, view in views.items():
        names = ", ".join(reversed(view.table.column_names))
        queries[role] = (
            f"SELECT {names} FROM counted_{role} WHERE {view.table.column_names[0]} IS NOT NULL ORDER BY ALL"
        )
    return views, queries


@pytest.mark.parametrize(
    "options",
    [{}, {"ends": ENDS}, {"metapaths": METAPATHS}, {"ends": ENDS, "metapaths": METAPATHS}],
    ids=["ends found", "ends given", "ends found, metapaths", "ends given, metapaths"],
)
def test_measuring_and_encoding_scan_each_input_once(
    cursor: duckdb.DuckDBPyConnection, options: dict[str, Any]
) -> None:
    views, queries = counted_inputs(cursor, GRAPH)
    sizes = measure(cursor, queries, **options)
    assert {role: view.taken() for role, view in views.items()} == {r: (1, v.table.num_rows) for r, v in views.items()}
    read = encode(cursor, queries, sizes)
    assert {role: view.taken() for role, view in views.items()} == {r: (1, v.table.num_rows) for r, v in views.items()}
    assert read == sizes.fingerprints == {role: fingerprint(cursor, sql) for role, sql in GRAPH.items()}
    assert cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall() == [(0,)]


def test_sizes_of_every_kind_of_table(cursor: duckdb.DuckDBPyConnection) -> None:
    sizes = measure(cursor, GRAPH, metapaths=METAPATHS)
    assert sizes.nodes == {
        "paper": NodeSize(300, 1, 7 + 7, 600 + 4 * 300),  # words 0 to 6; word0 to word3, of, the, title
        "venue": NodeSize(9, 3, 0, 0),
        "author": NodeSize(50, 0, 0, 0),
    }
    assert sizes.nodes["paper"].text() == "300 nodes, 1 dense and about 14 sparse features"
    joins = {name: (edge.source, edge.target, edge.edges) for name, edge in sizes.edges.items() if edge.hubs is None}
    assert {name: found for name, found in joins.items() if name not in METAPATHS} == {
        "cites": ("paper", "paper", 400),
        "appears": ("paper", "venue", 600),
        "writes": ("author", "paper", 350),
    }
    degrees = [len(range(k, 500, 11)) for k in range(11)]
    assert sizes.edges["topic"] == EdgeSize("topic", "paper", "paper", 500, 11, sum(n * n for n in degrees))
    steps = {
        name: set(cursor.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({sql})").fetchall()) for name, sql in GRAPH.items()
    }
    writes, topic = ({(row[0], row[1]) for row in steps[name]} for name in ("writes", "topic"))
    assert joins["coauthor"] == ("author", "author", sum(a[1] == b[1] for a in writes for b in writes))
    assert joins["same"] == ("paper", "paper", sum(a[1] == b[1] for a in topic for b in topic))
    assert [path.name for path in sizes.paths] == list(METAPATHS)


def test_sizes_are_a_value(cursor: duckdb.DuckDBPyConnection) -> None:
    sizes = measure(cursor, GRAPH, metapaths=METAPATHS)
    assert pickle.loads(pickle.dumps(sizes)) == sizes == measure(cursor, GRAPH, metapaths=METAPATHS)
    assert sizes.known
    assert sizes.kinds["paper"] == {"x": "number", "words": "bag", "title": "text"}
    sizes.check_rows()


@pytest.mark.parametrize("role", ["venue", "cites"])
def test_an_empty_input_has_sizes(cursor: duckdb.DuckDBPyConnection, role: str) -> None:
    sql = GRAPH | {role: f"FROM ({GRAPH[role]}) LIMIT 0"}
    sizes = measure(cursor, sql, metapaths=METAPATHS)
    assert not sizes.known
    assert sizes.rows[role] == 0
    assert sizes.fingerprints[role] == fingerprint(cursor, sql[role])
    with pytest.raises(InputError, match=f"{role} has no rows") as caught:
        sizes.check_rows()
    assert caught.value.role == role


def test_nothing_is_left_behind_by_an_error(cursor: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(OptionError, match="cannot follow cites"):
        measure(cursor, GRAPH, metapaths={"wrong": ("writes", "-writes", "cites")})
    with pytest.raises(InputError, match="source of cites could be paper or venue"):
        measure(cursor, GRAPH | {"cites": "SELECT 5 AS source, 1000 AS target WHERE false UNION ALL SELECT 2000, 2000"})
    with pytest.raises(duckdb.ConversionException):
        measure(cursor, GRAPH | {"cites": "SELECT i AS source, ('x' || i)::INTEGER AS target FROM range(9) t(i)"})
    assert cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall() == [(0,)]
