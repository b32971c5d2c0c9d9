"""Shared by the predictors of all families: unknown keys are counted, named in a warning and returned unchanged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from graphlearn.storage.dictionary import Dictionary
from graphlearn.types import IdArray

EXAMPLES = 3
"""Unknown keys named in a warning, at most."""


class Unknown:
    """Counts the rows with keys unknown to a model and keeps a few of these keys."""

    def __init__(self) -> None:
        self.rows = self.lost = 0
        self.keys: list[str] = []

    def add(self, columns: Mapping[str, pa.Array], ids: Mapping[str, IdArray]) -> None:
        """Count rows, given their keys and ids by column; the id of an unknown key is -1."""
        count = len(next(iter(ids.values())))
        self.rows += count
        lost = np.zeros(count, bool)
        for name, column_ids in ids.items():
            found = np.flatnonzero(column_ids == -1)
            lost[found] = True
            for row in found[: 2 * EXAMPLES] if len(self.keys) <= EXAMPLES else ():
                value = columns[name][int(row)].as_py()
                key = repr(value) if value is not None else "NULL"
                if key not in self.keys:
                    self.keys.append(key)
        self.lost += int(lost.sum())

    def text(self, what: str) -> str:
        """`4 of 5 questions ('x', 'y', 'z', …)`."""
        shown = [key if len(key) <= 40 else f"{key[:39]}…" for key in self.keys[:EXAMPLES]]
        more = ["…"] if len(self.keys) > EXAMPLES else []
        return f"{self.lost:,} of {self.rows:,} {what} ({', '.join([*shown, *more])})"


def as_asked(keys: pa.Array, asked: pa.Array, dictionary: Dictionary, time_zone: str | None) -> pa.Array:
    """The keys of a dictionary; where they are NULL, those that were asked for, if they can be of its type."""
    if not keys.null_count:
        return keys
    if asked.type != keys.type:
        asked = dictionary.cast(asked, time_zone)
    row = np.arange(len(keys))  # Arrow's coalesce does not support extension types
    missing = keys.is_null().to_numpy(zero_copy_only=False)
    return pa.concat_arrays([keys, asked]).take(pa.array(np.where(missing, row + len(keys), row)))


def find_field(schema: pa.Schema, name: str) -> str | None:
    """The column as the schema spells it; names are compared case-insensitively, as DuckDB does."""
    return next((column for column in schema.names if column.lower() == name), None)
