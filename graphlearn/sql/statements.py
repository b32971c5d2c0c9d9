"""Parsed statements: ours in full, DuckDB's own as text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from graphlearn.errors import Place
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Source, Token

Span = tuple[int, int]
"""(start, end) in characters of the source's text, with exclusive end."""


@dataclass(frozen=True)
class Statement:
    """One statement, without its semicolon: the user's text from `start` up to `end`."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        """The statement as the user wrote it, including comments."""
        return self.source.sql[self.start : self.end]

    @cached_property
    def tokens(self) -> list[Token]:
        """The tokens of the statement."""
        return list(self.source.between(self.start, self.end))

    def place(self, start: int | None = None, length: int | None = None) -> Place:
        """The place of a span of the user's text; by default, of the statement's first token."""
        if start is None:
            first = self.tokens[0]
            start, length = first.start, len(first.text)
        return self.source.place(start, 1 if length is None else length)

    def at(self, span: Span) -> Place:
        """The place of a (start, end) span."""
        return self.source.place(span[0], span[1] - span[0])

    def verbatim(self, span: Span | None = None) -> Rewritten:
        """The statement, or a span of it, as SQL whose offsets map back to the user's text."""
        start, end = span or (self.start, self.end)
        return Rewritten.verbatim(self.source, start, end)


@dataclass(frozen=True)
class Passthrough(Statement):
    """One of DuckDB's statements. `kind` is its first word in upper case: SELECT, CREATE, FROM, …"""

    kind: str


@dataclass(frozen=True)
class OptionText:
    """An option as written: `key = value`, where the value is a constant SQL expression."""

    key: str
    key_span: Span
    value_sql: str
    value_span: Span


@dataclass(frozen=True)
class InputText:
    """An input query of a model. `role` is None for a single query without a role."""

    role: str | None
    sql: str
    span: Span
    role_span: Span


@dataclass(frozen=True)
class CreateModel(Statement):
    """CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name TYPE family [OPTIONS (…)] AS query | AS (role AS (query), …)."""

    name: str
    name_span: Span
    or_replace: bool
    if_not_exists: bool
    family: str
    family_span: Span
    options: tuple[OptionText, ...]
    inputs: tuple[InputText, ...]


@dataclass(frozen=True)
class DropModel(Statement):
    """DROP MODEL [IF EXISTS] name."""

    name: str
    name_span: Span
    if_exists: bool


@dataclass(frozen=True)
class ExplainModel(Statement):
    """EXPLAIN CREATE MODEL …: the plan; nothing runs."""

    create: CreateModel
