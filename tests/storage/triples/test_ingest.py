"""Ingest: keys to ids, compared with a Python oracle, and errors."""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from cases.storage import limited_file_size
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import InputError, OptionError, ResourceError, WorkspaceError
from graphlearn.events import Event, Note, silent
from graphlearn.storage.columns import check_columns, describe
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.fingerprint import fingerprint
from graphlearn.storage.memory import bounded_memory
from graphlearn.storage.triples import ingest as module
from graphlearn.storage.triples.ingest import EncodedTriples, encode_triples
from graphlearn.storage.triples.snapshot import read_snapshot
from graphlearn.types import Split

Row = tuple[Any, ...]


@pytest.fixture
def cursor(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"threads": 2, "temp_directory": str(tmp_path / "spill")})
    connection.execute("SET max_temp_directory_size = '4GB'")
    yield connection
    connection.close()


def decode(encoded: EncodedTriples) -> dict[Split, list[Row]]:
    """The triples of each split with the users' keys, in stored order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoded.write(folder)
        entities = Dictionary(folder / "entities.parquet").keys.to_pylist()
        relations = Dictionary(folder / "relations.parquet").keys.to_pylist()
        assert {s: list(zip(*columns(t), strict=True)) for s, t in read_snapshot(folder).items()} == {
            s: list(zip(*columns(t), strict=True)) for s, t in encoded.splits.items()
        }
    assert len(entities) == encoded.n_entities
    assert len(relations) == encoded.n_relations
    return {
        split: [(entities[h], relations[r], entities[t]) for h, r, t in zip(*columns(triples), strict=True)]
        for split, triples in encoded.splits.items()
    }


def columns(triples: Any) -> tuple[list[int], list[int], list[int]]:
    return triples.heads.tolist(), triples.relations.tolist(), triples.tails.tolist()


def temporary_tables(cursor: duckdb.DuckDBPyConnection) -> int:
    return int(cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall()[0][0])


# --- the oracle ---------------------------------------------------------------------------------------------------

PRIORITY = {"train": 0, "valid": 1, "validation": 1, "dev": 1, "test": 2}
NAMES = [Split.TRAIN, Split.VALID, Split.TEST]


def oracle(rows: list[Row]) -> tuple[dict[str, int], dict[Split, list[Row]]]:
    """Counts and split triples in stored order, computed row by row."""
    clean = [row for row in rows if None not in row[:3]]
    best: dict[Row, int] = {}
    for *triple, split in clean:
        code = PRIORITY[split.lower()]
        best[tuple(triple)] = min(code, best.get(tuple(triple), 9))
    leaked = sum(PRIORITY[row[3].lower()] != best[row[:3]] for row in clean)
    splits = {
        name: sorted((t for t, code in best.items() if code == i), key=lambda t: (t[1], t[0], t[2]))
        for i, name in enumerate(NAMES)
    }
    everyone = {key for triple in best for key in (triple[0], triple[2])}
    trained = {key for triple in splits[Split.TRAIN] for key in (triple[0], triple[2])}
    relations = {triple[1] for triple in best}
    return {
        "rows": len(rows),
        "null_rows": len(rows) - len(clean),
        "leaked_rows": leaked,
        "duplicate_rows": len(clean) - leaked - len(best),
        "self_loops": sum(t[0] == t[2] for t in best),
        "moved_to_train": 0,
        "entities": len(everyone),
        "relations": len(relations),
        "train": len(splits[Split.TRAIN]),
        "valid": len(splits[Split.VALID]),
        "test": len(splits[Split.TEST]),
        "unseen_entities": len(everyone - trained),
        "unseen_relations": len(relations - {t[1] for t in splits[Split.TRAIN]}),
        **dict.fromkeys(("removed", "vanished_entities", "vanished_relations", "kept_split"), 0),
    }, splits


KEYS = {
    "VARCHAR": st.one_of(
        st.sampled_from(["a", "B", "b", "é", "'", '"', "", " ", "NULL", "\0x", "🦆"]), st.text(max_size=3)
    ),
    "BIGINT": st.one_of(st.integers(-3, 3), st.integers(-(1 << 63), (1 << 63) - 1)),
    "DOUBLE": st.one_of(st.sampled_from([0.0, -0.0, float("inf")]), st.floats(allow_nan=False)),
}
ARROW = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64()}
SPLITS = st.sampled_from(["train", "TRAIN", "valid", "Validation", "dev", "test"])


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, str, list[Row]]:
    entity, relation = draw(st.sampled_from(list(KEYS))), draw(st.sampled_from(list(KEYS)))
    pool = draw(st.lists(st.one_of(st.none(), KEYS[entity]), min_size=1, max_size=6))
    links = draw(st.lists(st.one_of(st.none(), KEYS[relation]), min_size=1, max_size=3))
    end = st.sampled_from(pool)
    rows = draw(st.lists(st.tuples(end, st.sampled_from(links), end, SPLITS), min_size=1, max_size=40))
    return entity, relation, rows


def register(connection: duckdb.DuckDBPyConnection, entity: str, relation: str, rows: list[Row]) -> None:
    heads, links, tails, splits = zip(*rows, strict=True)
    table = pa.table(
        {
            "head": pa.array(heads, ARROW[entity]),
            "relation": pa.array(links, ARROW[relation]),
            "tail": pa.array(tails, ARROW[entity]),
            "split": pa.array(splits, pa.string()),
        }
    )
    connection.register("given", table)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs())
def test_ingest_equals_a_plain_loop(cursor: duckdb.DuckDBPyConnection, case: tuple[str, str, list[Row]]) -> None:
    entity, relation, rows = case
    register(cursor, entity, relation, rows)
    counts, splits = oracle(rows)
    if not counts["train"]:
        with pytest.raises(InputError):
            encode_triples(cursor, "FROM given", emit=silent)
        return
    encoded = encode_triples(cursor, "FROM given", emit=silent)
    assert encoded.report.to_json() == counts
    assert decode(encoded) == splits
    assert (encoded.entity_type, encoded.relation_type) == (entity, relation)
    assert encoded.fingerprint == fingerprint(cursor, "FROM given")
    assert temporary_tables(cursor) == 0


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_hold_out_is_complete_covered_and_independent_of_row_order(
    cursor: duckdb.DuckDBPyConnection, case: tuple[str, str, list[Row]], seed: int, chance: random.Random
) -> None:
    entity, relation, rows = case
    counts, _ = oracle(rows)
    if counts["rows"] == counts["null_rows"]:
        return
    query = "SELECT head, relation, tail FROM given"
    register(cursor, entity, relation, rows)
    first = encode_triples(cursor, query, holdout=(0.3, 0.3), seed=seed, emit=silent)
    chance.shuffle(rows)
    register(cursor, entity, relation, rows)
    second = encode_triples(cursor, query, holdout=(0.3, 0.3), seed=seed, emit=silent)
    assert decode(first) == decode(second)
    assert first.report == second.report
    assert first.fingerprint == second.fingerprint
    report = first.report
    assert report.train + report.valid + report.test == len({row[:3] for row in rows if None not in row[:3]})
    assert (report.unseen_entities, report.unseen_relations, report.leaked_rows) == (0, 0, 0)
    assert first.n_entities == counts["entities"]


# --- order, dtypes, joins -----------------------------------------------------------------------------------------

GRAPH = (
    "SELECT 'e' || (range * 7919 % 300) AS head, 'r' || range % 5 AS relation, 'e' || (range * 104729 % 311) AS tail "
    "FROM range(3000)"
)


def same(a: EncodedTriples, b: EncodedTriples) -> bool:
    return all(columns(a.splits[s]) == columns(b.splits[s]) for s in Split)


def test_triples_come_in_order_and_contiguous_int32(cursor: duckdb.DuckDBPyConnection) -> None:
    encoded = encode_triples(cursor, GRAPH, emit=silent)
    for triples in encoded.splits.values():
        assert triples.heads.dtype == triples.relations.dtype == triples.tails.dtype == np.int32
        assert triples.heads.flags.c_contiguous
        keys = np.stack([triples.tails, triples.heads, triples.relations])
        assert np.array_equal(np.lexsort(keys), np.arange(len(triples)))
    assert encoded.report.train + encoded.report.valid + encoded.report.test == 3000
    assert 80 < encoded.report.valid < 220
    assert 80 < encoded.report.test < 220


def test_hash_collisions_fall_back_to_keys(cursor: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encode_triples(cursor, GRAPH, emit=silent)
    monkeypatch.setattr(module, "KEY_HASH", "(hash({}) % 7)")
    assert same(plain, encode_triples(cursor, GRAPH, emit=silent))


def test_above_two_billion_entities_ids_are_int64(
    cursor: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encode_triples(cursor, GRAPH, emit=silent)
    monkeypatch.setattr(module, "INT32_IDS", 100)
    wide = encode_triples(cursor, GRAPH, emit=silent)
    assert wide.splits[Split.TRAIN].heads.dtype == np.int64
    assert wide.splits[Split.TRAIN].relations.dtype == np.int32
    assert same(plain, wide)
    decode(wide)


def test_small_batches_are_put_together(cursor: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encode_triples(cursor, GRAPH, emit=silent)
    monkeypatch.setattr(module, "BATCH_ROWS", 2048)
    assert same(plain, encode_triples(cursor, GRAPH, emit=silent))


def test_a_triple_stays_in_its_split_when_others_are_added(cursor: duckdb.DuckDBPyConnection) -> None:
    small = decode(encode_triples(cursor, GRAPH, emit=silent))
    large = decode(encode_triples(cursor, GRAPH.replace("range(3000)", "range(4000)"), emit=silent))
    train = set(large[Split.TRAIN])
    moved = [t for s in (Split.VALID, Split.TEST) for t in small[s] if t in train]
    assert not moved
    other = decode(encode_triples(cursor, GRAPH, seed=1, emit=silent))
    assert set(other[Split.TEST]) != set(small[Split.TEST])


def test_settings_of_the_user_change_nothing(cursor: duckdb.DuckDBPyConnection) -> None:
    plain = encode_triples(cursor, GRAPH, emit=silent)
    for setting in (
        "default_order = 'DESC'",
        "default_null_order = 'NULLS FIRST'",
        "default_collation = 'nocase'",
        "preserve_insertion_order = false",
        "threads = 1",
        "errors_as_json = true",
    ):
        cursor.execute(f"SET {setting}")
    assert same(plain, encode_triples(cursor, GRAPH, emit=silent))


def test_keys_are_case_sensitive_whatever_the_collation(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("CREATE TABLE t (head VARCHAR COLLATE nocase, relation VARCHAR, tail VARCHAR COLLATE nocase)")
    cursor.execute("INSERT INTO t VALUES ('a', 'r', 'A'), ('A', 'r', 'B'), ('A', 'R', 'B')")
    encoded = encode_triples(cursor, "FROM t", holdout=(0, 0), emit=silent)
    assert decode(encoded)[Split.TRAIN] == [("A", "R", "B"), ("A", "r", "B"), ("a", "r", "A")]
    assert encoded.report.self_loops == 0


def test_a_query_with_side_effects_runs_once(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("CREATE SEQUENCE s")
    encode_triples(cursor, "SELECT nextval('s') AS head, 'r' AS relation, range AS tail FROM range(10)", emit=silent)
    assert cursor.execute("SELECT nextval('s')").fetchall() == [(11,)]


@pytest.mark.parametrize("ending", [";", " -- the end", "\n;\n", " /* x */"])
def test_queries_may_end_with_semicolons_and_comments(cursor: duckdb.DuckDBPyConnection, ending: str) -> None:
    sql = "SELECT 'a' AS Head, 'r' AS RELATION, 'b' AS tail" + ending
    assert describe(cursor, sql) == {"Head": "VARCHAR", "RELATION": "VARCHAR", "tail": "VARCHAR"}
    assert encode_triples(cursor, sql, emit=silent).report.train == 1


# --- keys of all types --------------------------------------------------------------------------------------------

TYPES = {
    "VARCHAR": "'x''\"' || chr(0) || range",
    "ENUM('a','b')": "if(range % 2 = 0, 'a', 'b')",
    "TINYINT": "range - 5",
    "UBIGINT": "18446744073709551615 - range",
    "HUGEINT": "170141183460469231731687303715884105727 - range",
    "UHUGEINT": "340282366920938463463374607431768211455 - range::UHUGEINT",
    "BIGNUM": "123456789012345678901234567890123456789012345678901234567890::BIGNUM + range::BIGNUM",
    "DECIMAL(38,3)": "range / 8",
    "FLOAT": "range / 3",
    "DOUBLE": "range / 3",
    "BOOLEAN": "range % 2 = 0",
    "DATE": "'2020-01-01'::DATE + range::INTEGER",
    "TIMESTAMP": "'2020-01-01 00:00:00.123456'::TIMESTAMP + to_days(range::INTEGER)",
    "TIMESTAMP_S": "'2020-01-01'::DATE + range::INTEGER",
    "TIMESTAMP_MS": "'2020-01-01'::DATE + range::INTEGER",
    "TIMESTAMP_NS": "make_timestamp_ns(range)",
    "TIMESTAMPTZ": "'2020-01-01'::DATE + range::INTEGER",
    "TIME": "'12:00:00'::TIME + to_seconds(range)",
    "TIMETZ": "'12:00:00+0' || range % 9",
    "UUID": "md5(range::VARCHAR)::UUID",
    "BLOB": "('\\xAA\\x00' || range)::BLOB",
    "BIT": "('1' || range % 2)::BIT",
    "JSON": "'{\"a\": ' || range || '}'",
    "STRUCT(a INTEGER, b VARCHAR)": "{'a': range, 'b': 'x''\"{}[],:é ' || range}",
    "STRUCT(a HUGEINT)": "{'a': range}",
    "VARCHAR[]": "['NULL', 'a,b', '[\"', range::VARCHAR]",
    "INTEGER[2]": "[range, 2]",
}


@pytest.mark.parametrize("type_name", TYPES)
def test_keys_of_any_type_are_returned_exactly(
    cursor: duckdb.DuckDBPyConnection, type_name: str, tmp_path: Path
) -> None:
    key = f"({TYPES[type_name]})::{type_name}"
    cursor.execute(f"CREATE TABLE t AS SELECT {key} AS head, {key} AS relation, {key} AS tail FROM range(12)")
    encoded = encode_triples(cursor, "FROM t", holdout=(0, 0), emit=silent)
    encoded.write(tmp_path)
    dictionary = Dictionary(tmp_path / "entities.parquet")
    expected = "VARCHAR" if type_name.startswith("ENUM") else describe(cursor, "SELECT head FROM t")["head"]
    assert dictionary.type == encoded.entity_type == encoded.relation_type == expected
    count = cursor.execute("SELECT count(DISTINCT head) FROM t").fetchall()[0][0]
    assert len(dictionary) == len(dictionary.keys) == encoded.n_entities == count

    ids = np.arange(-1, len(dictionary), dtype=np.int32)
    taken = pa.table([dictionary.take(ids), pa.array(ids)], schema=pa.schema([dictionary.field, ("id", pa.int32())]))
    cursor.register("taken", taken)
    assert describe(cursor, "FROM taken")["key"] == expected
    assert cursor.execute("SELECT count(*), min(id) FROM taken WHERE key IS NULL").fetchall() == [(1, -1)]
    keys = f"SELECT DISTINCT head::{expected} AS key FROM t ORDER BY 1 ASC"
    assert cursor.execute(
        f"SELECT count(*) FROM (SELECT key, row_number() OVER () - 1 AS id FROM ({keys})) JOIN taken USING (key, id)"
    ).fetchall() == [(count,)]
    assert cursor.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT head::{expected} AS key FROM t) JOIN {dictionary.sql} USING (key)"
    ).fetchall() == [(count,)]


def test_head_and_tail_of_one_kind_share_their_common_type(cursor: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT range::INTEGER AS head, 'r' AS relation, (range + 1)::UBIGINT AS tail FROM range(3)"
    encoded = encode_triples(cursor, sql, holdout=(0, 0), emit=silent)
    assert encoded.entity_type == "HUGEINT"
    assert columns(encoded.splits[Split.TRAIN]) == ([0, 1, 2], [0, 0, 0], [1, 2, 3])
    assert encoded.fingerprint == fingerprint(cursor, sql)
    enum = "SELECT 'a'::ENUM('a') AS head, 'r' AS relation, 'b'::ENUM('b') AS tail"
    assert encode_triples(cursor, enum, emit=silent).entity_type == "VARCHAR"


def test_keys_of_ten_megabytes(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    sql = "SELECT repeat(chr(97 + range::INTEGER), 10_000_000) AS head, 'r' AS relation, 'x' AS tail FROM range(3)"
    encoded = encode_triples(cursor, sql, holdout=(0, 0), emit=silent)
    encoded.write(tmp_path)
    dictionary = Dictionary(tmp_path / "entities.parquet")
    assert [len(key.as_py()) for key in dictionary.keys] == [10_000_000] * 3 + [1]
    assert dictionary.lookup(cursor, "b" * 10_000_000) == 1
    assert dictionary.lookup(cursor, "b") is None


def test_lookup_finds_exact_keys_only(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    encode_triples(cursor, "SELECT 5 AS head, 'it''s' AS relation, 6 AS tail", emit=silent).write(tmp_path)
    entities, relations = Dictionary(tmp_path / "entities.parquet"), Dictionary(tmp_path / "relations.parquet")
    assert [entities.lookup(cursor, key) for key in (5, 6, "6", 5.7, "x", None, 1 << 70, b"5")] == [
        0, 1, 1, None, None, None, None, None
    ]  # fmt: skip
    assert relations.lookup(cursor, "it's") == 0
    assert relations.lookup(cursor, "'") is None


# --- reports ------------------------------------------------------------------------------------------------------


def test_notable_counts_are_reported(cursor: duckdb.DuckDBPyConnection) -> None:
    events: list[Event] = []
    sql = """FROM (VALUES ('a', 'r', 'b', 'train'), ('a', 'r', 'b', 'train'), ('a', 'r', 'b', 'test'),
                          (NULL, 'r', 'b', 'train'), ('a', 'r', 'a', 'train'), ('c', 's', 'b', 'valid')
             ) AS t(head, relation, tail, split)"""
    encoded = encode_triples(cursor, sql, emit=events.append)
    assert [(e.message, e.level) for e in events if isinstance(e, Note)] == [
        ("dropped 1 row with a NULL head, relation or tail", "warning"),
        ("dropped 1 duplicate row", "info"),
        ("dropped 1 leaked row: the triple is in an earlier split too", "warning"),
        ("kept 1 self-loop: head and tail are the same entity", "info"),
        ("1 entity in valid or test only: ranked, but never trained", "warning"),
        ("1 relation in valid or test only: ranked, but never trained", "warning"),
    ]
    assert encoded.report.lines()[:2] == ["6 rows: 2 train, 1 valid, 0 test triples", "3 entities, 2 relations"]
    assert module.IngestReport.from_json({**encoded.report.to_json(), "new": 1}) == encoded.report


def test_rare_entities_are_not_held_out(cursor: duckdb.DuckDBPyConnection) -> None:
    encoded = encode_triples(
        cursor,
        "SELECT range AS head, 0 AS relation, range + 1000 AS tail FROM range(100)",
        holdout=(0.4, 0.4),
        emit=silent,
    )
    assert encoded.report.train == 100
    assert 50 < encoded.report.moved_to_train <= 100


@pytest.mark.parametrize(
    "sql", ["SELECT 1 AS head, 1 AS relation, 2 AS tail", "SELECT 1 AS head, 1 AS relation, 1 AS tail FROM range(9)"]
)
def test_one_triple_is_train(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    encoded = encode_triples(cursor, sql, holdout=(0.45, 0.45), emit=silent)
    assert (encoded.report.train, encoded.report.valid, encoded.report.test) == (1, 0, 0)


# --- fingerprints -------------------------------------------------------------------------------------------------


def test_fingerprints_see_rows_names_and_types_but_no_order(cursor: duckdb.DuckDBPyConnection) -> None:
    prints = [
        fingerprint(cursor, sql)
        for sql in (
            "SELECT range AS a, 'x' AS b FROM range(5)",
            "SELECT 'x' AS B, range AS A FROM range(5) ORDER BY range DESC",
            "SELECT range AS a, 'x' AS c FROM range(5)",
            "SELECT range::INTEGER AS a, 'x' AS b FROM range(5)",
            "SELECT range AS a, 'x' AS b FROM range(6)",
            "SELECT range % 4 AS a, 'x' AS b FROM range(5)",
            "(SELECT range AS a, 'x' AS b FROM range(5)) UNION ALL (SELECT range, 'x' FROM range(5))",
            "SELECT NULL::BIGINT AS a, 'x' AS b FROM range(5)",
            "SELECT range AS a, 'x' AS b FROM range(0)",
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(prints) - 1


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str, str]] = [
    ("SELECT 1 AS head, 1 AS relation, 1 AS tail WHERE false", "the query has no rows", "WHERE"),
    ("SELECT NULL::INT AS head, 1 AS relation, 1 AS tail", "every row (1) has a NULL", "joins"),
    ("SELECT 1 AS head, 1 AS relaton, 1 AS tail", 'no column "relation"', "write relaton AS relation"),
    (
        'SELECT 1 AS s, 1 AS p, 1 AS "o o"',
        "lacks head and relation and tail",
        's AS head, p AS relation, "o o" AS tail',
    ),
    ("SELECT 1 AS head, 1 AS relation, 1 AS tail, 1 AS weight", "not used for triples: weight", "select only"),
    ("SELECT 1 AS head, 1 AS relation, 'a' AS tail", "head is INTEGER but tail is VARCHAR", "cast one of them"),
    ("SELECT 1 AS head, 1 AS relation, 1.5 AS tail", "head is INTEGER but tail is DECIMAL(2,1)", "cast one of them"),
    ("SELECT 1::HUGEINT AS head, 1 AS relation, 1::UHUGEINT AS tail", "head is HUGEINT but tail is UHUGEINT", "cast"),
    (
        "SELECT 1 AS head, INTERVAL 1 DAY AS relation, 1 AS tail",
        "relation is INTERVAL, which cannot be a key",
        "cast it",
    ),
    ("SELECT NULL AS head, 1 AS relation, 1 AS tail", "head is NULL in every row", "values AS head"),
    ("SELECT 1 AS head, 1 AS relation, 1 AS tail, 2 AS split", "split is INTEGER, not text", "'train'"),
    ("SELECT 1 AS head, 1 AS relation, 1 AS tail, 'test' AS split", "no row has split = 'train'", "leave the split"),
    ("SELECT 1 AS head, 1 AS head, 1 AS relation, 1 AS tail", 'two columns named "head"', "AS"),
    ("SELECT 'nan'::DOUBLE AS head, 1 AS relation, 1::DOUBLE AS tail", "head is NaN in 1 row", "isnan(head)"),
    (
        "SELECT 1 AS head, 1 AS relation, range AS tail, if(range < 3, 'trian', if(range < 4, NULL, 'test')) AS split "
        "FROM range(5)",
        "split has values that name no split: 'trian' (3 rows), NULL (1 row)",
        "use 'train'",
    ),
]


@pytest.mark.parametrize(("sql", "message", "help"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_unusable_queries_are_refused(cursor: duckdb.DuckDBPyConnection, sql: str, message: str, help: str) -> None:
    with pytest.raises(InputError) as caught:
        encode_triples(cursor, sql, emit=silent)
    assert message in caught.value.message
    assert help in (caught.value.help or "")
    assert temporary_tables(cursor) == 0


def test_split_names_keep_odd_text_apart_from_null(cursor: duckdb.DuckDBPyConnection) -> None:
    values = "('NULL'), (repeat('x', 99)), (''), ('train')"
    sql = f"SELECT 1 AS head, 1 AS relation, 1 AS tail, s AS split FROM (VALUES {values}) t(s)"
    with pytest.raises(InputError) as caught:
        encode_triples(cursor, sql, emit=silent)
    for part in ("'' (1 row)", "'NULL' (1 row)", f"'{'x' * 40}' (1 row)"):
        assert part in caught.value.message


@pytest.mark.parametrize("holdout", [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_impossible_fractions_are_refused(cursor: duckdb.DuckDBPyConnection, holdout: tuple[float, float]) -> None:
    with pytest.raises(OptionError) as caught:
        encode_triples(cursor, GRAPH, holdout=holdout, emit=silent)
    assert caught.value.key == "holdout"


def test_the_users_own_errors_pass_through(cursor: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.CatalogException, match="nothere"):
        encode_triples(cursor, "FROM nothere", emit=silent)
    with pytest.raises(duckdb.ConversionException):
        encode_triples(
            cursor, "SELECT ('x' || range)::INT AS head, 1 AS relation, 1 AS tail FROM range(9)", emit=silent
        )
    assert temporary_tables(cursor) == 0


def test_check_columns_alone() -> None:
    check_columns({"HEAD": "INTEGER", "relation": "UUID", "tail": "BIGINT", "Split": "ENUM('train', 'test')"})
    with pytest.raises(InputError, match="its columns: none"):
        check_columns({})


# --- memory, disk, interruption -----------------------------------------------------------------------------------


def setting(cursor: duckdb.DuckDBPyConnection) -> str:
    return str(cursor.execute("SELECT current_setting('memory_limit')").fetchall()[0][0])


def test_memory_is_bounded_and_given_back(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("SET temp_directory = ''")
    before = setting(cursor)
    with bounded_memory(cursor, 100 << 20):
        assert setting(cursor) == "100.0 MiB"
        with bounded_memory(cursor, 200 << 20):
            assert setting(cursor) == "100.0 MiB"
    assert setting(cursor) == before
    with bounded_memory(cursor, None):
        pass
    assert setting(cursor) == before
    cursor.execute("CREATE TABLE t AS SELECT hash(range) AS x FROM range(3_000_000)")
    with pytest.raises(ResourceError, match="more memory than the 1 MiB"), bounded_memory(cursor, 1 << 20):
        pass
    assert setting(cursor) == before


WIDE = (
    "SELECT repeat('x', 90) || range % 200_000 AS head, 'r' AS relation, repeat('y', 90) || range AS tail "
    "FROM range(300_000)"
)


def test_what_exceeds_memory_spills(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    threads = cursor.execute("SELECT current_setting('threads')").fetchall()[0][0]
    encoded = encode_triples(cursor, WIDE, memory_limit=60 << 20, emit=silent)
    assert (tmp_path / "spill").exists()
    assert cursor.execute("SELECT current_setting('threads')").fetchall()[0][0] == threads, "as before"
    assert encoded.report.entities == 500_000
    assert encoded.report.train == 300_000 - encoded.report.valid - encoded.report.test


def test_no_room_to_spill(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("SET max_temp_directory_size = '1MB'")
    with pytest.raises(WorkspaceError, match="too full for DuckDB's temporary files"):
        encode_triples(cursor, WIDE, memory_limit=60 << 20, emit=silent)
    assert temporary_tables(cursor) == 0


def test_no_memory_and_nowhere_to_spill(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("SET temp_directory = ''")
    with pytest.raises(ResourceError, match="out of memory"):
        encode_triples(cursor, WIDE, memory_limit=60 << 20, emit=silent)
    assert temporary_tables(cursor) == 0


def test_ctrl_c_is_a_keyboard_interrupt_and_leaves_nothing(cursor: duckdb.DuckDBPyConnection) -> None:
    long = GRAPH.replace("range(3000)", "range(20_000_000)")
    before = signal.signal(
        signal.SIGALRM, signal.default_int_handler
    )  # a thread that sends the signal would need the GIL
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            encode_triples(cursor, long, emit=silent)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert temporary_tables(cursor) == 0


def test_written_files_are_whole_or_an_error(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    encoded = encode_triples(cursor, GRAPH, emit=silent)
    with limited_file_size(4096), pytest.raises(WorkspaceError, match="disk is full"):
        encoded.write(tmp_path)
    encoded.write(tmp_path)
    encoded.close()
    assert sum(map(len, read_snapshot(tmp_path).values())) == 3000
