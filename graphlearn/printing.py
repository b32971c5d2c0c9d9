"""Printing results to stdout: DuckDB's boxes for people, JSON lines or CSV for programs."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from graphlearn.errors import UNPRINTABLE, printable
from graphlearn.storage.files import dump_json
from graphlearn.text import number

if TYPE_CHECKING:
    import duckdb

Format: TypeAlias = Literal["box", "json", "csv"]

BATCH = 2048
BOX_ROWS = 40  # longer results are cut in the middle, as in DuckDB
BOX_WIDTH = 140  # characters, if stdout is not a terminal


def print_relation(relation: duckdb.DuckDBPyRelation, form: Format = "box") -> None:
    """Print a query's rows: as a box, which cuts long results, or all of them as JSON lines or CSV, streamed."""
    if form == "json":
        for line in json_lines(relation):
            sys.stdout.write(line + "\n")
    elif form == "csv":
        writer = csv.writer(_Terminal() if sys.stdout.isatty() else sys.stdout, lineterminator="\n")
        writer.writerow(relation.columns)
        for batch in relation.project("COLUMNS(*)::VARCHAR").to_arrow_reader(BATCH):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    else:
        with redirect_stdout(StringIO()) as box:
            relation.show(max_width=width(), max_rows=BOX_ROWS)
        sys.stdout.write(printable(box.getvalue()))
    sys.stdout.flush()


def print_rows_event(relation: duckdb.DuckDBPyRelation) -> None:
    """Print a query's rows as one JSON object in the format of events: {"event": "rows", "rows": [...]}."""
    sys.stdout.write('{"event": "rows", "rows": [' + ", ".join(json_lines(relation)) + "]}\n")
    sys.stdout.flush()


def json_lines(relation: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """Each row as a JSON object, with values as DuckDB writes them; NaN and infinities become null."""
    rows = relation.set_alias("__row").project("to_json(__row)::VARCHAR")
    for batch in rows.to_arrow_reader(BATCH):
        for line in batch.column(0).to_pylist():
            yield to_json_line(json.loads(line)) if "NaN" in line or "Infinity" in line else _escaped(line)


def to_json_line(value: Any) -> str:
    """A value as strict JSON on one line, without characters that control a terminal."""
    return _escaped(dump_json(value))


def _escaped(text: str) -> str:
    """JSON without characters that control a terminal: they occur only in its texts."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Terminal:
    """Writes to a terminal what does not control it; a file or a pipe gets the data as they are."""

    def write(self, text: str) -> int:
        return sys.stdout.write(printable(text))


def print_explained(relation: duckdb.DuckDBPyRelation) -> None:
    """Print the plan that DuckDB's EXPLAIN draws, without the table around it."""
    for row in relation.fetchall():
        sys.stdout.write(printable(f"{row[-1]}\n".replace("\n\n", "\n")))
    sys.stdout.flush()


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns, with numbers right-aligned and None as an empty cell."""
    table = [list(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in table]
    widths = [max(len(printable(name)), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    right = [all(isinstance(row[i], int | float | None) for row in table) for i in range(len(names))]
    for line in ([*map(printable, names)], ["─" * w for w in widths], *cells):
        padded = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True)]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    sys.stdout.flush()


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values in two columns; None values are skipped."""
    known = {printable(name): _cell(value) for name, value in fields.items() if value is not None}
    margin = max(map(len, known), default=0) + 2
    room = max(40, width() - margin)
    for name, text in known.items():
        first, *more = [part for line in text.splitlines() for part in _wrap(line, room) or [""]] or [""]
        sys.stdout.write(f"{name:<{margin}}{first}\n")
        for line in more:
            sys.stdout.write(f"{'':<{margin}}{line}\n")
    sys.stdout.flush()


def _wrap(line: str, room: int) -> list[str]:
    return textwrap.wrap(line, room, drop_whitespace=False, break_long_words=False, break_on_hyphens=False)


def width() -> int:
    """The width of the terminal in characters, or a fixed width if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else BOX_WIDTH


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else printable(str(value).replace("\r\n", "\n"))
