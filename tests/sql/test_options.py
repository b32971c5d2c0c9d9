"""Options: from SQL expressions to a dataclass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import duckdb
import pytest

from graphlearn.errors import OptionError
from graphlearn.sql.options import convert, read_options
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.sql.statements import CreateModel


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Options:
    whole: int = 1
    number: float = 0.5
    flag: bool = False
    text: str = "a"
    choice: Literal["up", "down"] = "up"
    colour: Colour = Colour.RED
    maybe: int | None = 3
    either: int | str = 1
    many: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 0.5)
    items: list[int] | None = None
    span: str = "1 day"

    def __post_init__(self) -> None:
        if self.whole < 0:
            raise OptionError(f"whole must be at least 0, not {self.whole}", key="whole")
        if self.flag and self.text == "a":
            raise OptionError("flag needs another text", key="text")


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("CREATE TABLE t AS SELECT 1 AS n")
        opened.execute("SET VARIABLE width = 7")
        yield opened


def read(connection: duckdb.DuckDBPyConnection, options: str, **overrides: object) -> Options:
    (create,) = parse(Source("job.sql", f"CREATE MODEL m TYPE complex OPTIONS ({options}) AS FROM t"))
    assert isinstance(create, CreateModel)
    return read_options(connection, create, Options, overrides)


@pytest.mark.parametrize(
    ("sql", "key", "value"),
    [
        ("whole = 7", "whole", 7),
        ("whole = (2 ** 3)::INTEGER - 1", "whole", 7),
        ("whole = 7::HUGEINT", "whole", 7),
        ("whole = getvariable('width')", "whole", 7),
        ("number = 7", "number", 7.0),
        ("number = 0.1", "number", 0.1),
        ("number = 1e-3", "number", 0.001),
        ("flag = 1 > 2", "flag", False),
        ("text = 'it''s' || upper('x')", "text", "it'sX"),
        ("text = 'a' -- a comment\n", "text", "a"),
        ("choice = 'down'", "choice", "down"),
        ("colour = 'red'", "colour", Colour.RED),
        ("maybe = NULL", "maybe", None),
        ("either = 'x'", "either", "x"),
        ("many = ['a', 'b']", "many", ("a", "b")),
        ("many = []", "many", ()),
        ("many = list_transform([1, 2], lambda x: 'v' || x)", "many", ("v1", "v2")),
        ("pair = (3, 4.5)", "pair", (3, 4.5)),
        ("items = range(3)", "items", [0, 1, 2]),
        ("span = INTERVAL 1 MONTH", "span", "1 month"),
        ('"whole" = 2', "whole", 2),
    ],
)
def test_values(connection: duckdb.DuckDBPyConnection, sql: str, key: str, value: object) -> None:
    options = read(connection, sql)
    assert getattr(options, key) == value
    assert type(getattr(options, key)) is type(value)


@pytest.mark.parametrize(
    ("sql", "at", "message"),
    [
        ("whole = 1.0", "1.0", "whole takes a whole number, not 1.0"),
        ("whole = 1e0", "1e0", "whole takes a whole number"),
        ("whole = true", "true", "whole takes a whole number"),
        ("whole = NULL", "NULL", "whole takes a whole number, not NULL"),
        ("whole = -5", "-5", "whole must be at least 0, not -5"),
        ("number = 'nan'::DOUBLE", "'nan'::DOUBLE", "number takes a finite number"),
        ("number = 'x'", "'x'", "number takes a number"),
        ("flag = 1", "1", "flag takes true or false"),
        ("text = 1", "1", "text takes text"),
        ("choice = 'updown'", "'updown'", "choice takes one of 'up', 'down'"),
        ("colour = 'rd'", "'rd'", "colour takes one of 'red'"),
        ("maybe = 'x'", "'x'", "maybe takes a whole number or NULL"),
        ("many = 'a'", "'a'", "many takes a list"),
        ("many = [1]", "[1]", "many takes a list in which each value is text"),
        ("pair = [1]", "[1]", "pair takes a list of 2 values"),
        ("span = 3", "3", "span takes text"),
        ("hole = 3", "hole", "complex has no option hole"),
        ("whole = 1, WHOLE = 2", "WHOLE", "option whole is given twice"),
        ("text = abc", "abc", "abc is not a value"),
        ("whole = (SELECT 1)", "(SELECT 1", "expected a constant, found a subquery"),
        ("whole = random()::INTEGER", "random()", "expected a constant, found random()"),
        ("whole = nextval('s')", "nextval('s')", "expected a constant, found nextval()"),
        ("whole = $1", "$1", "expected a constant, found a parameter"),
        ("whole = 'x'::INTEGER", "::INTEGER", "Could not convert string 'x' to INT32"),
        ("flag = true", "complex", "flag needs another text"),
    ],
)
def test_mistakes_are_placed(connection: duckdb.DuckDBPyConnection, sql: str, at: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(connection, sql)
    assert caught.value.message.startswith(message)
    place = caught.value.place
    assert place is not None
    shown = place.text[place.start :]
    assert shown.startswith(at) or at.endswith(place.text[place.start : place.start + place.length])


def test_overrides_replace_what_the_statement_says(connection: duckdb.DuckDBPyConnection) -> None:
    options = read(connection, "whole = 1, text = 'a'", whole="3 + 4", choice="down", number=2, many=["x"], text=" b ")
    assert (options.whole, options.choice, options.number, options.many, options.text) == (7, "down", 2.0, ("x",), "b")


@pytest.mark.parametrize(
    ("key", "value", "column"), [("hole", "3", 1), ("whole", "many", 7), ("whole", "1 +", 10), ("whole", "-1", 7)]
)
def test_wrong_overrides_are_placed(connection: duckdb.DuckDBPyConnection, key: str, value: str, column: int) -> None:
    with pytest.raises(OptionError) as caught:
        read(connection, "", **{key: value})
    place = caught.value.place
    assert place is not None
    assert (place.file, place.line) == ("--set", 1)
    assert place.column == column


def test_a_required_option() -> None:
    @dataclass(frozen=True)
    class Needy:
        horizon: int

    (create,) = parse(Source("job.sql", "CREATE MODEL m TYPE net3 AS FROM t"))
    assert isinstance(create, CreateModel)
    with duckdb.connect() as connection, pytest.raises(OptionError, match="option horizon is required"):
        read_options(connection, create, Needy)


def test_errors_do_not_stay_json(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(OptionError):
        read(connection, "whole = 'x'::INTEGER")
    with pytest.raises(duckdb.Error, match="LINE 1"):
        connection.execute("SELECT nope")


@pytest.mark.parametrize("hint", [int, float, bool, str, Literal["a"], tuple[int, ...], int | str, dict[str, int]])
def test_null_is_accepted_only_by_optional_fields(hint: Any) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        convert(None, hint)
