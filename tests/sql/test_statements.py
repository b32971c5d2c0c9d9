"""Texts, tokens and the grammar of our statements."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn import connect
from graphlearn.errors import SqlError
from graphlearn.sql.parser import parse
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Source
from graphlearn.sql.statements import CreateModel, DropModel, ExplainModel, Passthrough, Statement
from graphlearn.sql.words import NO_ALIAS, RESERVED


def statements(text: str) -> list[Statement]:
    return parse(Source("job.sql", text))


def create(text: str) -> CreateModel:
    (statement,) = statements(text)
    assert isinstance(statement, CreateModel)
    return statement


def test_tokens_count_characters_and_skip_comments() -> None:
    text = "SELECT 'ü🏙', \"größe\" -- é\n/* ö /* nested */ */ , $x$ it's $x$;"
    tokens = Source("f", text).tokens
    assert [t.text for t in tokens] == ["SELECT", "'ü🏙'", ",", '"größe"', ",", "$x$ it's $x$", ";"]
    assert all(text[t.start : t.end] == t.text for t in tokens)
    assert [t.kind for t in tokens][:4] == ["name", "string", "operator", "quoted"]


def test_values_of_quoted_tokens() -> None:
    name, string = Source("f", '"a ""b""" \'it\'\'s\'').tokens
    assert (name.value, string.value) == ('a "b"', "it's")


def test_unicode_spaces_become_plain_ones_outside_quotes_only() -> None:
    source = Source("f", "\ufeffSELECT\u00a0'a\u00a0b'\u3000-- c\u00a0d")
    assert source.sql == " SELECT 'a\u00a0b' -- c\u00a0d"
    assert [t.text for t in source.tokens] == ["SELECT", "'a\u00a0b'"]


@pytest.mark.parametrize(
    "text", ["'abc", "'a''", "e'a\\'", '"abc', '"a""', "/* a /* b */", "$$ a", "$x$ a $$", "\0", "\ud800"]
)
def test_unfinished_or_unusable_text(text: str) -> None:
    with pytest.raises(SqlError) as caught:
        _ = Source("f", "SELECT " + text).tokens
    assert caught.value.place is not None
    assert caught.value.place.start == 7


@pytest.mark.parametrize("text", ["''", "'a'''", "e'a\\''", '"a"""', "/* a /* b */ */", "$$ a $$", "x'ab'", "-- it's"])
def test_finished_text(text: str) -> None:
    _ = Source("f", "SELECT " + text).tokens


@given(st.text(alphabet="aé🏙'\"$/*-;()[]=, \n\r\t\u00a0", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_is_refused_in_place(text: str) -> None:
    source = Source("f", text)
    try:
        found = parse(source)
    except SqlError as error:
        place = error.place
        assert error.render()  # noqa: PT017
    else:
        place = source.place(0)
        assert all(source.sql[t.start : t.end] == t.text for t in source.tokens)
        assert all(0 <= s.start < s.end <= len(text) for s in found)
    assert place is not None
    assert 0 <= place.start <= len(text)


def test_full_form() -> None:
    text = (
        'CREATE OR REPLACE MODEL kg."my model" TYPE RotatE\n'
        "  OPTIONS (dim = 200, L = [1, (2)], s = {'a': 1, b: [2]}, d = -1.5e3)\n"
        "  AS SELECT head, relation, tail FROM t -- the end"
    )
    c = create(text)
    assert (c.name, c.family, c.or_replace, c.if_not_exists) == ("kg.my model", "rotate", True, False)
    assert [(o.key, o.value_sql) for o in c.options] == [
        ("dim", "200"),
        ("l", "[1, (2)]"),
        ("s", "{'a': 1, b: [2]}"),
        ("d", "-1.5e3"),
    ]
    assert all(text[slice(*o.value_span)] == o.value_sql for o in c.options)
    assert text[slice(*c.name_span)] == 'kg."my model"'
    assert text[slice(*c.family_span)] == "RotatE"
    (query,) = c.inputs
    assert (query.role, query.sql) == (None, "SELECT head, relation, tail FROM t")


def test_roles() -> None:
    c = create(
        "CREATE MODEL IF NOT EXISTS air TYPE net3 AS (\n"
        "  series AS (SELECT a, (b) FROM t -- ')' in a comment\n  ),\n"
        '  "Station" AS (WITH x AS (SELECT 1) FROM x))'
    )
    assert c.if_not_exists
    assert [(i.role, i.sql) for i in c.inputs] == [
        ("series", "SELECT a, (b) FROM t"),
        ("station", "WITH x AS (SELECT 1) FROM x"),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "(SELECT 1)",
        "(SELECT 1) LIMIT 3",
        "((SELECT 1))",
        "(WITH series AS (SELECT 1) FROM series)",
        "FROM t",
        "(FROM t)",
        "VALUES (1, 2, 3)",
        "TABLE t",
        "PIVOT t ON a",
        "WITH a AS (SELECT 1) SELECT * FROM a UNION ALL (SELECT 2)",
    ],
)
def test_queries_are_kept_verbatim(query: str) -> None:
    (text,) = create(f"CREATE MODEL m TYPE complex AS {query};").inputs
    assert (text.role, text.sql) == (None, query)


def test_our_words_can_be_names() -> None:
    c = create("create model type type type options (type = 1, options = 'a') as (type as (from options))")
    assert (c.name, c.family, [o.key for o in c.options]) == ("type", "type", ["type", "options"])
    assert c.inputs[0].role == "type"
    assert create('CREATE MODEL "select" TYPE "Complex" AS FROM t').name == "select"
    assert create("CREATE MODEL model TYPE model OPTIONS () AS FROM model").name == "model"


def test_several_statements_and_empty_ones() -> None:
    found = statements(";; SELECT ';'; -- ;\n DROP MODEL IF EXISTS a.b;;\nEXPLAIN CREATE MODEL m TYPE x AS FROM t;")
    assert [type(s) for s in found] == [Passthrough, DropModel, ExplainModel]
    assert found[0].text == "SELECT ';'"
    drop = found[1]
    assert isinstance(drop, DropModel)
    assert (drop.name, drop.if_exists) == ("a.b", True)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE model AS SELECT 1",
        "CREATE MACRO model(a) AS a",
        "DROP TABLE model",
        "EXPLAIN SELECT 1",
        "FROM model",
        "CREATE TYPE mood AS ENUM ('a')",
        "DROP VIEW model",
        "CREATE OR REPLACE TEMP TABLE t AS SELECT 1",
        "/* c */ SELECT 1",
        "(SELECT 1)",
    ],
)
def test_statements_of_duckdb_pass_through(text: str) -> None:
    (statement,) = statements(text)
    assert isinstance(statement, Passthrough)


