"""Translates DuckDB's errors into errors placed in the user's file, with a line of help."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from graphlearn.errors import GraphLearnError, Place, SqlError, WorkspaceError, nearest
from graphlearn.jobs.registry import measured_by, table_functions
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.semicolon import missing_semicolon, next_statement
from graphlearn.sql.source import Token
from graphlearn.sql.words import BEFORE_TABLE, CATALOG, CLAUSES, KEYWORDS, NO_ALIAS, RENAMED_COLUMNS
from graphlearn.types import Json

_FILE = re.compile(r'file "(.*)"')
_OFFERS = ("Candidate bindings", "Candidate tables", "Candidate extensions", "Did you mean")
_PYTHON_STREAM = re.compile(r"failed: (?:Unknown error: )?(?:[\w.]+: )?(.*?)(?:\. Detail: |$)", re.DOTALL)
_PARAMETERS = re.compile(r"Values were not provided for the following parameters: ([^,\s]+)")
_COLUMN = re.compile(r'(?:Referenced column|column named) "(\w+)"')
_PYTHON_OBJECT = re.compile(r'Python Object "(.*?)" of type "(.*?)"')


def suggest(words: list[str]) -> str:
    """A line of help that suggests words."""
    return f"did you mean: {', '.join(dict.fromkeys(words))}?"


class MissingError(SqlError):
    """A table, function or file does not exist; an earlier statement that has not run yet might create it."""


@dataclass(frozen=True)
class Fault:
    """DuckDB's description of an error. `start` and `length` are in bytes of the text that DuckDB received."""

    message: str
    details: str = ""
    kind: str = ""
    subtype: str = ""
    entry: str = ""
    name: str = ""
    start: int | None = None
    length: int = 0

    @classmethod
    def from_exception(cls, error: BaseException) -> Fault:
        """Parse an exception whose text is JSON (errors_as_json) or plain text."""
        text = str(error)
        brace = text.find("{")
        try:
            record = json.loads(text[brace:], strict=False) if brace >= 0 else None
        except ValueError:
            record = None
        if isinstance(record, dict) and "exception_message" in record:
            return cls.from_record(record)
        prose = re.sub(r"^[\w ]+ Error: ", "", text.partition("\n\nLINE ")[0])
        return cls.from_record({"exception_message": prose or type(error).__name__})

    @classmethod
    def from_record(cls, record: Json) -> Fault:
        """Parse DuckDB's JSON record of an error."""
        message = str(record["exception_message"])
        if (brace := message.find('{"exception_type"')) >= 0:  # an error of a thread that writes
            with suppress(ValueError, KeyError):
                message = json.loads(message[brace:])["exception_message"]
        headline, _, details = str(message).strip().partition("\n")
        start, length = None, 0
        if found := re.fullmatch(r"\[(\d+), *(\d+)\]", str(record.get("location", ""))):
            start, length = int(found[1]), int(found[2])
        elif str(record.get("position", "")).isdigit():
            start = int(record["position"])
        return cls(
            headline.strip(),
            details.strip(),
            str(record.get("exception_type", "")),
            str(record.get("error_subtype", "")),
            str(record.get("type", "")),
            str(record.get("name", "")),
            start,
            length,
        )

    @classmethod
    def from_tree(cls, tree: Json) -> Fault:
        """Parse the error in the result of json_serialize_sql."""
        names = {"exception_message": tree["error_message"], "exception_type": tree["error_type"]}
        return cls.from_record({**tree, **names})

    def error(self, query: Rewritten) -> GraphLearnError:
        """The error to raise, placed in the user's text that `query` was made from."""
        if found := _PARAMETERS.match(self.message):
            return _parameter(query, found[1])
        place = query.source.place(*self._span(query))
        if self.message.startswith("syntax error") and self.start is not None:
            following = next_statement(query.source, query.tokens, place.start)
            if following is not None:
                return missing_semicolon(query.source, following)
        message, help = self._words(query, place.start)
        if "No space left on device" in self.message or "File too large" in self.message:
            file = _FILE.search(self.message)
            message = f"the disk is full: could not write to {file[1]}" if file else self.message
            return WorkspaceError(message, place=place, help="free some disk space, then run again")
        unknown = self.kind == "Catalog" and ("does not exist" in message or "No catalog + schema" in message)
        missing = unknown or "No such file" in message or message.startswith("No files found")
        return (MissingError if missing else SqlError)(message, place=place, help=help)

    def _span(self, query: Rewritten) -> tuple[int, int]:
        tokens = query.tokens
        if self.start is not None:
            start, length = query.byte_span(self.start, self.length)
            if self.length == 0:
                length = next((t.end - start for t in tokens if t.start <= start < t.end), 1)
                length = 1 if self.message.startswith("unterminated") else length
            return start, length
        for word in (self.name, *re.findall(r'"([^"]+)"', self.message), *re.findall(r"column (\w+)$", self.message)):
            for token in tokens:
                if word and token.value.casefold() == word.casefold():
                    return token.start, len(token.text)
        first = tokens[0] if tokens else Token("name", " ", query.pieces[0].start)
        return first.start, len(first.text)

    def _words(self, query: Rewritten, start: int) -> tuple[str, str | None]:
        """The headline and the line of help."""
        message = self.message
        if self.entry == "Table Function":
            return self._function_words()
        if self.entry == "Scalar Function" and self.name.lower() in table_functions():
            return f"{self.name} is a table function and must be used in FROM", _table_help(self.name.lower())
        if found := _PYTHON_OBJECT.match(message):
            return (
                f'there is no table "{found[1]}", and the Python variable of that name is a {found[2]}',
                "only data frames, Arrow tables, relations and NumPy arrays can be read as tables",
            )
        ours = "of the Python object" in message or "from the object registered as" in message
        if ours and (found := _PYTHON_STREAM.search(message)):
            return found[1].strip().splitlines()[0], None
        if message.startswith("syntax error"):
            if self.start is not None and query.is_after_end(self.start):
                return "syntax error: something is missing at the end", None
            return message, self._syntax_help(query, start)
        if self.subtype == "ENTRY_ALREADY_EXISTS":
            what = self.entry.upper() or "TABLE"
            return message, f"write CREATE OR REPLACE {what} to replace it, CREATE {what} IF NOT EXISTS to keep it"
        if found := re.match(r'No files found that match the pattern "(.*)"', message):
            return message, _file_help(found[1])
        if (found := re.match(r'Referenced column "(\w+)"', message)) and found[1].lower() in RENAMED_COLUMNS:
            return f"`{found[1]}` is now `{RENAMED_COLUMNS[found[1].lower()]}`", None
        if (missing := _COLUMN.search(message)) and (help := _kind_help(missing[1], query.tokens)):
            return message, help
        words = self._candidates()
        if self.entry == "Table" and self.subtype == "MISSING_ENTRY":
            words = [*nearest(self.name, list(CATALOG)), *(w for w in words if nearest(self.name, [w]))]
            before = [t for t in query.tokens if t.start < start]
            is_read = bool(before) and (before[-1].word in BEFORE_TABLE or before[-1].text == ",")
            otherwise = "to read a file, put its name in single quotes: FROM 'data/file.parquet'" if is_read else None
            return message, suggest(words) if words else otherwise
        if words:
            return message, suggest(words)
        if "Candidate functions:" in self.details:
            known = [line.strip() for line in self.details.splitlines() if "->" in line]
            return message, f"known: {'; '.join(known[:4])}{'; …' if len(known) > 4 else ''}"
        lines = [line for line in self.details.splitlines() if not line.startswith(_OFFERS)]
        return message, " ".join(" ".join(lines).split()) or None

    def _function_words(self) -> tuple[str, str | None]:
        if self.name.lower() in table_functions():
            return (
                f"{self.name} needs the name of a model as its first argument, in single quotes",
                f"write {self.name}('model', …)",
            )
        near = nearest(self.name, [*table_functions(), *self._candidates()])
        return self.message, suggest(near) if near else None

    def _candidates(self) -> list[str]:
        """The names that DuckDB suggests, best first, without its internal tables."""
        for line in self.details.splitlines():
            if line.startswith(_OFFERS):
                names = re.findall(r'"([^"]+)"', line)
                return [n for n in names if not n.startswith(("pg_", "sqlite_", "duckdb_"))]
        return []

    def _syntax_help(self, query: Rewritten, start: int) -> str | None:
        before = [t for t in query.tokens if t.start < start]
        token = next((t for t in query.tokens if t.start == start), None)
        if token is None:
            return None
        if token.text == ")" and token.kind == "operator":
            return "something is missing before )"
        if token.text == "." and before and before[-1].word in NO_ALIAS:
            return f'{before[-1].text} is a keyword; put a name in double quotes: "{before[-1].text}"'
        if token.word in NO_ALIAS - CLAUSES and before and (before[-1].kind != "operator" or before[-1].text == ")"):
            return f'{token.text} is a keyword; put a name in double quotes: "{token.text}"'
        for word in (token.word, before[-1].word if before else ""):
            near = get_close_matches(word, KEYWORDS, 1, 0.7) if len(word) > 2 and word not in KEYWORDS else []
            if near:
                return suggest(near)
        return None


