"""Node tables: a query with ids, features and perhaps the target becomes keys by position and arrays."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.storage.columns import describe, key_sql, kind_of, quoted, subquery
from graphlearn.storage.dictionary import Dictionary, numbered, widened, write_dictionary
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
    """The keys of a table by position, in memory and in a file. Pickling includes the content of the file.

    During a job, the file is an open unnamed one, which disappears with the process.
    """

    dictionary: Dictionary
    _file: IO[bytes] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def unnamed(cls, write: Callable[[Path], object]) -> Keys:
        """The keys from the file that `write` creates, which is unlinked after reading."""
        with tempfile.TemporaryDirectory(prefix="graphlearn-") as folder:
            path = Path(folder) / "keys.parquet"
            with disk_errors(path):
                write(path)
            found = Dictionary(path)
            assert len(found.keys) == len(found)  # read while the file has a name
            return cls(found, open(os.open(path, os.O_RDONLY), "rb"))

    def __len__(self) -> int:
        return len(self.dictionary)

    def __reduce__(self) -> tuple[Callable[[bytes], Keys], tuple[bytes]]:
        return keys_of_bytes, (self._content(),)

    def _content(self) -> bytes:
        """The content of the file."""
        if self._file is None:
            return self.dictionary.path.read_bytes()
        self._file.seek(0)
        return self._file.read()

    def write(self, path: Path) -> None:
        """Copy the keys into a file."""
        with disk_errors(path):
            if self._file is None:
                shutil.copyfile(self.dictionary.path, path)
                return
            self._file.seek(0)
            with open(path, "wb") as out:
                shutil.copyfileobj(self._file, out, 1 << 22)

    def table(self, rows: IdArray | None = None) -> pa.Table:
        """(id, key), by default of all ids, to be registered with DuckDB, which reads keys of every type exactly."""
        ids = np.arange(len(self)) if rows is None else rows
        keys = self.dictionary.keys if rows is None else self.dictionary.take(rows)
        schema = pa.schema([("id", pa.int64()), self.dictionary.field])
        return pa.table([pa.array(ids, pa.int64()), keys], schema=schema)


def keep_keys(cursor: duckdb.DuckDBPyConnection, sql: str, key_type: str) -> Keys:
    """The rows (id, key) of a query, in memory and in an unnamed file."""
    return Keys.unnamed(lambda path: interruptible(cursor, lambda: write_dictionary(cursor, sql, key_type, path)))


def keys_of_bytes(content: bytes) -> Keys:
    """The keys from the content of a dictionary file."""
    return Keys.unnamed(lambda path: path.write_bytes(content))


def shown(keys: list[str], key_type: str) -> str:
    """Up to three keys as text for a message, with texts in quotes."""
    some = [repr(key) if kind_of(key_type) == "text" else key for key in keys[:3]]
    short = [key if len(key) <= 40 else f"{key[:39]}…" for key in some]
    return ", ".join([*short, *(["…"] if len(keys) > 3 else [])])


@dataclass(frozen=True)
class Labels:
    """The labels of nodes. ids: [N], -1 = unknown (single); matrix: [N, C] (multi). `classes`: by position."""

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

    def at(self, rows: IdArray, count: int) -> Labels:
        """The labels with node i moved to `rows[i]` of `count` nodes; the others have none. shape: rows: [N]"""
        if self.ids is not None:
            return replace(self, ids=spread(self.ids, rows, count, -1))
        assert self.matrix is not None
        return replace(self, matrix=spread(self.matrix, rows, count, False))


@dataclass(frozen=True)
class NodeTable:
    """Nodes of a type in key order, nodes of earlier versions first. split: [N], None without a split column.

    `fingerprint`: of the rows; empty for a stored table. `present`: whether a node is still in the table, None for all;
    other nodes keep their ids but have no features, label, split or edges. `assigned`: the split that each node was
    assigned in any version, -1 for none. shape: [N] each
    """

    name: str
    keys: Keys
    features: FeatureArrays | None
    report: NodeReport
    labels: Labels | None = None
    split: SplitCodes | None = None
    fingerprint: str = ""
    present: BoolArray | None = None
    assigned: SplitCodes | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def known_keys(self) -> pa.Table:
        """(id, key) of the nodes that edges may refer to; see `Keys.table`."""
        return self.keys.table(None if self.present is None else np.flatnonzero(self.present))

    def keep_parts(self, split: SplitCodes) -> SplitCodes:
        """The splits; nodes that have one and had another before keep the earlier one. shape: [N] -> [N]"""
        if self.assigned is None:
            return split
        return np.where((split >= 0) & (self.assigned >= 0), self.assigned, split)

    def remember(self, split: SplitCodes) -> NodeTable:
        """The table with these splits, which later versions keep. shape: [N]"""
        before = np.full(len(self), -1, np.int8) if self.assigned is None else self.assigned
        return replace(self, split=split, assigned=np.where(split >= 0, split, before))

    def continued(self, base: NodeTable, rows: IdArray) -> NodeTable:
        """The nodes at their ids `rows`, together with nodes that only the base has. shape: rows: [present nodes]"""
        count = len(self.keys)
        present = spread(np.ones(len(rows), np.bool_), rows, count, False)
        assigned = np.full(count, -1, np.int8)
        if base.assigned is not None:
            assigned[: len(base)] = base.assigned
        split = None
        if self.split is not None:
            given = spread(self.split, rows, count, -1)
            split = np.where(present & (assigned >= 0), assigned, given)
            self.report.kept_split = int(np.count_nonzero(split != given))
        self.report.vanished = count - len(rows)
        return replace(
            self,
            features=None if self.features is None else self.features.at(rows, count),
            labels=None if self.labels is None else self.labels.at(rows, count),
            split=split,
            present=present,
            assigned=assigned,
        )


def check_label(role: NodeRole, column: str) -> LabelKind:
    """Whether a column contains one class per node or a list. Raises InputError for a type that cannot be a class."""
    type_name = role.columns[column]
    inner = type_name.removesuffix("[]")
    if kind_of(inner) in (None, "float") or inner.endswith("]"):
        raise InputError(
            f"{column} of {role.name} is {type_name}: a class must be text, a whole number, a date or similar",
            role=role.name,
            help=f"turn it into classes, e.g. CASE WHEN {column} > … THEN 'high' ELSE 'low' END AS {column}",
        )
    return "single" if inner == type_name else "multi"


def read_nodes(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    role: NodeRole,
    kinds: dict[str, Kind],
    label: str | None,
    base: NodeTable | None = None,
) -> NodeTable:
    """Read a node table. `kinds`: its features; `label`: the target column.

    `base`: the table of the previous version. Its nodes and classes keep their ids, and new ones are appended in key
    order. A node keeps its split, even if a split column now gives another.

    Raises InputError for NULL or repeated ids, a single class, and unknown splits; see also `read_features`.
    """
    with disk_errors("DuckDB's temporary files"):
        ingest = _NodeIngest(cursor, role, base)
        try:
            return ingest.run(sql, kinds, label)
        finally:
            ingest.do(f"DROP TABLE IF EXISTS {ingest.table}")


class _NodeIngest:
    """One call of `read_nodes`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, role: NodeRole, base: NodeTable | None) -> None:
        self.cursor, self.role, self.base = cursor, role, base
        self.known = base.keys.dictionary if base is not None else None
        self.key_type = widened(cursor, self.known, role.key_type, f"{role.id} of {role.name}", role.name)
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
            f"(SELECT {key_sql(role.id, self.key_type)} AS {KEY}{listed}, {row_hash(columns)} AS {HASH} "
            f"FROM {subquery(sql)})"
        )
        self.check_ids()
        copied = interruptible(self.cursor, lambda: measure_copy(self.cursor, self.table, columns))
        numbers = numbered(f"SELECT {KEY} AS key FROM {self.table}", self.key_type, self.known)
        keys = keep_keys(self.cursor, numbers, self.key_type)
        rows = None if self.base is None else self.rows(keys)
        count = len(keys) if rows is None else len(rows)
        report.nodes = len(keys)
        features = read_features(self.ask, self.table, count, role.name, kinds, report)
        labels = self.labels(label, count) if label else None
        split = self.split() if role.split else None
        found = NodeTable(role.name, keys, features, report, labels, split, copied.fingerprint)
        return found if self.base is None or rows is None else found.continued(self.base, rows)

    def rows(self, keys: Keys) -> IdArray:
        """The ids of the nodes, in the order of the table. shape: [present nodes]"""
        name = f"graphlearn_keys_{secrets.token_hex(6)}"
        self.cursor.register(name, keys.table())
        try:
            found = self.ask(f"SELECT k.id FROM {self.table} JOIN {name} k ON k.key = {KEY} ORDER BY {ID} ASC")
        finally:
            self.cursor.unregister(name)
        return np.asarray(found.column("id").to_numpy())

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
                help="each node needs exactly one row: use SELECT DISTINCT or GROUP BY id",
            )

    def split(self) -> SplitCodes:
        column = quoted(str(self.role.split))
        return read_parts(self.ask, f"SELECT {column} AS part FROM {self.table} ORDER BY {ID} ASC", self.role.name)

    def labels(self, name: str, count: int) -> Labels:
        role, kind = self.role, check_label(self.role, name)
        type_name = role.columns[name].removesuffix("[]") if kind == "multi" else role.columns[name]
        known = self.base.labels.classes.dictionary if self.base is not None and self.base.labels is not None else None
        class_type = widened(self.cursor, known, plain(type_name), f"{name} of {role.name}", role.name)
        value = f"unnest({quoted(name)})" if kind == "multi" else quoted(name)
        rows = f"(SELECT DISTINCT {ID} AS node, {value}::{class_type} AS class FROM {self.table})"
        numbers = numbered(f"SELECT class AS key FROM {rows} WHERE class IS NOT NULL", class_type, known)
        classes = keep_keys(self.cursor, numbers, class_type)
        if len(classes) < 2:
            only = f"only one class, {classes.dictionary.keys[0].as_py()!r}" if len(classes) else "no value in any row"
            raise InputError(
                f"{name} of {role.name} has {only}",
                role=role.name,
                help="add nodes of other classes, or choose another target",
            )
        found = self.ask(f"SELECT node, id FROM {rows} JOIN ({numbers}) k ON class = k.key")
        nodes, ids = (found.column(c).to_numpy().astype(np.int64) for c in ("node", "id"))
        if kind == "multi":
            nulls = f"SELECT count(*) AS n FROM (SELECT {value} AS class FROM {self.table}) WHERE class IS NULL"
            self.report.null_classes = self.ask(nulls)["n"][0].as_py()
            matrix = np.zeros((count, len(classes)), np.bool_)
            matrix[nodes, ids] = True
            return Labels(name, kind, classes, matrix=matrix)
        labels = np.full(count, -1, np.int64)
        labels[nodes] = ids
        return Labels(name, kind, classes, ids=labels)


def spread(values: npt.NDArray[Any], rows: IdArray, count: int, rest: Any) -> npt.NDArray[Any]:
    """An array with the values at `rows` and `rest` elsewhere. shape: [n, ...], [n] -> [count, ...]"""
    out = np.full((count, *values.shape[1:]), rest, values.dtype)
    out[rows] = values
    return out


def read_parts(ask: object, sql: str, role: str) -> SplitCodes:
    """The rows (part) of a query as split codes; NULL is -1. Raises InputError for values that are not splits."""
    found = ask(sql).column("part").combine_chunks().cast(pa.string())  # type: ignore[operator]
    wrong = sorted({w for w in found.unique().to_pylist() if w is not None and w not in list(Split)})
    if wrong:
        raise InputError(
            f"split of {role} contains {', '.join(map(repr, wrong[:3]))}",
            role=role,
            help="use 'train', 'valid', 'test' or NULL",
        )
    codes = np.full(len(found), -1, np.int8)
    for split in Split:
        equal = pa.compute.equal(found, split.value).fill_null(False)
        codes[np.asarray(equal.to_numpy(zero_copy_only=False))] = split.code
    return codes
