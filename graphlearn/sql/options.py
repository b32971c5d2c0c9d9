"""Converts the text of OPTIONS (…) into a model family's options dataclass. Errors are placed at the option."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin

import duckdb

from graphlearn.errors import OptionError, Place, SqlError, did_you_mean
from graphlearn.sql import engine
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Source
from graphlearn.sql.statements import CreateModel, OptionText
from graphlearn.types import Json

T = TypeVar("T")
OUTSIDE = "--set"
"""The file of a place in an option that is given outside the SQL."""


@dataclass(frozen=True)
class _Given:
    """An option's value and the places of its key and value."""

    value: object
    key_place: Place
    value_place: Place
    text: str


def read_options(
    connection: duckdb.DuckDBPyConnection,
    create: CreateModel,
    options_type: type[T],
    overrides: Mapping[str, object] | None = None,
) -> T:
    """The options of a statement as an instance of `options_type`, a dataclass.

    `overrides` replace options of the statement: a str is SQL (a bare word is text), anything else is the value itself.
    Raises OptionError at the key or the value if it is unknown, renamed, repeated, of the wrong type, NULL, not
    finite or out of range.
    """
    given: dict[str, _Given] = {}
    for option in create.options:
        key_place, value_place = create.at(option.key_span), create.at(option.value_span)
        if option.key in given:
            raise OptionError(f"option {option.key} is given twice", key=option.key, place=key_place)
        if overrides and option.key in overrides:
            continue
        _check_key(option.key, options_type, create.family, key_place)
        given[option.key] = _Given(_constant(connection, create, option), key_place, value_place, option.value_sql)
    for key, value in (overrides or {}).items():
        _check_key(key, options_type, create.family, override_place(key, value), ", and the SQL sets no such variable")
        given[key] = _overridden(connection, key, value)
    return build_options(given, options_type, create.at(create.family_span))


def build_options(given: Mapping[str, _Given], options_type: type[T], family_place: Place) -> T:
    """Convert the values to the types of the fields and create the dataclass."""
    hints = typing.get_type_hints(options_type)
    values: dict[str, object] = {}
    for key, option in given.items():
        try:
            values[key] = convert(option.value, hints[key])
        except ValueError as error:
            help = _hint(option.value, hints[key])
            shown = option.text if len(option.text) <= 60 else option.text[:57] + "…"
            message = f"{key} takes {error}, not {shown}"
            raise OptionError(message, key=key, place=option.value_place, help=help) from None
    for field in fields(options_type):  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
            raise OptionError(f"option {field.name} is required", key=field.name, place=family_place)
    try:
        return options_type(**values)
    except OptionError as error:
        key = error.key or ""
        error.at(given[key].value_place if key in given else family_place)
        raise


def constant(connection: duckdb.DuckDBPyConnection, expression: Rewritten) -> object:
    """The value of a constant SQL expression. Raises SqlError if it reads a column or table or has side effects."""
    query = "SELECT (" + expression + ")"
    for node in _nodes(engine.syntax_tree(connection, query)):
        kind, name = node.get("class"), str(node.get("function_name", ""))
        refused = {"SUBQUERY": "a subquery", "STAR": "*", "WINDOW": "a window function", "PARAMETER": "a parameter"}
        if kind in refused:
            raise SqlError(f"expected a constant, found {refused[kind]}", place=_node_place(node, query))
        if kind == "FUNCTION" and _has_side_effects(connection, name):
            raise SqlError(f"expected a constant, found {name}()", place=_node_place(node, query))
    if engine.rows(connection, "SELECT typeof(" + expression + ")")[0][0] == "INTERVAL":
        query = "SELECT (" + expression + ")::VARCHAR"  # a Python timedelta would turn a month into 30 days
    return engine.rows(connection, query)[0][0]