def _parameter(query: Rewritten, name: str) -> SqlError:
    """The error for a parameter, $name or ?, without a value."""
    tokens = query.tokens
    sign = next(
        (t for t, after in pairwise(tokens) if t.text == "$" and after.value == name),
        next((t for t in tokens if t.text == "?"), tokens[0]),
    )
    shown, variable = (f"${name}", name) if sign.text == "$" else ("?", "x")
    return SqlError(
        f"the parameter {shown} has no value; jobs use variables instead",
        place=query.source.place(sign.start, len(shown) if sign.text in ("$", "?") else len(sign.text)),
        help=f"write getvariable('{variable}'), and SET VARIABLE {variable} = … before it; "
        f"--set {variable}=… replaces that value",
    )


def _table_help(function: str) -> str:
    """How to write a table function that was used as a scalar function."""
    return f"write {table_functions()[function].call(function)}"


def around(function: str, name: str, place: Place) -> SqlError:
    """The error for a table function whose relation refers to the surrounding query, with or without LATERAL."""
    return SqlError(
        f"{function} cannot read {name} from the surrounding query: its relation must be self-contained",
        place=place,
        help=f"query all rows at once: {table_functions()[function].call(function)}",
    )


def _kind_help(column: str, tokens: list[Token]) -> str | None:
    """Why a system table lacks the column of a kind of model; None if it is no such column."""
    tables = {token.value.lower() for token in tokens} & set(CATALOG)
    types = measured_by(column, counts=bool(tables & {"models", "model_versions"})) if tables else []
    shown = ", ".join(types[:3]) + (", …" if len(types) > 3 else "")
    return f"{column} is a column of models of TYPE {shown}, and this workspace has none" if types else None


def _file_help(pattern: str) -> str | None:
    """The files in the folder with names most similar to a missing one."""
    folder = Path(pattern).parent
    if "://" in pattern or "*" in str(folder):
        return None
    if not folder.is_dir():
        return f"there is no folder {folder}; paths are relative to {Path.cwd()}"
    near = nearest(Path(pattern).name, sorted(p.name for p in folder.iterdir()))
    return suggest([str(folder / n) for n in near]) if near else f"paths are relative to {Path.cwd()}"
