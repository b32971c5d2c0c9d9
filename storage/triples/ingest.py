"""Ingest: turns a query with head, relation and tail into dense id arrays, split into train, valid and test.

1. The query is materialised once, in a temporary table with a 64-bit hash of each key.
2. The distinct keys, numbered in key order, become the dictionaries.
3. Joins translate keys to ids: by hash if the keys of a dictionary have distinct hashes, else by key.
4. Sorting by (relation, head, tail) makes the result independent of the order of the rows.
5. Duplicates, leaks and hold-out are processed on the ids, in numpy.

DuckDB does steps 1 to 4, on all its threads, and spills to `temp_directory` above `memory_limit`. Only ids (13 bytes
per row) and masks are copied to numpy.

A new version of a model continues a base: its keys keep their ids, and its facts, found by a join, their splits.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graphlearn.errors import InputError, OptionError
from graphlearn.events import Emit, Note
from graphlearn.storage.columns import (
    REQUIRED,
    check_columns,
    common_type,
    describe,
    find_column,
    key_sql,
    kind_of,
    literal,
    quoted,
    subquery,
)
from graphlearn.storage.dictionary import numbered, widened, write_dictionary
from graphlearn.storage.files import disk_errors
from graphlearn.storage.fingerprint import digest, row_hash
from graphlearn.storage.interrupt import interruptible
from graphlearn.storage.memory import bounded_memory
from graphlearn.storage.triples.base import TripleBase
from graphlearn.storage.triples.report import IngestReport
from graphlearn.storage.triples.snapshot import ENTITIES, RELATIONS, SNAPSHOT, Codes, write_snapshot
from graphlearn.storage.triples.splits import deduplicate, divide, hold_out, keep_seen, seen
from graphlearn.text import counted
from graphlearn.types import BoolArray, IdArray, Json, Split, Triples

__all__ = [
    "EncodedTriples",
    "encode_triples",
]

BATCH_ROWS = 1 << 20
KEY_HASH = "hash({})"
INT32_IDS = 1 << 31
"""Ids are int32 up to this many entities, int64 above."""

_SPLIT_WORDS = {"train": 0, "valid": 1, "validation": 1, "dev": 1, "test": 2}
_UNKNOWN_SPLIT = 9


@dataclass(frozen=True, kw_only=True)
class EncodedTriples:
    """Triples as ids, and the dictionaries to translate them back to keys.

    Within a split, triples are unique and ordered by (relation, head, tail). Ids start at 0, or after those of the
    base, in key order. `alive`: whether an entity occurs in a fact; the others occur only in earlier versions and are
    not candidates. shape: alive: [E]. Until `write`, the dictionaries are in unnamed temporary files, which disappear
    with the process.
    """

    report: IngestReport
    splits: dict[Split, Triples]
    n_entities: int
    n_relations: int
    entity_type: str
    relation_type: str
    fingerprint: str
    alive: BoolArray
    _removed: dict[Split, Triples] = field(repr=False, compare=False)
    _entities: IO[bytes] = field(repr=False, compare=False)
    _relations: IO[bytes] = field(repr=False, compare=False)

    def write(self, folder: Path) -> None:
        """Write entities.parquet, relations.parquet and snapshot.parquet into an existing folder.

        Raises WorkspaceError when the disk is full or the folder is not writable.
        """
        for source, name in ((self._entities, ENTITIES), (self._relations, RELATIONS)):
            with disk_errors(folder / name), open(folder / name, "wb") as target:
                source.seek(0)
                shutil.copyfileobj(source, target, 1 << 22)
        write_snapshot(folder / SNAPSHOT, self.splits, self._removed)

    def manifest(self) -> Json:
        """The keys that it adds to a version's manifest."""
        return {
            "data_fingerprint": self.fingerprint,
            "entity_type": self.entity_type,
            "relation_type": self.relation_type,
            "counts": self.report.to_json(),
        }

    def close(self) -> None:
        """Release the temporary files, which `write` needs."""
        self._entities.close()
        self._relations.close()