def test_all_errors_of_a_text_are_collected() -> None:
    with pytest.raises(SqlError) as caught:
        statements("CREATE MODLE m TYPE x AS FROM t; SELECT 1; DROP MODEL; REFRESH MODEL m")
    assert [e.message.split()[0] for e in caught.value.others] == ["expected", "REFRESH"]


def test_reserved_words_are_those_of_duckdb() -> None:
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT upper(keyword_name), keyword_category FROM duckdb_keywords()").fetchall()
    assert {word for word, category in rows if category == "reserved"} == RESERVED
    assert {word for word, category in rows if category in ("reserved", "type_function")} == NO_ALIAS


def test_rewritten_maps_back_to_the_text() -> None:
    source = Source("f", "SELECT 'ü' FROM predict('m') WHERE x")
    query = "EXPLAIN " + Rewritten.verbatim(source, 0, len(source.text)).replace(16, 28, "__p AS predict") + " LIMIT 1"
    assert query.text == "EXPLAIN SELECT 'ü' FROM __p AS predict WHERE x LIMIT 1"
    at = query.text.index
    assert query.span(at("FROM"), 4) == (11, 4)
    assert query.span(at("__p") + 2, 3) == (16, 12)
    assert query.span(at("WHERE"), 5) == (29, 5)
    assert query.original(at("LIMIT")) == len(source.text)
    assert query.original(0) == 0
    assert query.byte_span(len("EXPLAIN SELECT 'ü' ".encode()), 4) == (11, 4)


def calls_of(run: Callable[[], object]) -> int:
    """The Python calls that `run` makes; a step of a generator counts as one."""
    found = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal found
        found += event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def check_and_run(text: str, path: Path) -> int:
    """The Python calls that it takes to check a file and run it."""
    path.write_text(text)
    with connect() as session:
        return calls_of(lambda: session.run_file(path))


def test_the_work_grows_with_the_number_of_statements_and_not_faster(tmp_path: Path) -> None:
    def work(n: int) -> int:
        return check_and_run(";\n".join(f"SET VARIABLE v{i} = {i} + {i}" for i in range(n)), tmp_path / "job.sql")

    work(1)  # imports
    few, some, many = work(1), work(51), work(101)
    assert (many - few) < 2.1 * (some - few)


def test_a_long_literal_takes_no_more_calls_than_a_short_one(tmp_path: Path) -> None:
    def work(n: int) -> int:
        return check_and_run(
            f"CREATE TABLE t AS SELECT '{'ä' * n}' AS x; SELECT length(x) FROM t", tmp_path / "job.sql"
        )

    work(1)
    assert abs(work(20_000) - work(20)) < 200


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("inside", ["x", "{0}{0}"])
def test_a_long_last_literal_is_read_without_recursion(quote: str, inside: str) -> None:
    text = f"SELECT {quote}{inside.format(quote) * 300_000}{quote}"
    assert len(Source("<sql>", text).tokens) == 2
    with pytest.raises(SqlError, match="never closed"):
        _ = Source("<sql>", text[:-1] if inside == "x" else text + quote).tokens
