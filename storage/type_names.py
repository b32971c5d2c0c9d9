"""Names of DuckDB types as they are stored with a model, checked against a grammar before they become part of SQL.

    type    = name | DECIMAL(n, n) | ENUM('text', …) | MAP(type, type) | STRUCT(field type, …) | UNION(field type, …)
            | type[] | type[n]
    name    = one of NAMES, or JSON or NULL in double quotes, as DuckDB writes them
    field   = word | "any text"

A name that passes contains nothing but a type: no expression, no comment, no second statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

NAMES = frozenset(
    (
        *("BIGINT", "BIGNUM", "BIT", "BLOB", "BOOLEAN", "DATE", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "INTERVAL"),
        *("JSON", "SMALLINT", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_S"),
        *("TIMETZ", "TIME_NS", "TINYINT", "UBIGINT", "UHUGEINT", "UINTEGER", "USMALLINT", "UTINYINT"),
        *("UUID", "VARCHAR"),
    )
)
"""Types without parameters. (TIME and TIMESTAMP may be followed by WITH TIME ZONE.)"""
LONGEST = 1 << 16
"""Characters of a name."""
DEEPEST = 32
"""Levels of nesting."""

MOST_ELEMENTS = 1 << 20
"""Values in a key, at the length of its arrays: DuckDB reserves room for every element, even of NULL."""
MOST_FIELDS = 1000
"""Fields of all structs and unions."""

_TOKEN = re.compile(
    r"""\s*(?: (?P<word>[A-Za-z_][A-Za-z0-9_]*) | (?P<number>[0-9]{1,9}) | (?P<field>"(?:[^"\0]|"")+")
    | (?P<text>'(?:[^'\0]|'')*') | (?P<mark>[](),[]) )""",
    re.VERBOSE,
)


def is_type(text: str) -> bool:
    """Whether a text is the name of a DuckDB type, and of nothing else."""
    try:
        _Reader(text).whole()
    except ValueError:
        return False
    return True


class _Reader:
    """Reads one name from left to right. Raises ValueError where it leaves the grammar."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"a type has more than {LONGEST:,} characters")
        self.tokens: list[tuple[str, str]] = []
        end = len(text.rstrip())
        place = 0
        while place < end:
            found = _TOKEN.match(text, place)
            if found is None:
                raise ValueError(f"unexpected text at {place}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            place = found.end()
        self.place = 0
        self.fields = 0

    def whole(self) -> None:
        self.type(0)
        if self.place < len(self.tokens):
            raise ValueError("text after the type")

    def peek(self, *wanted: str) -> bool:
        """Whether the next token is one of these words or marks."""
        return self.place < len(self.tokens) and self.tokens[self.place][1].upper() in wanted

    def take(self, kind: str, *wanted: str) -> str:
        """The next token, which must be of this kind and, if given, one of these words or marks."""
        if self.place == len(self.tokens):
            raise ValueError("the type ends early")
        found, text = self.tokens[self.place]
        if found != kind or (wanted and text.upper() not in wanted):
            raise ValueError(f"unexpected {text}")
        self.place += 1
        return text.upper()

    def type(self, depth: int) -> int:
        """The number of values that a value of the type holds at least."""
        if depth > DEEPEST:
            raise ValueError(f"a type has more than {DEEPEST} levels")
        if self.peek('"JSON"', '"NULL"'):
            self.take("field")
            values = 1
        else:
            values = self.named(self.take("word"), depth)
        while self.peek("["):
            self.take("mark")
            if not self.peek("]"):
                values *= max(1, int(self.take("number")))
                if values > MOST_ELEMENTS:
                    raise ValueError(f"the arrays of a type have more than {MOST_ELEMENTS:,} elements")
            self.take("mark", "]")
        return values

    def named(self, name: str, depth: int) -> int:
        """What follows the first word of a type; returns the number of values, as `type` does."""
        if name == "DECIMAL":
            self.listed(lambda: self.take("number"))
        elif name == "ENUM":
            self.listed(lambda: self.take("text"))
        elif name == "MAP":
            return sum(self.listed(lambda: self.type(depth + 1)))
        elif name in ("STRUCT", "UNION"):
            return sum(self.listed(lambda: self.field(depth + 1)))
        elif name not in NAMES:
            raise ValueError(f"{name} is no type")
        elif name in ("TIME", "TIMESTAMP") and self.peek("WITH"):
            for word in ("WITH", "TIME", "ZONE"):
                self.take("word", word)
        return 1

    def listed(self, item: Callable[[], T]) -> list[T]:
        """(item, item, …)"""
        self.take("mark", "(")
        found = [item()]
        while self.peek(","):
            self.take("mark")
            found.append(item())
        self.take("mark", ")")
        return found

    def field(self, depth: int) -> int:
        self.fields += 1
        if self.fields > MOST_FIELDS:
            raise ValueError(f"a type has more than {MOST_FIELDS:,} fields")
        quoted = self.place < len(self.tokens) and self.tokens[self.place][0] == "field"
        self.take("field" if quoted else "word")
        return self.type(depth)