def encode_triples(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    *,
    holdout: tuple[float, float] = (0.05, 0.05),
    seed: int = 0,
    base: TripleBase | None = None,
    memory_limit: int | None = None,
    emit: Emit,
) -> EncodedTriples:
    """Read a query of triples (columns head, relation, tail and, optionally, split) into id arrays.

    Ids and splits do not depend on the order of the rows. Rows with a NULL key are dropped and counted. Of equal
    triples one is kept, preferably in train, else in valid. Without a split column, the fractions `holdout` = (valid,
    test) are held out by a hash of keys and `seed`, so that a triple stays in its split when others are added; held-out
    triples whose head, tail or relation would be missing in train are moved to train.

    With a `base`, its keys keep their ids, new keys are appended in key order, and its facts keep their splits, even if
    they were removed and return. Only new facts are held out, moved, or placed by a split column.

    `memory_limit` limits DuckDB's memory in bytes (see `bounded_memory`), not that of the arrays.
    Raises InputError for a query that is empty, lacks columns or has unusable values; OptionError for invalid
    fractions; ResourceError or WorkspaceError if memory or disk space is exhausted; the duckdb.Error of the query.
    """
    valid, test = holdout
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise OptionError(
            f"holdout = ({valid}, {test}) must be two fractions from 0 whose sum is below 1", key="holdout"
        )
    columns = describe(cursor, sql)
    check_columns(columns)
    with bounded_memory(cursor, memory_limit), disk_errors("DuckDB's temporary files"):
        ingest = _Ingest(cursor, columns, base, emit)
        try:
            return ingest.run(sql, holdout, seed)
        finally:
            ingest.drop()


