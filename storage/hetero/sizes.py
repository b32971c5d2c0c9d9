"""The size of a graph, measured before it is encoded: rows, features, hubs, walks, and the node tables of edges."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb

from graphlearn.errors import InputError, OptionError
from graphlearn.storage.columns import describe, key_sql, quoted, subquery
from graphlearn.storage.files import disk_errors
from graphlearn.storage.fingerprint import HASH, TEMPORARY, Measured, measure_copy, row_hash
from graphlearn.storage.hetero.features import BAGS, Kind, bag_values
from graphlearn.storage.hetero.paths import Metapath, count_walks, read_path
from graphlearn.storage.hetero.roles import EdgeRole, GraphRoles, NodeRole, candidates, name_ends, settle_ends
from graphlearn.storage.interrupt import interruptible
from graphlearn.text import counted

KEY = "graphlearn_key"
"""The column with the keys of a node table in its copy, in which bags keep their names."""


@dataclass(frozen=True)
class NodeSize:
    """A node table: rows, dense columns, sparse columns (approximately), and ones in the sparse columns."""

    rows: int = 0
    dense: int = 0
    sparse: int = 0
    ones: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the arrays: dense columns, indices of ones, end of each row."""
        return 4 * self.rows * self.dense + 8 * self.ones + 8 * self.rows

    def text(self) -> str:
        """`4,019 nodes, about 1,902 sparse features`."""
        dense = [f"{self.dense:,} dense"] if self.dense else []
        kinds = [*dense, *([f"about {self.sparse:,} sparse"] if self.sparse else [])]
        return counted(self.rows, "node") + (f", {' and '.join(kinds)} features" if kinds else ", learnt vectors")


@dataclass(frozen=True)
class EdgeSize:
    """A relation. `edges`: for a metapath, the number of walks, which is an upper bound.

    `hubs`: the number of hubs, None in other tables. `pairs`: in a hub table, the pairs of nodes that share a hub; else
    the edges.
    """

    name: str
    source: str
    target: str
    edges: int = 0
    hubs: int | None = None
    pairs: int = 0


@dataclass(frozen=True, kw_only=True)
class GraphSizes:
    """The measurements of a graph before it is encoded, from which a run is planned.

    `roles`: with the node table of every end. `kinds`: the feature columns of each node table. `fingerprints`, `rows`:
    by role. `edges`: edge tables and metapaths, by name.
    """

    roles: GraphRoles
    kinds: dict[str, dict[str, Kind]]
    paths: tuple[Metapath, ...]
    fingerprints: dict[str, str]
    rows: dict[str, int]
    nodes: dict[str, NodeSize]
    edges: dict[str, EdgeSize]

    @property
    def known(self) -> bool:
        """Whether every input has rows; otherwise ends and sizes are meaningless."""
        return all(self.rows.values())

    @property
    def bytes(self) -> int:
        """Bytes of all arrays in memory."""
        return sum(n.bytes for n in self.nodes.values()) + sum(16 * e.edges for e in self.edges.values())

    def check_rows(self) -> None:
        """Raise InputError with the first input that has no rows, checking node tables first."""
        empty = [name for name in (*self.roles.nodes, *self.roles.edges) if not self.rows[name]]
        if empty:
            raise InputError(f"{empty[0]} has no rows", role=empty[0], help="check its query")


def measure_graph(
    cursor: duckdb.DuckDBPyConnection,
    inputs: Mapping[str, str],
    *,
    roles: GraphRoles,
    kinds: Mapping[str, Mapping[str, Kind]] | None = None,
    ends: Mapping[str, tuple[str, ...]] | None = None,
    metapaths: Mapping[str, tuple[str, ...]] | None = None,
) -> GraphSizes:
    """Fingerprints and sizes of the inputs (role -> SQL), and the node tables of each edge table.

    `roles`: from `read_roles`. `kinds`: the features of each node table, from `feature_kinds`. `ends`, `metapaths`: the
    options of these names. Each query is scanned once, into a temporary table with the hashes of its rows, its bags
    and, if needed to find ends or to count hubs or walks, its keys. All counts are computed from these tables.

    Raises InputError if the node table of an end cannot be determined or a node table has no edge table, OptionError
    for invalid metapaths, WorkspaceError when the disk is full, and the duckdb.Error of the queries. Empty inputs are
    accepted; see `GraphSizes.check_rows`.
    """
    roles = name_ends(cursor, roles, inputs, ends or {})
    with disk_errors(TEMPORARY):
        measuring = _Measuring(cursor, roles, {name: dict((kinds or {}).get(name, {})) for name in roles.nodes})
        try:
            return measuring.run(inputs, metapaths or {})
        finally:
            measuring.drop()


