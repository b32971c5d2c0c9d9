"""Edge tables and hub tables: rows with the users' keys become pairs of positions, without duplicates."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.storage.columns import FLOAT32_MAX, describe, key_sql, literal, quoted, subquery
from graphlearn.storage.dictionary import numbered
from graphlearn.storage.files import disk_errors
from graphlearn.storage.fingerprint import HASH, measure_copy, row_hash
from graphlearn.storage.hetero.nodes import Keys, NodeTable, keep_keys, read_parts, shown
from graphlearn.storage.hetero.report import EdgeReport
from graphlearn.storage.hetero.roles import EdgeRole
from graphlearn.storage.interrupt import interruptible
from graphlearn.text import counted
from graphlearn.types import FloatArray, IdArray, Split, SplitCodes

DENSE = 200
"""With this many edges per node on average, a hub table is probably the better input."""


@dataclass(frozen=True)
class EdgeParts:
    """The split of every edge that has ever had one, ordered by source and target. shape: src, dst, part: [P]"""

    src: IdArray
    dst: IdArray
    part: SplitCodes

    def find(self, src: IdArray, dst: IdArray) -> SplitCodes:
        """The splits of edges, -1 for those without one. shape: [E], [E] -> [E]"""
        width = 1 + max(int(self.dst.max(initial=0)), int(dst.max(initial=0)))
        known, asked = self.src * width + self.dst, src * width + dst
        places = np.minimum(np.searchsorted(known, asked), max(0, len(known) - 1))
        found = np.full(len(src), -1, np.int8)
        if len(known):
            hit = known[places] == asked
            found[hit] = self.part[places[hit]]
        return found

    def updated(self, src: IdArray, dst: IdArray, part: SplitCodes) -> EdgeParts:
        """Add the edges that now have a split. shape: [E], [E], [E]"""
        new = (part >= 0) & (self.find(src, dst) < 0)
        src, dst = np.concatenate([self.src, src[new]]), np.concatenate([self.dst, dst[new]])
        order = np.lexsort((dst, src))
        return EdgeParts(src[order], dst[order], np.concatenate([self.part, part[new]])[order])


@dataclass(frozen=True)
class EdgeTable:
    """Edges of one relation, ordered by source and target. shape: src, dst, weight, split: [E]

    In a hub table, `hubs` are the keys of the hubs, dst are positions in them, and target equals source. `fingerprint`:
    of all rows of the role; empty for a stored table. `assigned`: the splits of the edges of a link target, including
    edges that are no longer in the table.
    """

    name: str
    role: str
    source: str
    target: str
    src: IdArray
    dst: IdArray
    weight: FloatArray | None = None
    hubs: Keys | None = None
    split: SplitCodes | None = None
    fingerprint: str = ""
    assigned: EdgeParts | None = None

    def __len__(self) -> int:
        return len(self.src)

    def keep_parts(self, split: SplitCodes) -> SplitCodes:
        """The splits; edges that had a split before keep it. shape: [E] -> [E]"""
        if self.assigned is None:
            return split
        known = self.assigned.find(self.src, self.dst)
        return np.where(known >= 0, known, split)

    def remember(self, split: SplitCodes) -> EdgeTable:
        """The table with these splits, which later versions keep. shape: [E]"""
        none = np.empty(0, np.int64)
        before = self.assigned or EdgeParts(none, none, none.astype(np.int8))
        return replace(self, split=split, assigned=before.updated(self.src, self.dst, split))

    @property
    def paths(self) -> int:
        """Ordered pairs of nodes that share a hub, including each node with itself; the edges if there are no hubs."""
        if self.hubs is None:
            return len(self.src)
        degree = np.bincount(self.dst).astype(np.int64)
        return int((degree * degree).sum())


def read_edges(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    role: EdgeRole,
    nodes: Mapping[str, NodeTable],
    unknown: Literal["error", "drop"],
    base: Mapping[str, EdgeTable] | None = None,
) -> tuple[list[EdgeTable], EdgeReport]:
    """The relations of an edge table: one, or one for each value of its column `relation`, named `role.value`.

    `base`: the relations of the previous version, whose edges keep their splits; `nodes` must continue the nodes of
    that version.

    Raises InputError (with the role) if there are no rows, for ids without a node (unless `unknown` is 'drop'), and for
    weights that are negative or not finite.
    """
    with disk_errors("DuckDB's temporary files"):
        ingest = _EdgeIngest(cursor, role, nodes, base or {})
        try:
            return ingest.run(sql, unknown)
        finally:
            ingest.close()


class _EdgeIngest:
    """One call of `read_edges`."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        role: EdgeRole,
        nodes: Mapping[str, NodeTable],
        base: Mapping[str, EdgeTable],
    ) -> None:
        token = secrets.token_hex(6)
        self.cursor, self.role, self.nodes, self.base = cursor, role, nodes, base
        self.raw, self.ids = (f"temp.main.graphlearn_{what}_{token}" for what in ("edges", "ids"))
        self.ends = [f"graphlearn_{end}_{token}" for end in ("source", "target")]
        self.report, self.fingerprint = EdgeReport(has_time=role.time is not None), ""
        self.registered: list[str] = []

    def ask(self, sql: str) -> pa.Table:
        return interruptible(self.cursor, lambda: self.cursor.sql(sql).to_arrow_table())

    def do(self, sql: str) -> None:
        interruptible(self.cursor, lambda: self.cursor.execute(sql).fetchall())

    def value(self, sql: str) -> int:
        return int(self.ask(f"SELECT ({sql}) AS n").column("n")[0].as_py() or 0)

    def close(self) -> None:
        for name in self.registered:
            self.cursor.unregister(name)
        for table in (self.raw, self.ids):
            self.do(f"DROP TABLE IF EXISTS {table}")

    def register(self, name: str, keys: pa.Table) -> None:
        self.cursor.register(name, keys)
        self.registered.append(name)

    def run(self, sql: str, unknown: Literal["error", "drop"]) -> tuple[list[EdgeTable], EdgeReport]:
        role = self.role
        assert role.source.node is not None
        parts = [
            f"{key_sql(role.source.column, role.source.key_type)} AS s",
            f"{key_sql(role.target.column, role.target.key_type)} AS t",
            f"{quoted(role.weight)}::DOUBLE AS w" if role.weight else "1::DOUBLE AS w",
            f"{quoted(role.relation)}::VARCHAR AS r" if role.relation else "NULL::VARCHAR AS r",
            f"{quoted(role.split)}::VARCHAR AS part" if role.split else "NULL::VARCHAR AS part",
        ]
        columns = describe(self.cursor, sql)
        parts.append(f"{row_hash(columns)} AS {HASH}")
        self.do(f"CREATE TEMP TABLE {self.raw} AS SELECT {', '.join(parts)} FROM {subquery(sql)}")
        found = interruptible(self.cursor, lambda: measure_copy(self.cursor, self.raw, columns))
        self.fingerprint, self.report.rows = found.fingerprint, found.rows
        self.count()
        self.register(self.ends[0], self.nodes[role.source.node].known_keys())
        hubs = self.hubs() if role.hub else None
        if hubs is None:
            assert role.target.node is not None
            self.register(self.ends[1], self.nodes[role.target.node].known_keys())
        self.number(unknown)
        names = self.ask(f"SELECT DISTINCT r FROM {self.ids} ORDER BY r ASC").column("r").to_pylist()
        tables = [self.relation(name, hubs) for name in names]
        self.survey(tables)
        return tables, self.report

    def count(self) -> None:
        report, role = self.report, self.role
        named = " AND r IS NOT NULL" if role.relation else ""
        complete = f"s IS NOT NULL AND t IS NOT NULL AND w IS NOT NULL{named}"
        self.do(f"DELETE FROM {self.raw} WHERE NOT ({complete})")
        kept = self.value(f"SELECT count(*) FROM {self.raw}")
        report.null_rows = report.rows - kept
        if not kept:
            found = "a NULL in every row" if report.rows else "no rows"
            raise InputError(f"{role.name} has {found}", role=role.name, help="check its query")
        bad = self.value(f"SELECT count(*) FROM {self.raw} WHERE w < 0 OR NOT isfinite(w) OR w > {FLOAT32_MAX}")
        if bad:
            raise InputError(
                f"{role.name} has {counted(bad, 'weight')} below 0 or not finite",
                role=role.name,
                help="use abs(weight), or filter these rows out",
            )

    def hubs(self) -> Keys:
        """Number the hubs in key order. Their ids may change between versions, because nothing is learnt for a hub."""
        key_type = self.role.target.key_type
        keys = keep_keys(self.cursor, numbered(f"SELECT t AS key FROM {self.raw}", key_type), key_type)
        self.register(self.ends[1], keys.table())
        return keys

    def number(self, unknown: Literal["error", "drop"]) -> None:
        """Create the table of ids, without duplicate pairs in a relation."""
        role, report = self.role, self.report
        source, target = self.ends
        joined = (
            f"SELECT a.id AS a, b.id AS b, e.* FROM {self.raw} e LEFT JOIN {source} a ON a.key = e.s "
            f"LEFT JOIN {target} b ON b.key = e.t"
        )
        lost = self.ask(
            f"SELECT 0 AS side, s::VARCHAR AS key, count(*) AS n FROM ({joined}) WHERE a IS NULL GROUP BY s UNION ALL "
            f"SELECT 1, t::VARCHAR, count(*) FROM ({joined}) WHERE b IS NULL GROUP BY t ORDER BY 1, 2"
        ).to_pydict()
        report.unknown_keys = len(lost["key"])
        report.unknown_rows = self.value(f"SELECT count(*) FROM ({joined}) WHERE a IS NULL OR b IS NULL")
        kept = self.value(f"SELECT count(*) FROM {self.raw}") - report.unknown_rows
        if report.unknown_rows and (unknown == "error" or not kept):
            self.refuse(lost["side"], lost["key"], kept)
        wrong = f"SELECT part FROM {self.raw}"
        if role.split:
            read_parts(self.ask, f"SELECT DISTINCT part FROM ({wrong})", role.name)
        code = "CASE part " + " ".join(f"WHEN {literal(split)} THEN {split.code}" for split in Split)
        self.do(
            f"CREATE TEMP TABLE {self.ids} AS SELECT r, a, b, fsum(w) AS w, coalesce(min({code} END), -1) AS part "
            f"FROM ({joined}) WHERE a IS NOT NULL AND b IS NOT NULL GROUP BY r, a, b"
        )
        report.edges = self.value(f"SELECT count(*) FROM {self.ids}")
        report.duplicate_rows = kept - report.edges

    def refuse(self, sides: list[int], keys: list[str], kept: int) -> None:
        role = self.role
        texts = []
        for side, end in enumerate((role.source, role.target)):
            mine = [key for at, key in zip(sides, keys, strict=True) if at == side]
            if mine:
                texts.append(
                    f"{counted(len(mine), 'key')} in {end.column} without a row in {end.node} "
                    f"({shown(mine, end.key_type)})"
                )
        one = self.report.unknown_rows == 1
        raise InputError(
            f"{counted(self.report.unknown_rows, 'edge')} of {role.name} "
            f"{'refers to a node that does' if one else 'refer to nodes that do'} not exist: {' and '.join(texts)}",
            role=role.name,
            help="add them to the node table, filter them out, or drop such edges with OPTIONS (unknown = 'drop')"
            if kept
            else "no edge would remain: are these the keys of another table?",
        )

    def relation(self, value: str | None, hubs: Keys | None) -> EdgeTable:
        role = self.role
        assert role.source.node is not None
        which = "r IS NULL" if value is None else f"r = {literal(value)}"
        found = self.ask(f"SELECT a, b, w, part FROM {self.ids} WHERE {which} ORDER BY a ASC, b ASC")
        a, b = (found.column(c).to_numpy().astype(np.int64) for c in ("a", "b"))
        weight = found.column("w").to_numpy().astype(np.float32) if role.weight else None
        name = role.name if value is None else f"{role.name}.{value}"
        table = EdgeTable(
            name=name,
            role=role.name,
            source=role.source.node,
            target=role.source.node if role.hub else str(role.target.node),
            src=a,
            dst=b,
            weight=weight,
            hubs=hubs,
            split=found.column("part").to_numpy().astype(np.int8) if role.split else None,
            fingerprint=self.fingerprint,
            assigned=self.base[name].assigned if name in self.base else None,
        )
        if not role.split:
            return table
        given = found.column("part").to_numpy().astype(np.int8)
        split = table.keep_parts(given)
        self.report.kept_split += int(np.count_nonzero(split != given))
        return replace(table, split=split)

    def survey(self, tables: list[EdgeTable]) -> None:
        report, role = self.report, self.role
        report.relations = {table.name: len(table) for table in tables}
        report.paths = sum(table.paths for table in tables)
        first = tables[0]
        if first.hubs is not None:
            degree = np.zeros(len(first.hubs), np.int64)
            for table in tables:
                degree += np.bincount(table.dst, minlength=len(degree))
            report.hubs, report.lonely_hubs = len(first.hubs), int(np.count_nonzero(degree == 1))
        elif role.source.node == role.target.node:
            report.self_loops = sum(int(np.count_nonzero(table.src == table.dst)) for table in tables)
            mean = report.edges // max(1, len(self.nodes[first.source]))
            report.dense_nodes = mean if mean >= DENSE else 0