class _Ingest:
    """One call of `encode_triples`: its temporary tables and counts."""

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, columns: dict[str, str], base: TripleBase | None, emit: Emit
    ) -> None:
        self.cursor = cursor
        self.columns = columns
        self.base = base
        self.emit = emit
        self.report = IngestReport()
        token = secrets.token_hex(6)
        self.raw, self.entities, self.relations = (
            f"temp.main.graphlearn_{name}_{token}" for name in ("raw", "entities", "relations")
        )
        self.facts = f"graphlearn_facts_{token}"
        types = {name: columns[str(find_column(columns, name))] for name in REQUIRED}
        self.known = (base.entities, base.relations) if base is not None else (None, None)
        ends = common_type(cursor, [types["head"], types["tail"]])
        self.entity_type = widened(cursor, self.known[0], ends, "head and tail")
        self.relation_type = widened(cursor, self.known[1], common_type(cursor, [types["relation"]]), "relation")
        self.split = find_column(columns, "split")
        self.by_hash = True

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return interruptible(self.cursor, lambda: self.cursor.execute(sql).fetchall())

    def drop(self) -> None:
        for table in (self.raw, self.entities, self.relations):
            with suppress(duckdb.Error):  # a failed transaction or closed connection has dropped them already
                self.execute(f"DROP TABLE IF EXISTS {table}")

    def run(self, sql: str, holdout: tuple[float, float], seed: int) -> EncodedTriples:
        digest = self.materialise(sql)
        self.number_keys()
        r_type = "INTEGER" if self.report.relations <= INT32_IDS else "BIGINT"
        e_type = "INTEGER" if self.report.entities <= INT32_IDS else "BIGINT"
        triples, codes, rows = self.ids(e_type, r_type)
        self.execute(f"DROP TABLE {self.raw}")
        kept = deduplicate(triples, codes, self.report)
        triples, codes = triples[kept], codes[kept]
        sizes = self.report.entities, self.report.relations
        drawn = self.split is None and max(holdout) > 0
        if drawn:
            codes = hold_out(triples, self.key_hashes(self.entities), self.key_hashes(self.relations), holdout, seed)
        alive, removed = np.ones(self.report.entities, np.bool_), {}
        if self.base is not None:
            rows = rows[kept]
            codes, removed = self.settle(rows, codes), self.base.without(rows)
            alive = self.count_vanished(triples, removed)
        if drawn:
            self.report.moved_to_train = keep_seen(triples, codes, *sizes, None if self.base is None else rows < 0)
        if self.base is not None and self.split is None and codes.all():
            raise InputError(
                "all remaining facts were held out by an earlier version, so there is none to train on",
                help="check the query, or start over with CREATE OR REPLACE MODEL",
            )
        splits = divide(triples, codes, self.report, covered=self.split is None and self.base is None)
        del triples, codes, rows
        files = [
            self.store(self.entities, self.entity_type, e_type),
            self.store(self.relations, self.relation_type, r_type),
        ]
        for message, level in self.report.notes():
            self.emit(Note(message=message, level=level))
        return EncodedTriples(
            report=self.report,
            splits=splits,
            n_entities=self.report.entities,
            n_relations=self.report.relations,
            entity_type=self.entity_type,
            relation_type=self.relation_type,
            fingerprint=digest,
            alive=alive,
            _removed=removed,
            _entities=files[0],
            _relations=files[1],
        )

    def materialise(self, sql: str) -> str:
        """Run the query once, into the raw table, and count and check its rows. Returns the fingerprint."""
        keys = {name: self.relation_type if name == "relation" else self.entity_type for name in REQUIRED}
        parts = [f"{key_sql(str(find_column(self.columns, name)), type_)} AS {name}" for name, type_ in keys.items()]
        if self.split is not None:
            word = f"{quoted(self.split)}::VARCHAR COLLATE C"
            cases = " ".join(f"WHEN {literal(name)} THEN {code}::UTINYINT" for name, code in _SPLIT_WORDS.items())
            code = f"CASE {word} {cases} ELSE CASE lower({word}) {cases} ELSE {_UNKNOWN_SPLIT}::UTINYINT END END"
            parts.append(f"{code} AS split")
            parts.append(f"CASE WHEN {code} = {_UNKNOWN_SPLIT} THEN coalesce('=' || {word}, '') END AS odd")
        hashes = ", ".join(f"{KEY_HASH.format(f'keys.{name}')} AS {name}_hash" for name in REQUIRED)
        self.execute(
            f"CREATE TEMP TABLE {self.raw} AS SELECT *, {hashes} FROM "
            f"(SELECT {', '.join(parts)}, {row_hash(self.columns)} AS row_hash FROM {subquery(sql)}) AS keys"
        )
        floats = [name for name, type_ in keys.items() if kind_of(type_) == "float"]
        counts = [
            "count(*)",
            "bit_xor(row_hash)",
            "sum(row_hash)",
            "count(*) FILTER (head IS NULL OR relation IS NULL OR tail IS NULL)",
            f"count(*) FILTER (split = {_UNKNOWN_SPLIT})" if self.split is not None else "0",
            *(f"count(*) FILTER (isnan({name}))" for name in floats),
        ]
        rows, xor, total, nulls, odd, *nans = self.execute(f"SELECT {', '.join(counts)} FROM {self.raw}")[0]
        self.report.rows, self.report.null_rows = rows, nulls
        if rows == 0:
            raise InputError("the query has no rows", help="check its WHERE clause and the path of its files")
        if nulls == rows:
            raise InputError(f"every row ({rows:,}) has a NULL head, relation or tail", help="check the query's joins")
        for name, count in zip(floats, nans, strict=True):
            if count:
                raise InputError(
                    f"{name} is NaN in {counted(count, 'row')}", help=f"filter them out, e.g. WHERE NOT isnan({name})"
                )
        if odd:
            self.refuse_splits()
        return digest(self.columns, rows, xor, total)

    def refuse_splits(self) -> None:
        odd = self.execute(
            f"SELECT left(odd, 41), count(*) FROM {self.raw} WHERE odd IS NOT NULL "
            "GROUP BY ALL ORDER BY 2 DESC, 1 ASC LIMIT 6"
        )
        listed = ", ".join(f"{repr(value[1:]) if value else 'NULL'} ({counted(n, 'row')})" for value, n in odd[:5])
        raise InputError(
            f"split has values that name no split: {listed}{', …' if len(odd) > 5 else ''}",
            help="use 'train', 'valid' and 'test', or leave the column out to hold out at random",
        )

    @property
    def where(self) -> str:
        if not self.report.null_rows:
            return ""
        return " WHERE head IS NOT NULL AND relation IS NOT NULL AND tail IS NOT NULL"

    def number_keys(self) -> None:
        """Create the dictionaries: distinct keys, numbered in key order from 0 or after those of the base."""
        ends = " UNION ALL ".join(f"SELECT {end} AS key FROM {self.raw}{self.where}" for end in ("head", "tail"))
        links = f"SELECT relation AS key FROM {self.raw}{self.where}"
        for table, keys in (
            (self.entities, numbered(ends, self.entity_type, self.known[0])),
            (self.relations, numbered(links, self.relation_type, self.known[1])),
        ):
            self.execute(f"CREATE TEMP TABLE {table} AS SELECT id, key, {KEY_HASH.format('key')} AS hash FROM ({keys})")
        counts = [
            self.execute(f"SELECT count(*), count(DISTINCT hash) FROM {table}")[0]
            for table in (self.entities, self.relations)
        ]
        self.report.entities, self.report.relations = (keys for keys, _ in counts)
        self.by_hash = all(keys == hashes for keys, hashes in counts)

    def ids(self, e_type: str, r_type: str) -> tuple[Triples, Codes, IdArray]:
        """Triples as ids and their split codes, ordered by (relation, head, tail, split), and positions in the base.

        The position of a new fact is -1; without a base, the array of positions is empty. shape: [rows] each
        """
        n = self.report.rows - self.report.null_rows
        code = "split" if self.split is not None else "0::UTINYINT"
        joins = " ".join(
            f"JOIN {table} {short} ON {f'{short}.hash = {end}_hash' if self.by_hash else f'{short}.key = {end}'}"
            for table, short, end in (
                (self.entities, "h", "head"),
                (self.entities, "t", "tail"),
                (self.relations, "r", "relation"),
            )
        )
        place = ""
        if self.base is not None:
            place = ", coalesce(b.row, -1) AS b"
            joins += f" LEFT JOIN {self.facts} b ON known_head = h.id AND known_relation = r.id AND known_tail = t.id"
        query = (
            f"SELECT h.id::{e_type} AS h, r.id::{r_type} AS r, t.id::{e_type} AS t, {code} AS s{place} FROM {self.raw} "
            f"{joins}{self.where} ORDER BY r ASC, h ASC, t ASC, s ASC"
        )
        heads, relations, tails = _empty_ids(n, e_type), _empty_ids(n, r_type), _empty_ids(n, e_type)
        codes, rows = np.empty(n, np.uint8), _empty_ids(n if self.base is not None else 0, "BIGINT")

        def read() -> int:
            start = 0
            reader: pa.RecordBatchReader = self.cursor.sql(query).to_arrow_reader(BATCH_ROWS)
            try:
                for batch in reader:
                    for target, column in zip((heads, relations, tails, codes, rows), batch.columns, strict=False):
                        target[start : start + len(column)] = column.to_numpy(zero_copy_only=True)
                    start += batch.num_rows
            finally:
                reader.close()
            return start

        if self.base is not None:
            self.cursor.register(self.facts, self.base.table())
        try:
            count = interruptible(self.cursor, read)
        finally:
            if self.base is not None:
                self.cursor.unregister(self.facts)
        assert count == n, (count, n)
        return Triples(heads, relations, tails), codes, rows

    def settle(self, rows: IdArray, codes: Codes) -> Codes:
        """The split codes; facts of the base keep theirs. shape: [n], [n] -> [n]"""
        assert self.base is not None
        settled = self.base.settle(rows, codes)
        if self.split is not None:
            self.report.kept_split = int(np.count_nonzero(settled != codes))
        return settled

    def count_vanished(self, triples: Triples, removed: dict[Split, Triples]) -> BoolArray:
        """Count keys and facts of the base that no longer occur; returns which entities occur in a fact. shape: [E]"""
        report = self.report
        entities, relations = seen(triples, report.entities, report.relations)
        report.removed = sum(map(len, removed.values()))
        report.vanished_entities = int(np.count_nonzero(~entities))
        report.vanished_relations = int(np.count_nonzero(~relations))
        return entities

    def key_hashes(self, table: str) -> npt.NDArray[np.uint64]:
        """A hash of every key, in id order, that does not depend on the version of DuckDB. shape: [keys]"""
        query = f"SELECT md5_number_lower(key::VARCHAR)::UBIGINT AS hash FROM {table} ORDER BY id ASC"
        return np.asarray(self.cursor.sql(query).fetchnumpy()["hash"])

    def store(self, table: str, key_type: str, id_type: str) -> IO[bytes]:
        """The dictionary as an unnamed Parquet file, which disappears with the process."""
        with tempfile.TemporaryDirectory(prefix="graphlearn-") as folder:
            path = Path(folder) / "keys.parquet"
            write_dictionary(self.cursor, f"SELECT id::{id_type} AS id, key FROM {table}", key_type, path)
            return open(os.open(path, os.O_RDONLY), "rb")


def _empty_ids(n: int, type_name: str) -> IdArray:
    return np.empty(n, np.int32) if type_name == "INTEGER" else np.empty(n, np.int64)
