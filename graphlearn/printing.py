"""How results reach stdout: boxes for people, as DuckDB draws them, JSON lines or CSV for machines."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from graphlearn.sinks import finite
from graphlearn.text import number

if TYPE_CHECKING:
    import duckdb

Format: TypeAlias = Literal["box", "json", "csv"]

BATCH = 2048
BOX_ROWS = 40  # more rows are cut in the middle, as DuckDB does
BOX_WIDTH = 140  # columns of text where there is no terminal to ask


def print_relation(relation: duckdb.DuckDBPyRelation, form: Format = "box") -> None:
    """Print a query's rows: a box (long results are cut), or all of them as JSON lines or CSV, streamed."""
    if form == "json":
        for line in json_lines(relation):
            sys.stdout.write(line + "\n")
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(relation.columns)
        for batch in relation.project("COLUMNS(*)::VARCHAR").to_arrow_reader(BATCH):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    else:
        relation.show(max_width=width(), max_rows=BOX_ROWS)
    sys.stdout.flush()


def print_rows_event(relation: duckdb.DuckDBPyRelation) -> None:
    """Print a query's rows as one JSON object, fit to stand among events: {"event": "rows", "rows": [...]}."""
    sys.stdout.write('{"event": "rows", "rows": [' + ", ".join(json_lines(relation)) + "]}\n")
    sys.stdout.flush()


def json_lines(relation: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """Each row as a JSON object, values as DuckDB writes them; NaN and infinities, which JSON lacks, are null."""
    rows = relation.set_alias("__row").project("to_json(__row)::VARCHAR")
    for batch in rows.to_arrow_reader(BATCH):
        for line in batch.column(0).to_pylist():
            yield to_json_line(json.loads(line)) if "NaN" in line or "Infinity" in line else line


def to_json_line(value: Any) -> str:
    """A value as strict JSON in one line."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False)


def print_explained(relation: duckdb.DuckDBPyRelation) -> None:
    """Print what DuckDB's EXPLAIN returns: the drawing itself, not a table with the drawing in a cell."""
    for row in relation.fetchall():
        sys.stdout.write(f"{row[-1]}\n".replace("\n\n", "\n"))
    sys.stdout.flush()


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns, numbers to the right; None is left empty."""
    table = [list(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in table]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    right = [all(isinstance(row[i], int | float | None) for row in table) for i in range(len(names))]
    for line in ([*names], ["─" * w for w in widths], *cells):
        padded = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True)]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    sys.stdout.flush()


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values in two columns; what is None is left out."""
    known = {name: _cell(value) for name, value in fields.items() if value is not None}
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
    """Columns of the terminal, or a fixed number where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else BOX_WIDTH


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
