"""Finds where a semicolon is missing in a text that DuckDB cannot parse."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise

import duckdb

from graphlearn.errors import SqlError
from graphlearn.sql.source import Source, Token
from graphlearn.sql.words import QUERY_WORDS, STARTERS

TRIED = 8
"""Places that are tried, at most."""


def begins_statement(token: Token | None) -> bool:
    """Whether a statement may begin with this token."""
    return token is not None and token.word in STARTERS | QUERY_WORDS


class SemicolonError(SqlError):
    """A semicolon is missing between two statements."""


def missing_semicolon(source: Source, token: Token) -> SemicolonError:
    """The error for a semicolon that is missing before a token."""
    place = source.place(token.start, len(token.text))
    return SemicolonError(
        f"a semicolon is missing before {token.text}", place=place, help="end the statement before it with ;"
    )


def next_statement(source: Source, tokens: list[Token], error: int) -> Token | None:
    """The first token of a second statement among the tokens of one that has a syntax error at this offset.

    It begins a line, the text before it is a complete statement, and so is the text from it on unless its first word
    leaves no doubt. None if there is no such token.
    """
    with closing(duckdb.connect()) as connection:
        return _next(connection, source, tokens, error)


def _next(connection: duckdb.DuckDBPyConnection, source: Source, tokens: list[Token], error: int) -> Token | None:
    depth, found = 0, []
    for before, token in pairwise(tokens):
        if before.kind == "operator":
            depth += (before.text in "([{") - (before.text in ")]}")
        in_reach = depth == 0 and token.start <= error
        if in_reach and begins_statement(token) and "\n" in source.sql[before.end : token.start]:
            found.append(token)
    for token in found[-TRIED:]:
        if not _parses(connection, source.sql[tokens[0].start : token.start]):
            continue
        rest = tokens[tokens.index(token) :]
        text = source.sql[token.start : rest[-1].end]
        if token.word in STARTERS or _parses(connection, text) or _next(connection, source, rest, rest[-1].end):
            return token
    return None


def _parses(connection: duckdb.DuckDBPyConnection, text: str) -> bool:
    try:
        return len(connection.extract_statements(text)) == 1
    except duckdb.Error:
        return False
