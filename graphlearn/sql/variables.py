"""`--set path=/x.parquet`: a value from outside replaces the one that `SET VARIABLE path = …` gives in a job file."""

from __future__ import annotations

from collections.abc import Mapping

from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.sql.statements import Passthrough, Statement
from graphlearn.storage.columns import literal, quoted


def variable_of(statement: Statement) -> str | None:
    """The name that a SET VARIABLE statement sets, in lower case; None for any other statement."""
    if not isinstance(statement, Passthrough):
        return None
    tokens = statement.tokens
    is_set = len(tokens) > 3 and tokens[0].word == "SET" and tokens[1].word == "VARIABLE"
    return tokens[2].value.lower() if is_set else None


def with_variables(
    statements: list[Statement], given: Mapping[str, object] | None
) -> tuple[list[Statement], dict[str, object]]:
    """The statements with the given values in their SET VARIABLE, and what else was given: options of models.

    A str is SQL when it is a number, a quoted string, a list …; anything else, such as a path, is text.
    """
    names = {name for statement in statements if (name := variable_of(statement))}
    values = {key.lower(): value for key, value in (given or {}).items() if key.lower() in names}
    rest = {key: value for key, value in (given or {}).items() if key.lower() not in names}
    replaced: list[Statement] = []
    for statement in statements:
        name = variable_of(statement)
        if name in values:
            text = f"SET VARIABLE {quoted(name)} = {_as_sql(values[name])}"
            replaced += parse(Source("--set", text))
        else:
            replaced.append(statement)
    return replaced, rest


def _as_sql(value: object) -> str:
    if isinstance(value, bool | int | float) or value is None:
        return "NULL" if value is None else str(value)
    text = str(value).strip()
    is_sql = text[:1] in ("'", "[", "{") or text.upper() in ("TRUE", "FALSE", "NULL") or _is_number(text)
    return text if is_sql else literal(str(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text[-1].isdigit()
