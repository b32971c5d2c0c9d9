"""The index of keys compared with a SQL join, for keys and questions of every type."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import InputError
from graphlearn.storage import key_index
from graphlearn.storage.columns import key_sql
from graphlearn.storage.dictionary import Dictionary, numbered, write_dictionary

TYPES = [
    "VARCHAR", "TINYINT", "INTEGER", "UBIGINT", "HUGEINT", "UHUGEINT", "BIGNUM", "DECIMAL(4,1)", "DECIMAL(38,3)",
    "FLOAT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS",
    "TIMESTAMP WITH TIME ZONE", "TIME", "TIME_NS", "TIME WITH TIME ZONE", "UUID", "BLOB", "BIT", "JSON",
    "STRUCT(a INTEGER)", "STRUCT(a HUGEINT, b VARCHAR)", "INTEGER[]", "VARCHAR[]", "INTEGER[2]",
]  # fmt: skip
ASKED = [*TYPES, "ENUM('1', 'a', '2020-01-01')", "INTERVAL", "MAP(INTEGER, INTEGER)"]
TEXTS = [
    "0", "-0", "-0.0", "1", "1.0", "01", " 1", "5.7", "6", "1e2", "100", "-128", "a", "A", "é", "", "NULL", "true",
    "2020-01-01", "2020-01-01 00:00:00", "2020-01-01 00:00:00+00", "2020-01-01 01:00:00+01", "2020-03-29 02:30:00",
    "2020-01-01 00:00:00.123456", "2020-01-01 00:00:00.123456789", "infinity", "12:00:00", "13:00:00+01", "12:00:00+00",
    "00000000-0000-0000-0000-000000000001",
    "0a0b0c0d-0000-0000-0000-000000000000", "0A0B0C0D-0000-0000-0000-000000000000", "[1, 2]", "[1,NULL]", "[a, NULL]",
    "{'a': 1}", "{'a': NULL}", "{'a': 1, 'b': x}", '{"a":1}', '{"a": 1}', "0101", "\\xAA", "1 day", "24 hours", "{1=2}",
    "170141183460469231731687303715884105727", "18446744073709551615", "16777217",
]  # fmt: skip


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SET arrow_lossless_conversion = true")
        yield connection


def store(cursor: duckdb.DuckDBPyConnection, path: Path, type_name: str, texts: list[str]) -> Dictionary:
    """A dictionary of those texts that are valid keys of the type."""
    cursor.register("texts", pa.table({"text": texts}))
    given = f"SELECT TRY_CAST(text AS {type_name}) AS given FROM texts"
    real = " AND NOT isnan(given)" if type_name in ("FLOAT", "DOUBLE") else ""
    keys = f"SELECT {key_sql('given', type_name)} AS key FROM ({given}) WHERE given IS NOT NULL{real}"
    write_dictionary(cursor, numbered(keys, type_name), type_name, path)
    return Dictionary(path)


def ask(cursor: duckdb.DuckDBPyConnection, type_name: str, texts: list[str]) -> pa.ChunkedArray:
    """The texts as questions of a type, NULL where they are not valid."""
    cursor.register("texts", pa.table({"text": texts}))
    return cursor.sql(f"SELECT TRY_CAST(text AS {type_name}) AS key FROM texts").to_arrow_table().column("key")


def joined(cursor: duckdb.DuckDBPyConnection, dictionary: Dictionary, keys: pa.ChunkedArray) -> list[int]:
    """The ids that a join finds."""
    cursor.register("asked", pa.table({"row": range(len(keys)), "key": keys}))
    kind = cursor.execute("DESCRIBE asked").fetchall()[1][1]
    equal = f"d.key = TRY_CAST(a.key AS {dictionary.type})"
    if kind != dictionary.type:
        equal += f" AND TRY_CAST(d.key AS {kind}) = a.key"
    query = f"SELECT coalesce(d.id, -1) FROM asked a LEFT JOIN {dictionary.sql} d ON {equal} ORDER BY a.row"
    return [row[0] for row in cursor.execute(query).fetchall()]


@pytest.mark.parametrize("type_name", TYPES)
def test_ids_are_those_of_a_join(cursor: duckdb.DuckDBPyConnection, tmp_path: Path, type_name: str) -> None:
    zone = "Europe/Berlin"
    cursor.execute(f"SET TimeZone = '{zone}'")
    dictionary = store(cursor, tmp_path / "keys.parquet", type_name, TEXTS)
    assert len(dictionary) > 1
    for asked in ASKED:
        keys = ask(cursor, asked, TEXTS)
        try:
            expected = joined(cursor, dictionary, keys)
        except duckdb.NotImplementedException:
            with pytest.raises(InputError, match="cannot be compared with the model's"):
                dictionary.ids(keys, zone)
            continue
        assert dictionary.ids(keys, zone).tolist() == expected, asked
    everything = dictionary.ids(dictionary.take(np.arange(-1, len(dictionary))), zone)
    assert everything.tolist() == list(range(-1, len(dictionary)))


KEYS = {
    "VARCHAR": st.one_of(st.text(max_size=3), st.integers(-3, 3).map(str), st.floats(-3, 3).map(str)),
    "BIGINT": st.one_of(st.integers(-3, 3), st.integers(-(1 << 63), (1 << 63) - 1)),
    "DOUBLE": st.one_of(st.sampled_from([0.0, -0.0, 0.1]), st.integers(-3, 3).map(float), st.floats()),
    "FLOAT": st.one_of(st.sampled_from([0.0, -0.0, 0.1]), st.integers(-3, 3).map(float), st.floats(width=32)),
}
ARROW = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "FLOAT": pa.float32()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(list(KEYS)), st.sampled_from(list(KEYS)), st.integers(1, 64))
def test_any_keys_in_any_type(
    cursor: duckdb.DuckDBPyConnection, tmp_path: Path, data: st.DataObject, kept: str, asked: str, hashes: int
) -> None:
    keys = data.draw(st.lists(KEYS[kept].filter(lambda key: str(key) != "nan"), max_size=12))
    cursor.register("given", pa.table({"key": pa.array(keys, ARROW[kept])}))
    query = f"SELECT {key_sql('key', kept)} AS key FROM given"
    write_dictionary(cursor, numbered(query, kept), kept, tmp_path / "keys.parquet")
    dictionary = Dictionary(tmp_path / "keys.parquet")
    values = data.draw(st.lists(st.one_of(st.none(), KEYS[asked]), max_size=12))
    questions = pa.chunked_array([pa.array(values, ARROW[asked]), cursor.sql(
        f"SELECT TRY_CAST(key AS {asked}) AS key FROM given"
    ).to_arrow_table().column("key").combine_chunks()])  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "KEY_HASH", f"(hash({{}}) % {hashes})::UBIGINT")
        found = dictionary.ids(questions)
    assert found.tolist() == joined(cursor, dictionary, questions)


@pytest.mark.parametrize(
    "keys",
    [
        pa.array(["b", None, "x", "a", "b"]),
        pa.array(["b", None, "x", "a", "b"], pa.large_string()),
        pa.array(["b", None, "x", "a", "b"], pa.string_view()),
        pa.array(["b", None, "x", "a", "b"]).dictionary_encode(),
        pa.chunked_array([["b", None], [], ["x", "a", "b"]]),
        pa.array(["-", "b", None, "x", "a", "b"])[1:],
    ],
)
def test_text_of_every_arrow_form(
    cursor: duckdb.DuckDBPyConnection, tmp_path: Path, keys: pa.Array | pa.ChunkedArray
) -> None:
    dictionary = store(cursor, tmp_path / "keys.parquet", "VARCHAR", ["a", "b"])
    assert dictionary.ids(keys).tolist() == [1, -1, -1, 0, 1]
    assert keys.is_null().to_pylist() == [False, True, False, False, False]


@pytest.mark.parametrize("keys", [pa.array([], pa.string()), pa.nulls(3), pa.nulls(2, pa.string())])
def test_no_keys(cursor: duckdb.DuckDBPyConnection, tmp_path: Path, keys: pa.Array) -> None:
    dictionary = store(cursor, tmp_path / "keys.parquet", "INTEGER", ["1"])
    assert dictionary.ids(keys).tolist() == [-1] * len(keys)


def test_stamps_are_cast_in_the_time_zone_of_the_session(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    dictionary = store(cursor, tmp_path / "keys.parquet", "TIMESTAMP WITH TIME ZONE", ["2020-01-01 12:00:00+00"])
    local = pa.array(["2020-01-01 13:00:00+01", "2020-01-01 12:00:00+00"])
    assert dictionary.ids(local, "Europe/Berlin").tolist() == [0, -1]
    assert dictionary.ids(local, "UTC").tolist() == [-1, 0]
    cursor.execute("RESET TimeZone")
    assert dictionary.ids(local).tolist() == joined(cursor, dictionary, pa.chunked_array([local]))


def test_concurrent_lookups_and_rebuilding_a_closed_index(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    dictionary = store(cursor, tmp_path / "keys.parquet", "INTEGER", [str(n) for n in range(2000)])
    start, wrong = threading.Barrier(8), []

    def work(seed: int) -> None:
        start.wait()
        for _ in range(5):
            asked = np.random.default_rng(seed).integers(-500, 2500, 300)
            expected = np.where((asked >= 0) & (asked < 2000), asked, -1)
            if not np.array_equal(dictionary.ids(pa.array(asked)), expected):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    dictionary.close()
    dictionary.close()
    assert dictionary.ids(pa.array([7])).tolist() == [7]
