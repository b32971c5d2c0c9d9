"""A text that the user wrote, and its tokens. All offsets in this package are in characters from the start of the text.

DuckDB's tokenizer is used, so quotes, comments and dollar-quoted strings are recognised as in DuckDB.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import duckdb

from graphlearn.errors import Place, SqlError

_UNICODE_SPACE = re.compile(r"[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff]")
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_CLOSED_STRING = re.compile(r"[bnxBNX]?'(?:[^']++|'')*+'|[eE]'(?:[^'\\]++|''|\\.)*+'|(\$[^$\s]*\$).*\1", re.DOTALL)
_CLOSED_NAME = re.compile(r'"(?:[^"]++|"")*+"')


@dataclass(frozen=True, slots=True)
class Token:
    """A token. `kind`: "name", "quoted" (a name in double quotes), "string", "number" or "operator"."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """The offset after the token."""
        return self.start + len(self.text)

    @property
    def word(self) -> str:
        """The token in upper case if it is a bare word, otherwise empty."""
        return self.text.upper() if self.kind == "name" else ""

    @property
    def value(self) -> str:
        """The value of a name or string: its text without quotes."""
        if self.kind == "quoted":
            return self.text[1:-1].replace('""', '"')
        if self.kind == "string" and self.text.startswith("'"):
            return self.text[1:-1].replace("''", "'")
        return self.text


@dataclass(frozen=True)
class Source:
    """A text and its origin: a file name, or a label such as "<sql>"."""

    file: str
    text: str

    def place(self, start: int, length: int = 1) -> Place:
        """The place of a span of the text."""
        return Place(file=self.file, text=self.text, start=start, length=max(1, length))

    @cached_property
    def sql(self) -> str:
        """The text for DuckDB: unicode spaces outside quotes and comments become plain spaces, so offsets agree."""
        if not _UNICODE_SPACE.search(self.text):
            return self.text
        parts = []
        for kind, piece in _cut(self.text):
            quoted = kind in ("string", "comment") or piece.startswith('"')
            parts.append(piece if quoted else _UNICODE_SPACE.sub(" ", piece))
        return "".join(parts)

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of the text, without comments.

        Raises SqlError for unclosed quotes and comments, and for characters that SQL text cannot contain.
        """
        self.check_characters()
        tokens, start, kind, piece = [], 0, "", ""
        for kind, piece in _cut(self.sql):
            if kind != "comment" and (bare := piece.rstrip()):
                tokens.append(Token("quoted" if bare.startswith('"') else kind, bare, start))
            start += len(piece)
        if kind == "comment":
            self._check_comment(piece, start - len(piece))
        elif tokens:
            self._check_closed(tokens[-1])
        return tuple(tokens)

    @cached_property
    def _starts(self) -> list[int]:
        return [token.start for token in self.tokens]

    def between(self, start: int, end: int) -> tuple[Token, ...]:
        """The tokens that begin at `start` or later, and before `end`."""
        return self.tokens[bisect_left(self._starts, start) : bisect_left(self._starts, end)]

    def check_characters(self) -> None:
        """Raise SqlError for characters that SQL text cannot contain."""
        if bad := _UNUSABLE.search(self.text):
            what = "a NUL character" if bad.group() == "\0" else "half a surrogate pair"
            raise SqlError(
                f"{what} in the text", place=self.place(bad.start()), help="use UTF-8 text without NUL characters"
            )

    def _check_comment(self, comment: str, start: int) -> None:
        depth = 0
        for mark in re.findall(r"/\*|\*/", comment) if comment.startswith("/*") else ():
            depth += 1 if mark == "/*" else -1
        if depth > 0:
            raise SqlError("unterminated comment: /* is never closed", place=self.place(start, 2), help="add */")

    def _check_closed(self, last: Token) -> None:
        if last.kind == "string" and not _CLOSED_STRING.fullmatch(last.text):
            raise SqlError("unterminated string: the quote is never closed", place=self.place(last.start))
        if last.kind == "quoted" and not _CLOSED_NAME.fullmatch(last.text):
            raise SqlError("unterminated quoted name: the quote is never closed", place=self.place(last.start))


def _cut(text: str) -> list[tuple[str, str]]:
    """The text as (kind, piece) pairs. White space belongs to the piece before it; the pieces join to the text."""
    kinds = {
        duckdb.token_type.identifier: "name",
        duckdb.token_type.keyword: "name",
        duckdb.token_type.string_const: "string",
        duckdb.token_type.numeric_const: "number",
        duckdb.token_type.operator: "operator",
        duckdb.token_type.comment: "comment",
    }
    data = text.encode("utf-8", "replace")
    marks = [(offset, kinds[kind]) for offset, kind in duckdb.tokenize(text)]
    pieces = [("comment", data[: marks[0][0] if marks else len(data)].decode())]  # leading white space
    for (start, kind), (end, _) in pairwise([*marks, (len(data), "")]):
        pieces.append((kind, data[start:end].decode()))
    return pieces
