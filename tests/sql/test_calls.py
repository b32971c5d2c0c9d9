"""Finding calls of table functions on models in SQL."""

from __future__ import annotations

import pytest

from graphlearn.errors import SqlError
from graphlearn.sql.calls import Call, calls_inside, find_calls
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source


def calls(text: str) -> list[Call]:
    (statement,) = parse(Source("job.sql", text))
    return find_calls(statement)


def questions(text: str) -> list[str | None]:
    return [None if (q := call.question()) is None else q.text for call in calls(text)]


def test_a_call_in_full() -> None:
    text = "SELECT * FROM predict('kg.it''s', questions, k := 10, exclude_known => true) p"
    (call,) = calls(text)
    assert (call.function, call.model, call.alias) == ("predict", "kg.it's", True)
    assert text[slice(*call.span)] == text[14:-2]
    assert call.argument is not None
    assert text[slice(*call.argument)] == "questions"
    assert {key: text[slice(*value)] for key, (_, value) in call.named.items()} == {"k": "10", "exclude_known": "true"}


@pytest.mark.parametrize(
    "text",
    [
        "FROM predict('m', q)",
        "from PREDICT ( 'm' , q )",
        "FROM \"predict\"('m', q)",
        "SELECT * FROM t JOIN predict('m', q) USING (head)",
        "SELECT * FROM t, predict('m', q)",
        "SELECT * FROM t a JOIN u ON (a.x, 1) = (2, 3), predict('m', q) p",
        "SELECT * FROM t LEFT JOIN LATERAL predict('m', q) ON true",
        "SELECT * FROM (predict('m', q) p JOIN t ON true)",
        "SELECT (SELECT count(*) FROM predict('m', q))",
        "WITH a AS (FROM predict('m', q)) FROM a",
        "CREATE TABLE x AS FROM predict('m', q)",
        "INSERT INTO x SELECT 1 FROM predict('m', q)",
        "UPDATE t SET a = p.b FROM predict('m', q) p",
        "DELETE FROM t USING predict('m', q) p WHERE true",
        "COPY (FROM predict('m', q)) TO 'x.csv'",
        "SELECT EXTRACT(year FROM d) FROM predict('m', q)",
        "SELECT a IS DISTINCT FROM b FROM predict('m', q)",
        "FROM predict(/* c */ 'm', -- d\n q)",
        "EXPLAIN SELECT * FROM predict('m', q)",
        "PIVOT predict('m', q) ON a",
        "SUMMARIZE predict('m', q)",
    ],
)
def test_calls_are_found(text: str) -> None:
    assert [call.function for call in calls(text)] == ["predict"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT predict('m', q)",
        "SELECT a, predict('m') FROM t",
        "SELECT * FROM main.predict('m')",
        "SELECT * FROM predict(m, q)",
        "SELECT * FROM predict",
        "SELECT * FROM t WHERE predict('m') AND f(a, predict('m'))",
        "SELECT a IS DISTINCT FROM predict('m') FROM t",
        "SELECT substring(x FROM predict('a')) FROM t",
        "SELECT 'FROM predict(''m'')'",
        "SELECT 1 -- FROM predict('m')",
        "INSERT INTO predict VALUES ('m')",
    ],
)
def test_other_text_is_not_a_call(text: str) -> None:
    assert calls(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM predict('m')", [None]),
        ("FROM predict('m', q)", ["FROM q"]),
        ("FROM predict('m', kg.\"q r\")", ['FROM kg."q r"']),
        ("FROM predict('m', 'q.parquet')", ["FROM 'q.parquet'"]),
        ("FROM predict('m', read_csv('q.csv'))", ["FROM read_csv('q.csv')"]),
        ("FROM predict('m', (VALUES (1)) v(head))", ["FROM (VALUES (1)) v(head)"]),
        ("FROM predict('m', (SELECT 1 ORDER BY 1))", ["SELECT 1 ORDER BY 1"]),
        ("WITH a AS (SELECT 1) FROM predict('m', a)", ["WITH a AS (SELECT 1) FROM a"]),
        ("WITH a AS (SELECT 1) FROM predict('m', b)", ["FROM b"]),
        (
            "WITH a(x) AS (SELECT 1), b AS MATERIALIZED (FROM a) FROM predict('m', (SELECT x FROM b))",
            ["WITH a(x) AS (SELECT 1), b AS MATERIALIZED (FROM a) FROM (SELECT x FROM b)"],
        ),
        (
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT * FROM predict('m', r)",
            ["WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) FROM r"],
        ),
        ("WITH a AS (SELECT 1), b AS (FROM predict('m', a)) FROM b", ["WITH a AS (SELECT 1) FROM a"]),
        ("FROM (WITH a AS (SELECT 1) FROM a) JOIN predict('m', a) ON true", ["FROM a"]),
        ("WITH a AS (SELECT 1) SELECT (SELECT max(s) FROM predict('m', a))", ["WITH a AS (SELECT 1) FROM a"]),
    ],
)
def test_the_relation_is_a_self_contained_query(text: str, expected: list[str | None]) -> None:
    assert questions(text) == expected


def test_several_calls_and_calls_in_calls() -> None:
    found = calls("FROM predict('a', (SELECT head FROM similar('b', 'x') s)) p JOIN evaluate('c') ON true")
    assert [call.function for call in found] == ["predict", "evaluate"]
    (inner,) = calls_inside(found[0])
    assert (inner.function, inner.model) == ("similar", "b")


@pytest.mark.parametrize(
    ("text", "alias"),
    [
        ("FROM predict('m', q)", False),
        ("FROM predict('m', q) p", True),
        ("FROM predict('m', q) AS p", True),
        ("FROM predict('m', q) \"p\"", True),
        ("FROM predict('m', q) type", True),
        ("FROM predict('m', q) WHERE true", False),
        ("FROM predict('m', q) NATURAL JOIN t", False),
        ("FROM predict('m', q) LIMIT 3", False),
        ("FROM predict('m', q) POSITIONAL JOIN t", False),
        ("FROM predict('m', q), t", False),
        ("FROM predict('m', q) TABLESAMPLE 3", False),
        ("FROM predict('m', q) SELECT 1", False),
    ],
)
def test_alias(text: str, alias: bool) -> None:
    assert calls(text)[0].alias is alias


@pytest.mark.parametrize(
    "text",
    [
        "FROM predict('m', q, 10)",
        "FROM predict('m', q, k := 1, k := 2)",
        "FROM predict('m', q, k := )",
        "FROM predict('m', , q)",
        "FROM predict('m', q, )",
        "FROM predict('m' || 'n', q)",
        "FROM predict('m', q",
    ],
)
def test_invalid_arguments(text: str) -> None:
    with pytest.raises(SqlError) as caught:
        calls(text)
    assert caught.value.place is not None
