"""The graph of a mode: turns an edge table with the users' keys into ids of the mode, in coordinate form."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graphlearn.errors import InputError, did_you_mean
from graphlearn.events import Emit, Note
from graphlearn.storage.columns import (
    FLOAT32_MAX,
    compatible,
    describe,
    find_column,
    key_sql,
    kind_of,
    quoted,
    subquery,
)
from graphlearn.storage.files import disk_errors
from graphlearn.storage.fingerprint import HASH, measure_copy, row_hash
from graphlearn.storage.interrupt import interruptible
from graphlearn.storage.series.ingest import Mode
from graphlearn.storage.series.report import GraphReport
from graphlearn.text import counted
from graphlearn.types import FloatArray

ENDS = ("source", "target")


@dataclass(frozen=True, kw_only=True)
class ModeGraph:
    """Weighted, directed edges between the ids of a mode, distinct and ordered by (source, target).

    `fingerprint` is the digest of the query's rows.
    shape: source, target, weight: [edges]
    """

    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    weight: FloatArray
    report: GraphReport
    fingerprint: str


def check_graph_columns(columns: dict[str, str], key_type: str | None, *, role: str) -> None:
    """Check that a query is an edge table: source, target and, optionally, weight.

    `key_type`: the DuckDB type of the mode's keys, None if not yet known. Raises InputError with the role.
    """
    names = ", ".join(columns) or "none"
    for name in ENDS:
        if find_column(columns, name) is None:
            spare = [column for column in columns if column.lower() not in (*ENDS, "weight")]
            raise InputError(
                f'the graph {role} has no column "{name}" (its columns: {names})',
                role=role,
                help=did_you_mean(name, spare) if len(spare) != 1 else f"name it with AS: {spare[0]} AS {name}",
            )
    extra = [column for column in columns if column.lower() not in (*ENDS, "weight")]
    if extra:
        raise InputError(
            f"the graph {role} has columns that are not used: {', '.join(extra)}",
            role=role,
            help="select only source, target and, if present, weight",
        )
    for name in ENDS:
        found = columns[str(find_column(columns, name))]
        if key_type is not None and not compatible(found, key_type):
            raise InputError(
                f"{name} of the graph {role} is {found}, but the series has {key_type} keys there",
                role=role,
                help=f"cast it, e.g. {name}::{key_type} AS {name}",
            )
    weight = find_column(columns, "weight")
    if weight is not None and kind_of(columns[weight]) not in ("integer", "decimal", "float"):
        raise InputError(
            f"weight of the graph {role} is {columns[weight]}, not a number",
            role=role,
            help="cast it, e.g. weight::DOUBLE AS weight, or leave it out, so that every weight is 1",
        )


def encode_mode_graph(
    cursor: duckdb.DuckDBPyConnection, sql: str, mode: Mode, *, role: str | None = None, emit: Emit
) -> ModeGraph:
    """Read an edge table (source, target and, optionally, weight) with the keys of a mode.

    Without the column, every weight is 1. Rows with a NULL or with a key that the series lacks are dropped and counted.
    The weights of rows with the same ends are added. Edges keep their direction. `role`: the input's name in messages,
    by default the mode's. Raises InputError for unusable columns, for negative or non-finite weights, and if no edge is
    left; the duckdb.Error of the query.
    """
    role = role or mode.label
    columns = describe(cursor, sql)
    check_graph_columns(columns, mode.keys.type, role=role)
    with disk_errors("DuckDB's temporary files"):
        return _GraphIngest(cursor, columns, mode, role).run(sql, emit)


class _GraphIngest:
    """One call of `encode_mode_graph`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, columns: dict[str, str], mode: Mode, role: str) -> None:
        self.cursor, self.mode, self.role = cursor, mode, role
        self.columns, token = columns, secrets.token_hex(6)
        self.raw, self.keys = f"temp.main.graphlearn_edges_{token}", f"graphlearn_keys_{token}"
        self.ends = [key_sql(str(find_column(columns, name)), _plain(columns, name)) for name in ENDS]
        weight = find_column(columns, "weight")
        self.weight = "1::DOUBLE" if weight is None else f"{quoted(weight)}::DOUBLE"
        self.report = GraphReport(mode=mode.label)

    def ask(self, work: Callable[[], Any]) -> Any:
        return interruptible(self.cursor, work)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.ask(lambda: self.cursor.execute(sql).fetchall())
        return found

    def run(self, sql: str, emit: Emit) -> ModeGraph:
        ids = pa.array(np.arange(len(self.mode)), pa.int64())
        schema = pa.schema([("id", pa.int64()), self.mode.keys.field])
        self.cursor.register(self.keys, pa.table([ids, self.mode.keys.keys], schema=schema))
        try:
            source, target = self.ends
            self.rows(
                f"CREATE TEMP TABLE {self.raw} AS "
                f"SELECT {source} AS source, {target} AS target, {self.weight} AS weight, "
                f"{row_hash(self.columns)} AS {HASH} FROM {subquery(sql)}"
            )
            return self.build(emit)
        finally:
            self.rows(f"DROP TABLE IF EXISTS {self.raw}")
            self.cursor.unregister(self.keys)

    def build(self, emit: Emit) -> ModeGraph:
        report, complete = self.report, "source IS NOT NULL AND target IS NOT NULL AND weight IS NOT NULL"
        measured = self.ask(
            lambda: measure_copy(self.cursor, self.raw, self.columns, [f"count(*) FILTER ({complete})"])
        )
        report.rows, (kept,) = measured.rows, measured.values
        report.null_rows = report.rows - kept
        if not kept:
            found = "no rows" if not report.rows else "a NULL in every row"
            raise InputError(f"the graph {self.role} has {found}", role=self.role, help="check its query")
        self.check_weights(complete)
        joined = (
            f"SELECT s.id AS s, t.id AS t, e.* FROM {self.raw} e LEFT JOIN {self.keys} s ON s.key = e.source "
            f"LEFT JOIN {self.keys} t ON t.key = e.target WHERE {complete}"
        )
        unknown = self.rows(
            f"SELECT key, count(*) FROM (SELECT source AS key FROM ({joined}) WHERE s IS NULL UNION ALL "
            f"SELECT target FROM ({joined}) WHERE t IS NULL) GROUP BY key ORDER BY 1 ASC"
        )
        report.unknown_keys = len(unknown)
        query = (
            f"SELECT s, t, fsum(weight) AS w, count(*) AS n FROM ({joined}) WHERE s + t IS NOT NULL "
            "GROUP BY s, t ORDER BY s ASC, t ASC"
        )
        table: pa.Table = self.ask(lambda: self.cursor.sql(query).to_arrow_table())
        s, t, w, n = (table.column(name).to_numpy() for name in ("s", "t", "w", "n"))
        if not len(s):
            some = ", ".join(repr(key) for key, _ in unknown[:3])
            known = ", ".join(repr(key) for key in self.mode.keys.keys.slice(0, 3).to_pylist())
            raise InputError(
                f"no edge of the graph {self.role} joins two keys of the series",
                role=self.role,
                help=f"the graph has keys like {some}, the series like {known}",
            )
        if w.max() > FLOAT32_MAX:
            raise InputError(
                f"a weight of the graph {self.role} is beyond what float32 holds",
                role=self.role,
                help="divide the weights",
            )
        report.edges, joined_rows = len(s), int(n.sum())
        report.unknown_rows, report.duplicate_rows = kept - joined_rows, joined_rows - len(s)
        report.self_loops = int(np.count_nonzero(s == t))
        report.missing_nodes = len(self.mode) - len(np.union1d(s, t))
        for message, level in report.notes():
            emit(Note(message=message, level=level))
        weight: FloatArray = w.astype(np.float32)
        return ModeGraph(source=s, target=t, weight=weight, report=report, fingerprint=measured.fingerprint)

    def check_weights(self, complete: str) -> None:
        bad = f"FROM {self.raw} WHERE {complete} AND (weight < 0 OR NOT isfinite(weight))"
        count = self.rows(f"SELECT count(*) {bad}")[0][0]
        if count:
            some = self.rows(f"SELECT source, target, weight {bad} ORDER BY ALL LIMIT 3")
            listed = ", ".join(f"({source!r}, {target!r}, {weight:g})" for source, target, weight in some)
            raise InputError(
                f"the graph {self.role} has {counted(count, 'weight')} below 0 or not finite: {listed}"
                f"{', …' if count > 3 else ''}",
                role=self.role,
                help="use abs(weight), or filter these rows out",
            )


def _plain(columns: dict[str, str], name: str) -> str:
    """The type of an end as a key: an ENUM becomes text."""
    found = columns[str(find_column(columns, name))]
    return "VARCHAR" if found.startswith("ENUM(") else found
