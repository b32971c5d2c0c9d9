"""Node tables: a query with ids, features and what is learnt becomes keys by position and arrays."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.storage.columns import describe, key_sql, kind_of, quoted, subquery
from graphlearn.storage.dictionary import Dictionary, write_dictionary
from graphlearn.storage.files import disk_errors
from graphlearn.storage.fingerprint import HASH, measure_copy, row_hash
from graphlearn.storage.hetero.features import FeatureArrays, Kind, read_features
from graphlearn.storage.hetero.report import NodeReport
from graphlearn.storage.hetero.roles import NodeRole, plain
from graphlearn.storage.interrupt import interruptible
from graphlearn.text import counted
from graphlearn.types import BoolArray, IdArray, Split, SplitCodes

LabelKind: TypeAlias = Literal["single", "multi"]
ID, KEY = "graphlearn_id", "graphlearn_key"


@dataclass(frozen=True)
class Keys:
    """The keys of a table by position; the file has no name, so nothing is left of it when we are killed."""

    dictionary: Dictionary
    _file: IO[bytes] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.dictionary)

    def write(self, path: Path) -> None:
        """Copy the keys into a file."""
        with disk_errors(path):
            if self._file is None:
                shutil.copyfile(self.dictionary.path, path)
                return
            self._file.seek(0)
            with open(path, "wb") as out:
                shutil.copyfileobj(self._file, out, 1 << 22)

    def table(self) -> pa.Table:
        """(id, key), to be registered: DuckDB reads keys of every type back as they were."""
        ids = pa.array(np.arange(len(self)), pa.int64())
        return pa.table([ids, self.dictionary.keys], schema=pa.schema([("id", pa.int64()), self.dictionary.field]))


def keep_keys(cursor: duckdb.DuckDBPyConnection, sql: str, key_type: str) -> Keys:
    """The rows (id, key) of a query, in memory and in a file without a name."""
    with tempfile.TemporaryDirectory(prefix="graphlearn-") as folder:
        path = Path(folder) / "keys.parquet"
        interruptible(cursor, lambda: write_dictionary(cursor, sql, key_type, path))
        found = Dictionary(path)
        assert len(found.keys) == len(found)  # read while the file has a name
        return Keys(found, open(os.open(path, os.O_RDONLY), "rb"))


def shown(keys: list[str], key_type: str) -> str:
    """Some keys for people, texts in quotes: at most three of them."""
    some = [repr(key) if kind_of(key_type) == "text" else key for key in keys[:3]]
    short = [key if len(key) <= 40 else f"{key[:39]}…" for key in some]
    return ", ".join([*short, *(["…"] if len(keys) > 3 else [])])


@dataclass(frozen=True)
class Labels:
    """What is learnt of nodes. ids: [N], -1 = unknown (single); matrix: [N, C] (multi); the classes by place."""

    column: str
    kind: LabelKind
    classes: Keys
    ids: IdArray | None = None
    matrix: BoolArray | None = None

    @property
    def known(self) -> BoolArray:
        """Which nodes have a label. shape: [N]"""
        if self.ids is not None:
            return np.asarray(self.ids >= 0)
        assert self.matrix is not None
        return np.asarray(self.matrix.any(axis=1))


@dataclass(frozen=True)
class NodeTable:
    """Nodes of a type, in key order. split: [N] or None where the table has none.

    `fingerprint` is that of the rows that were read, empty where the table was stored.
    """

    name: str
    keys: Keys
    features: FeatureArrays | None
    report: NodeReport
    labels: Labels | None = None
    split: SplitCodes | None = None
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.keys)


def check_label(role: NodeRole, column: str) -> LabelKind:
    """Whether a column holds one class or a list of them. Raises InputError when it can hold none."""
    type_name = role.columns[column]
    inner = type_name.removesuffix("[]")
    if kind_of(inner) in (None, "float") or inner.endswith("]"):
        raise InputError(
            f"{column} of {role.name} is {type_name}: a class is a text, a whole number, a date or the like",
            role=role.name,
            help=f"turn it into classes, e.g. CASE WHEN {column} > … THEN 'high' ELSE 'low' END AS {column}",
        )
    return "single" if inner == type_name else "multi"


def read_nodes(
    cursor: duckdb.DuckDBPyConnection, sql: str, role: NodeRole, kinds: dict[str, Kind], label: str | None
) -> NodeTable:
    """Read a node table. `kinds` are its features, `label` the column that is learnt.

    Raises InputError for NULL and repeated ids, labels of one class, a split of other words; see `read_features`.
    """
    with disk_errors("DuckDB's temporary files"):
        ingest = _NodeIngest(cursor, role)
        try:
            return ingest.run(sql, kinds, label)
        finally:
            ingest.do(f"DROP TABLE IF EXISTS {ingest.table}")


class _NodeIngest:
    """One run of `read_nodes`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, role: NodeRole) -> None:
        self.cursor, self.role = cursor, role
        self.table = f"temp.main.graphlearn_nodes_{secrets.token_hex(6)}"
        self.report = NodeReport()

    def ask(self, sql: str) -> pa.Table:
        return interruptible(self.cursor, lambda: self.cursor.sql(sql).to_arrow_table())

    def do(self, sql: str) -> None:
        interruptible(self.cursor, lambda: self.cursor.execute(sql).fetchall())

    def run(self, sql: str, kinds: dict[str, Kind], label: str | None) -> NodeTable:
        role, report = self.role, self.report
        columns = describe(self.cursor, sql)
        wanted = [*kinds, *([label] if label else []), *([role.split] if role.split else [])]
        listed = "".join(f", {quoted(name)}" for name in wanted)
        self.do(
            f"CREATE TEMP TABLE {self.table} AS SELECT row_number() OVER (ORDER BY {KEY} ASC) - 1 AS {ID}, * FROM "
            f"(SELECT {key_sql(role.id, role.key_type)} AS {KEY}{listed}, {row_hash(columns)} AS {HASH} "
            f"FROM {subquery(sql)})"
        )
        self.check_ids()
        found = interruptible(self.cursor, lambda: measure_copy(self.cursor, self.table, columns))
        keys = keep_keys(self.cursor, f"SELECT {ID} AS id, {KEY} AS key FROM {self.table}", role.key_type)
        report.nodes = len(keys)
        features = read_features(self.ask, self.table, len(keys), role.name, kinds, report)
        labels = self.labels(label, len(keys)) if label else None
        split = self.split() if role.split else None
        return NodeTable(role.name, keys, features, report, labels, split, found.fingerprint)

    def check_ids(self) -> None:
        name = self.role.name
        rows, known, distinct = (
            column[0].as_py()
            for column in self.ask(f"SELECT count(*) a, count({KEY}) b, count(DISTINCT {KEY}) c FROM {self.table}")
        )
        if not rows:
            raise InputError(f"{name} has no rows", role=name, help="check its query")
        if known < rows:
            raise InputError(
                f"{counted(rows - known, 'row')} of {name} {'has' if rows - known == 1 else 'have'} a NULL id",
                role=name,
                help=f"leave them out: WHERE {self.role.id} IS NOT NULL",
            )
        if distinct < rows:
            twice = self.ask(
                f"SELECT {KEY}::VARCHAR AS key FROM {self.table} GROUP BY {KEY} HAVING count(*) > 1 "
                f"ORDER BY {KEY} ASC LIMIT 4"
            )
            some = shown(twice.column("key").to_pylist(), self.role.key_type)
            raise InputError(
                f"{counted(rows - distinct, 'row')} of {name} {'repeats' if rows - distinct == 1 else 'repeat'} an id: "
                f"{some}",
                role=name,
                help="a node is one row: SELECT DISTINCT, or GROUP BY id",
            )

    def split(self) -> SplitCodes:
        column = quoted(str(self.role.split))
        return read_parts(self.ask, f"SELECT {column} AS part FROM {self.table} ORDER BY {ID} ASC", self.role.name)

    def labels(self, name: str, count: int) -> Labels:
        role, kind = self.role, check_label(self.role, name)
        type_name = role.columns[name].removesuffix("[]") if kind == "multi" else role.columns[name]
        value = f"unnest({quoted(name)})" if kind == "multi" else quoted(name)
        rows = f"(SELECT DISTINCT {ID} AS node, {value}::{plain(type_name)} AS class FROM {self.table})"
        known = (
            f"(SELECT row_number() OVER (ORDER BY class ASC) - 1 AS id, class AS key FROM {rows} "
            "WHERE class IS NOT NULL GROUP BY class)"
        )
        classes = keep_keys(self.cursor, f"SELECT id, key FROM {known}", plain(type_name))
        if len(classes) < 2:
            only = f"one class only, {classes.dictionary.keys[0].as_py()!r}" if len(classes) else "no value in any row"
            raise InputError(
                f"{name} of {role.name} has {only}", role=role.name, help="there is nothing to tell apart: check it"
            )
        found = self.ask(f"SELECT node, id FROM {rows} JOIN {known} k ON class = k.key")
        nodes, ids = (found.column(c).to_numpy().astype(np.int64) for c in ("node", "id"))
        if kind == "multi":
            matrix = np.zeros((count, len(classes)), np.bool_)
            matrix[nodes, ids] = True
            return Labels(name, kind, classes, matrix=matrix)
        labels = np.full(count, -1, np.int64)
        labels[nodes] = ids
        return Labels(name, kind, classes, ids=labels)


def read_parts(ask: object, sql: str, role: str) -> SplitCodes:
    """The rows (part) of a query as split codes; NULL is -1. Raises InputError for other words."""
    found = ask(sql).column("part").combine_chunks().cast(pa.string())  # type: ignore[operator]
    wrong = sorted({w for w in found.unique().to_pylist() if w is not None and w not in list(Split)})
    if wrong:
        raise InputError(
            f"split of {role} holds {', '.join(map(repr, wrong[:3]))}",
            role=role,
            help="its values are 'train', 'valid', 'test' and NULL",
        )
    codes = np.full(len(found), -1, np.int8)
    for split in Split:
        equal = pa.compute.equal(found, split.value).fill_null(False)
        codes[np.asarray(equal.to_numpy(zero_copy_only=False))] = split.code
    return codes
