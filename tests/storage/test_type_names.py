"""The grammar of type names: every type that DuckDB prints for a key, and nothing that is more than a type."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphlearn.storage.scratch import ask, scratch
from graphlearn.storage.type_names import DEEPEST, LONGEST, MOST_FIELDS, NAMES, is_type

FIELDS = st.one_of(
    st.sampled_from(["a", "select", "B", "_x1"]), st.text(min_size=1, max_size=5).filter(lambda text: "\0" not in text)
)
MORE = [";", "--", "/*", "'", '"', ")", "(", "[", "]", ",", "\0", " x", "::INT", "COLLATE C"]
LEAVES = st.one_of(
    st.sampled_from(sorted(NAMES)),
    st.sampled_from(["TIMESTAMP WITH TIME ZONE", "TIME WITH TIME ZONE", "DECIMAL(18,3)"]),
    st.lists(st.sampled_from(["x", "it's", "é", ");--"]), min_size=1, unique=True).map(
        lambda values: f"ENUM({', '.join(chr(39) + v.replace(chr(39), chr(39) * 2) + chr(39) for v in values)})"
    ),
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


TYPES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map("{}[]".format),
        inner.map("{}[3]".format),
        st.tuples(inner, inner).map(lambda two: f"MAP({two[0]}, {two[1]})"),
        st.dictionaries(FIELDS, inner, min_size=1, max_size=3).map(
            lambda fields: f"STRUCT({', '.join(f'{quoted(name)} {kind}' for name, kind in fields.items())})"
        ),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@given(type_name=TYPES)
def test_what_duckdb_prints_is_a_type(connection: duckdb.DuckDBPyConnection, type_name: str) -> None:
    try:
        printed = str(connection.sql(f"SELECT NULL::{type_name}").types[0])
    except duckdb.Error:  # two fields of one name
        return
    assert is_type(printed)
    assert is_type(type_name)


@given(type_name=TYPES, more=st.sampled_from(MORE), data=st.data())
def test_a_text_that_passes_is_one_expression(
    connection: duckdb.DuckDBPyConnection, type_name: str, more: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(type_name)))
    text = type_name[:at] + more + type_name[at:]
    if is_type(text):
        (statement,) = connection.extract_statements(f"SELECT 1 AS a, NULL::{text} AS key")
        assert statement.type == duckdb.StatementType.SELECT


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "foo", "INTEGER)", "INTEGER; SELECT 1", "INTEGER -- x", "INTEGER /* x */", "(SELECT 1)", "INTEGER[",
        "INTEGER[]]", "STRUCT()", "STRUCT(a)", "ENUM()", "ENUM(a)", "ENUM('a", "VARCHAR COLLATE NOCASE", "INTEGER\0",
        "INTEGER, VARCHAR", '"INTEGER"', "$$INTEGER$$", "E'INTEGER'", "TIMESTAMP WITH", "DECIMAL(1,2", "\u0661",
        "STRUCT(a " * (DEEPEST + 1) + "INTEGER" + ")" * (DEEPEST + 1), "ENUM('" + "x" * LONGEST + "')",
        "INTEGER[99999][99999]", "STRUCT(a INTEGER[9999])[9999]",
        "STRUCT(" + "a INTEGER, " * MOST_FIELDS + "b INTEGER)",
        "INTEGER) FROM range(1); COPY (SELECT 1) TO 'x'; --",
    ],
)  # fmt: skip
def test_what_is_no_type(text: str) -> None:
    assert not is_type(text)


def test_a_scratch_database_reaches_nothing_and_runs_one_statement(tmp_path: Path) -> None:
    mine, other = f"{tmp_path}/mine[1].csv", f"{tmp_path}/other.csv"
    for path in (mine, other):
        with open(path, "w") as file:
            file.write("a\n1\n")
    with scratch(Path(mine)) as connection:
        assert ask(connection, f"FROM read_csv('{mine}')").fetchall() == [(1,)]
        assert ask(connection, "SELECT $1 + 1", [2]).fetchall() == [(3,)]
        for forbidden in (
            f"FROM read_csv('{other}')", f"COPY (SELECT 1) TO '{other}'", f"ATTACH '{other}.db'", "INSTALL httpfs",
            "SET enable_external_access = true", f"SET allowed_paths = ['{other}']", "SELECT 1; SELECT 2", "",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                ask(connection, forbidden)