class _Measuring:
    """One call of `measure_graph`, with a temporary table for each role."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, roles: GraphRoles, kinds: dict[str, dict[str, Kind]]) -> None:
        token = secrets.token_hex(6)
        names = (*roles.nodes, *roles.edges)
        self.cursor, self.roles, self.kinds = cursor, roles, kinds
        self.undecided = [end for edge in roles.edges.values() for end in edge.ends.values() if end.node is None]
        self.tables = {name: f"temp.main.graphlearn_input_{i}_{token}" for i, name in enumerate(names)}

    def do(self, sql: str) -> list[tuple[Any, ...]]:
        return interruptible(self.cursor, lambda: self.cursor.execute(sql).fetchall())

    def count(self, sql: str) -> tuple[int, ...]:
        """The row of counts that a query returns, with NULL as 0."""
        return tuple(int(value or 0) for value in self.do(sql)[0])

    def drop(self) -> None:
        for table in self.tables.values():
            with suppress(duckdb.Error):  # an aborted transaction or a closed connection has dropped it already
                self.do(f"DROP TABLE IF EXISTS {table}")

    def run(self, inputs: Mapping[str, str], metapaths: Mapping[str, tuple[str, ...]]) -> GraphSizes:
        followed = {step.removeprefix("-").lower() for steps in metapaths.values() for step in steps}
        copied = {name: self.node_columns(node) for name, node in self.roles.nodes.items()}
        copied |= {name: self.edge_columns(edge, name.lower() in followed) for name, edge in self.roles.edges.items()}
        found = {name: self.copy(name, inputs[name], columns) for name, columns in copied.items()}
        rows = {name: one.rows for name, one in found.items()}
        known = all(rows.values())
        roles = settle_ends(self.roles, self.lacks if known else None)
        try:
            paths = tuple(read_path(name, steps, roles) for name, steps in metapaths.items())
        except OptionError:
            if known or not self.undecided:
                raise
            paths = ()  # they may be valid once the rows determine the ends
        sizes = [self.edge_size(role, rows[role.name]) for role in roles.edges.values()]
        return GraphSizes(
            roles=roles,
            kinds=self.kinds,
            paths=paths,
            fingerprints={name: one.fingerprint for name, one in found.items()},
            rows=rows,
            nodes={name: self.node_size(name, found[name]) for name in roles.nodes},
            edges={size.name: size for size in (*sizes, *map(self.path_size, paths))},
        )

    def node_columns(self, role: NodeRole) -> dict[str, str]:
        """Name -> SQL of the columns that a node table's size depends on and, if an end could be of it, its keys."""
        columns = {name: quoted(name) for name, kind in self.kinds[role.name].items() if kind in BAGS}
        columns |= {name: f"len({quoted(name)})" for name, kind in self.kinds[role.name].items() if kind == "vector"}
        known = {role.name: role.key_type}
        if any(candidates(end, known) for end in self.undecided):
            columns[KEY] = key_sql(role.id, role.key_type)
        return columns

    def edge_columns(self, role: EdgeRole, followed: bool) -> dict[str, str]:
        """Name -> SQL of the keys needed for hubs, undetermined ends and metapaths (`followed`)."""
        wanted = {side for side, end in role.ends.items() if end.node is None or followed}
        wanted |= {"target"} if role.hub else set()
        both = {"source": role.source, "target": role.target}
        return {side: key_sql(end.column, end.key_type) for side, end in both.items() if side in wanted}

    def copy(self, name: str, sql: str, kept: Mapping[str, str]) -> Measured:
        """Scan an input once, into its table."""
        columns = describe(self.cursor, sql)
        listed = ", ".join(
            f"{value} AS {quoted(column)}" for column, value in {**kept, HASH: row_hash(columns)}.items()
        )
        self.do(f"CREATE TEMP TABLE {self.tables[name]} AS SELECT {listed} FROM {subquery(sql)}")
        lengths = [column for column, kind in self.kinds.get(name, {}).items() if kind == "vector"]
        longest = [f"max({quoted(column)})" for column in lengths]
        return interruptible(self.cursor, lambda: measure_copy(self.cursor, self.tables[name], columns, longest))

    def lacks(self, role: EdgeRole, side: str, node: str) -> int:
        """The number of keys of an end that a node table lacks."""
        keys = f"SELECT DISTINCT {side} AS k FROM {self.tables[role.name]} WHERE k IS NOT NULL"
        ids = f"SELECT {KEY} AS k FROM {self.tables[node]}"
        return self.count(f"SELECT count(*) FROM ({keys}) e ANTI JOIN ({ids}) n ON e.k = n.k")[0]

    def node_size(self, name: str, found: Measured) -> NodeSize:
        kinds = self.kinds[name]
        numbers = sum(kind == "number" for kind in kinds.values())
        sparse = ones = 0
        for column, kind in kinds.items():
            if kind in BAGS:
                values = f"SELECT unnest({bag_values(column, kind)}) AS v FROM {self.tables[name]}"
                n, width = self.count(f"SELECT count(*), approx_count_distinct(v) FROM ({values})")
                sparse, ones = sparse + min(n, width), ones + n
        return NodeSize(found.rows, numbers + sum(int(width or 0) for width in found.values), sparse, ones)

    def edge_size(self, role: EdgeRole, rows: int) -> EdgeSize:
        """The size of an edge table. The pairs of a hub table are the sum of its squared degrees."""
        source = str(role.source.node)
        if not role.hub:
            return EdgeSize(role.name, source, str(role.target.node), rows, None, rows)
        degrees = (
            f"SELECT count(*)::HUGEINT AS n FROM {self.tables[role.name]} WHERE target IS NOT NULL GROUP BY target"
        )
        hubs, edges, pairs = self.count(f"SELECT count(*), sum(n), sum(n * n) FROM ({degrees})")
        return EdgeSize(role.name, source, source, edges, hubs, pairs)

    def path_size(self, path: Metapath) -> EdgeSize:
        walks = count_walks(self.cursor, path, self.tables)
        return EdgeSize(path.name, path.source, path.target, walks, None, walks)