def convert(value: object, hint: Any) -> object:
    """Convert a value from DuckDB to the type of a field. Raises ValueError with what the field takes."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        raise ValueError(f"one of {', '.join(repr(a) for a in arguments)}")
    if origin in (tuple, list):
        return _convert_list(value, origin, arguments)
    if origin is dict:
        return _convert_dict(value, arguments)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise ValueError(f"one of {', '.join(repr(member.value) for member in hint)}") from None
    return _convert_scalar(value, hint)


def _convert_union(value: object, arguments: tuple[Any, ...]) -> object:
    if value is None and types.NoneType in arguments:
        return None
    texts = []
    for argument in arguments:
        if argument is not types.NoneType:
            try:
                return convert(value, argument)
            except ValueError as error:
                texts.append(str(error))
    raise ValueError(" or ".join([*texts, *(["NULL"] if types.NoneType in arguments else [])]))


def _convert_list(value: object, origin: Any, arguments: tuple[Any, ...]) -> object:
    if origin is tuple and arguments[-1] is not Ellipsis:
        if isinstance(value, (list, tuple)) and len(value) == len(arguments):
            return tuple(convert(v, a) for v, a in zip(value, arguments, strict=True))
        raise ValueError(f"a list of {len(arguments)} values")
    if isinstance(value, (list, tuple)):
        try:
            return origin(convert(v, arguments[0]) for v in value)
        except ValueError as error:
            raise ValueError(f"a list in which each value is {error}") from None
    raise ValueError("a list")


def _convert_dict(value: object, arguments: tuple[Any, ...]) -> object:
    if isinstance(value, Mapping):
        try:
            return {convert(k, arguments[0]): convert(v, arguments[1]) for k, v in value.items()}
        except ValueError as error:
            raise ValueError(f"a struct in which each value is {error}, such as {{'name': 'value'}}") from None
    raise ValueError("a struct such as {'name': 'value'}")


def _convert_scalar(value: object, hint: Any) -> object:
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError("a whole number")
    if hint is float:
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            raise ValueError("a finite number")
        raise ValueError("a number")
    if hint is str:
        if isinstance(value, str):
            return value
        raise ValueError("text")
    return value


def _hint(value: object, hint: Any) -> str | None:
    """A line of help for a value of the wrong type."""
    if isinstance(value, str) and get_origin(hint) is Literal:
        return did_you_mean(value, [str(a) for a in get_args(hint)])
    if isinstance(value, str) and hint in (int, float):
        try:
            return f"write {hint(value)} without quotes" if math.isfinite(float(value)) else None
        except ValueError:
            return None
    if hint is int and isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        return f"write {int(value)}" if abs(float(value)) < 1 << 53 else None
    return None


def _check_key(key: str, options_type: type[Any], family: str, place: Place, otherwise: str = "") -> None:
    known = [field.name for field in fields(options_type) if field.init]
    renamed: Mapping[str, str] = getattr(options_type, "renamed", {})
    if key in renamed:
        raise OptionError(f"`{key}` is now `{renamed[key]}`", key=key, place=place)
    if key not in known:
        raise OptionError(
            f"{family} has no option {key}{otherwise}", key=key, place=place, help=did_you_mean(key, known)
        )


def _constant(connection: duckdb.DuckDBPyConnection, create: CreateModel, option: OptionText) -> object:
    expression = create.verbatim(option.value_span)
    try:
        return constant(connection, expression)
    except SqlError as error:
        place = create.at(option.value_span)
        if len(expression.tokens) == 1 and expression.tokens[0].kind in ("name", "quoted"):
            word = expression.tokens[0].value
            message = f"{word} is not a value"
            raise OptionError(
                message, key=option.key, place=place, help=f"put text in single quotes: '{word}'"
            ) from None
        raise OptionError(error.message, key=option.key, place=error.place or place, help=error.help) from None


def override_place(key: str, value: object) -> Place:
    """The place of an option that is given outside the SQL."""
    text = f"{key}={value}"
    return Place(file=OUTSIDE, text=text, start=0, length=len(key))


def _overridden(connection: duckdb.DuckDBPyConnection, key: str, value: object) -> _Given:
    source = Source(OUTSIDE, f"{key}={value}")
    key_place, value_place = source.place(0, len(key)), source.place(len(key) + 1, len(str(value)))
    if isinstance(value, str):
        expression = Rewritten.verbatim(source, len(key) + 1, len(source.text))
        words = [t.word for t in expression.tokens]
        if not words:
            raise OptionError(f"{key} has no value", key=key, place=key_place)
        is_text = len(words) == 1 and words[0] and words[0] not in ("TRUE", "FALSE", "NULL")
        try:
            value = value.strip() if is_text else constant(connection, expression)
        except SqlError as error:
            raise OptionError(error.message, key=key, place=error.place, help=error.help) from None
    return _Given(value, key_place, value_place, str(value))


def _has_side_effects(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    found = connection.execute(
        "SELECT bool_or(has_side_effects) FROM duckdb_functions() WHERE function_name = ?", [name.lower()]
    ).fetchone()
    return bool(found and found[0])


def _node_place(node: Json, query: Rewritten) -> Place:
    start = int(node.get("query_location", 0))
    return query.source.place(*query.byte_span(start, int(node.get("query_location_length", 1))))


def _nodes(tree: object) -> list[Json]:
    """All the objects of a syntax tree."""
    if isinstance(tree, list):
        return [node for part in tree for node in _nodes(part)]
    if isinstance(tree, dict):
        return [tree, *(node for part in tree.values() for node in _nodes(part))]
    return []
