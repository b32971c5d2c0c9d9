"""Random changes to the files of a stored model, of the kinds that an attacker or a failing disk would make."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cases.stored_models import edit_table, edit_tensors, read_json, reseal

SQL = "'); COPY (SELECT 1) TO 'stolen.csv'; SELECT ('"
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 10**18, 10**40, 0.5, -1e308, float("nan"), "", "a", SQL,
    "INTEGER) FROM range(1); COPY (SELECT 1) TO 'stolen.csv'; --", "../../../../etc/passwd", "/etc/passwd",
    "\x1b[2J\x9b31m\u202e[bold red]", "\ud800", "x" * 5000, [], {}, [[]], {"a": 1}, [1, "a", None],
)  # fmt: skip


def mutate(version: Path, chance: random.Random) -> str:
    """Change one thing in the folder of a version; returns what."""
    if chance.random() < 0.3:
        what = _bytes(chance.choice(sorted(path for path in version.iterdir() if path.is_file())), chance)
    else:
        path = chance.choice([path for path in sorted(version.iterdir()) if path.suffix in _CHANGES])
        what = f"{path.name}: {_CHANGES[path.suffix](path, chance)}"
    if chance.random() < 0.9:
        reseal(version, listed=chance.random() < 0.95 or not what.startswith("manifest.json"))
    return what


def _bytes(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "cut", "grow", "swap", "zero"))
    place = chance.randrange(len(content)) if chance.random() < 0.5 else min(len(content) - 1, chance.randrange(200))
    if chance.random() < 0.3:
        place = max(0, len(content) - 1 - chance.randrange(200))
    if kind == "flip":
        content[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "grow":
        content += chance.randbytes(chance.randrange(1, 100))
    elif kind == "swap":
        content[place : place + 8] = chance.randbytes(8)
    else:
        content[place : place + 50] = bytes(len(content[place : place + 50]))
    path.write_bytes(content)
    return f"{path.name}: {kind} at {place}"


def _json(path: Path, chance: random.Random) -> str:
    """Replace, remove or add a value at a random place."""
    value = read_json(path)
    places = list(_places(value))
    holder, key = chance.choice(places)
    old, new = holder[key], chance.choice(VALUES)
    kind = chance.choice(("replace", "replace", "replace", "remove", "double", "rename"))
    if kind == "replace":
        holder[key] = new
    elif kind == "remove" or not isinstance(holder, dict):
        del holder[key]
    elif kind == "rename":
        holder[str(new)[:50]] = holder.pop(key)
    elif isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = old * 2 + 1
    else:
        holder[key] = [old, old]
    path.write_text(json.dumps(value))
    return f"{kind} {key} with {str(new)[:40]!r}"


def _places(value: Any) -> Any:
    """Every (container, key) inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _table(path: Path, chance: random.Random) -> str:
    """Change a column, the rows or the metadata of a Parquet file."""
    said = ""

    def change(table: pa.Table) -> pa.Table:
        nonlocal said
        at = chance.randrange(table.num_columns)
        name, column = table.column_names[at], table.column(at)
        kind = chance.choice(("drop", "null", "cast", "shift", "reverse", "empty", "rename", "type", "twice"))
        said = f"{kind} {name}"
        if kind == "drop":
            return table.drop_columns([name])
        if kind == "null":
            return table.set_column(at, name, pa.array([None, *column.to_pylist()[1:]], column.type))
        if kind == "cast":
            wanted = chance.choice((pa.string(), pa.float64(), pa.int64(), pa.uint8(), pa.list_(pa.int64())))
            try:
                return table.set_column(at, name, column.cast(wanted))
            except pa.ArrowException:
                return table.set_column(at, name, pa.nulls(len(table), wanted))
        if kind == "shift" and pa.types.is_integer(column.type):
            by = chance.choice((1, -1, 100, 10**6))
            wide = np.clip(column.to_numpy(zero_copy_only=False).astype(np.float64) + by, -100, 120)
            return table.set_column(
                at, name, pa.array(np.nan_to_num(wide).astype(np.int64)).cast(column.type, safe=False)
            )
        if kind == "reverse":
            return table.set_column(at, name, column.take(list(reversed(range(len(table))))))
        if kind == "empty":
            return table.slice(0, chance.choice((0, 1, len(table) // 2)))
        if kind == "rename":
            new = str(chance.choice(VALUES))[:50].encode("utf-8", "replace").decode()
            return table.rename_columns([new if n == name else n for n in table.column_names])
        if kind == "type":
            types = ("", "INTEGER", "BLOB", "UUID", "STRUCT(a INTEGER)", "DECIMAL(3,1)", "ENUM('a')", "TIMESTAMP", SQL)
            text = chance.choice(types) if chance.random() < 0.7 else str(chance.choice(VALUES))
            return table.replace_schema_metadata({b"graphlearn_key_type": text.encode("utf-8", "replace")})
        return pa.concat_tables([table, table])

    edit_table(path, change)
    return said


def _tensors(path: Path, chance: random.Random) -> str:
    said = ""

    def change(tensors: dict[str, Any]) -> None:
        nonlocal said
        name = chance.choice(sorted(tensors))
        kind = chance.choice(("drop", "rename", "cast", "cut", "reshape", "nan", "huge", "negative", "add"))
        said, array = f"{kind} {name}", tensors[name]
        if kind in ("drop", "rename"):
            moved = tensors.pop(name)
            tensors |= {chance.choice(("x", f"{name}.x", SQL)): moved} if kind == "rename" else {}
        elif kind == "cast":
            with np.errstate(all="ignore"):
                tensors[name] = array.astype(chance.choice((np.float64, np.float16, np.int32, np.uint8, np.bool_)))
        elif kind == "cut":
            tensors[name] = array[: len(array) // 2].copy() if array.ndim else array.reshape(1)
        elif kind == "reshape":
            tensors[name] = array.reshape(*chance.choice(((-1,), (1, -1), (-1, 1, 1)))).copy()
        elif kind == "add":
            tensors["more"] = np.zeros(3, np.float32)
        else:
            value = {"nan": np.nan, "huge": 1e30, "negative": -7}[kind]
            changed = array.copy()
            with np.errstate(all="ignore"):
                changed.reshape(-1)[:1] = np.asarray(value).astype(array.dtype)
            tensors[name] = changed

    edit_tensors(path, change)
    return said


def _array(path: Path, chance: random.Random) -> str:
    array = np.load(path)
    kind = chance.choice(("cast", "cut", "reshape", "nan", "order"))
    if kind == "cast":
        with np.errstate(all="ignore"):
            array = array.astype(chance.choice((np.float64, np.int32, np.complex64)))
    elif kind == "cut":
        array = array[: len(array) // 2]
    elif kind == "reshape":
        array = array.reshape(-1)
    elif kind == "nan":
        array[:] = np.nan
    else:
        array = np.asfortranarray(array)
    np.save(path, array)
    return kind


_CHANGES: dict[str, Callable[[Path, random.Random], str]] = {
    ".json": _json,
    ".parquet": _table,
    ".safetensors": _tensors,
    ".npy": _array,
}
