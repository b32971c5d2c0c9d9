"""The features of a node table: which columns can be features, and how SQL turns them into arrays.

numbers, booleans      one dense column each; NULL becomes 0, marked in a second column
FLOAT[], DOUBLE[n]     a dense vector of the same length in all rows
INTEGER[], VARCHAR[]   a bag: one sparse column for each value that occurs, 1 where the list contains it
VARCHAR                a bag of words, for columns listed in the option text
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.storage.columns import FLOAT32_MAX, kind_of, quoted
from graphlearn.storage.hetero.report import NodeReport
from graphlearn.storage.hetero.roles import NodeRole
from graphlearn.text import counted
from graphlearn.types import FloatArray, IdArray

Kind: TypeAlias = Literal["number", "vector", "bag", "text"]
BAGS = ("bag", "text")
"""The kinds that become sparse columns."""
Ask: TypeAlias = Callable[[str], pa.Table]

WORDS = r"[\p{L}\p{N}]+"
WORD_NODES = 2
"""The number of nodes in which a word must occur to be a feature."""
_VECTOR = re.compile(r"(FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)|BOOLEAN)\[\d*\]|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?\[\d+\]")
_BAG = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|VARCHAR|ENUM\(.*\))\[\d*\]", re.DOTALL)


@dataclass(frozen=True)
class FeatureArrays:
    """The features of a node table. dense: [N, D] or None; sparse part in CSR: [N + 1], [nonzeros] or None."""

    dense: FloatArray | None = None
    indptr: IdArray | None = None
    indices: IdArray | None = None
    sparse_width: int = 0

    @property
    def width(self) -> int:
        """The number of columns of both parts."""
        return (0 if self.dense is None else self.dense.shape[1]) + self.sparse_width

    def at(self, rows: IdArray, count: int) -> FeatureArrays:
        """The features with row i moved to `rows[i]` of `count` rows, zeros in the others. shape: rows: [N]"""
        dense, indptr, indices = self.dense, self.indptr, self.indices
        if dense is not None:
            dense = np.zeros((count, dense.shape[1]), np.float32)
            dense[rows] = self.dense
        if indptr is not None:
            assert indices is not None
            nodes = np.repeat(rows, np.diff(indptr))
            indices = indices[np.argsort(nodes, kind="stable")]
            indptr = np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=count))]).astype(np.int64)
        return FeatureArrays(dense, indptr, indices, self.sparse_width)


def feature_kind(type_name: str) -> Kind | None:
    """The kind of feature that a column of this type is; None if it cannot be a feature."""
    if kind_of(type_name) in ("integer", "decimal", "float", "boolean"):
        return "number"
    if _VECTOR.fullmatch(type_name):
        return "vector"
    if _BAG.fullmatch(type_name):
        return "bag"
    return "text" if kind_of(type_name) == "text" else None


def feature_kinds(role: NodeRole, text: Sequence[str], leave: str | None) -> dict[str, Kind]:
    """The features of a node table. `text`: columns whose words are features; `leave`: the target column, if any.

    In `text`, a column may be qualified with its table: 'title' or 'movie.title'. Raises InputError for a column that
    cannot be a feature.
    """
    found: dict[str, Kind] = {}
    words = [name.lower().removeprefix(f"{role.name.lower()}.") for name in text]
    for name, type_name in role.columns.items():
        if name == leave:
            continue
        kind = feature_kind(type_name)
        if type_name.strip('"') == "NULL":
            raise InputError(f"{name} of {role.name} is NULL in every row", role=role.name, help="leave it out")
        if kind is None:
            raise InputError(
                f"{name} of {role.name} is {type_name}, which cannot be a feature",
                role=role.name,
                help=f"leave it out, or turn it into a number or a list, e.g. {name}::VARCHAR, named in "
                f"text = ['{name}']",
            )
        if kind == "text" and name.lower() not in words:
            raise InputError(
                f"{name} of {role.name} is {type_name}: a feature must be a number or a list",
                role=role.name,
                help=f"leave it out, or use its words as features: text = ['{name}'], or split it: "
                f"string_split({name}, ' ') AS {name}",
            )
        found[name] = kind
    return found


def read_features(
    ask: Ask, table: str, count: int, role: str, kinds: dict[str, Kind], report: NodeReport
) -> FeatureArrays | None:
    """The features of a table with a column `graphlearn_id`, 0 .. count - 1; None if it has no feature columns.

    Raises InputError (with the role) for NaN, infinity, vectors of different lengths, and bags that are empty in every
    row.
    """
    dense: list[FloatArray] = []
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    if numbers:
        dense.append(_numbers(ask, table, role, numbers, report))
    dense += [_vector(ask, table, count, role, n, report) for n, kind in kinds.items() if kind == "vector"]
    bags = [_bag(ask, table, role, n, kind, report) for n, kind in kinds.items() if kind in BAGS]
    if not dense and not bags:
        return None
    matrix = np.concatenate(dense, axis=1) if dense else None
    report.dense = 0 if matrix is None else matrix.shape[1]
    if not bags:
        return FeatureArrays(matrix)
    offsets = np.cumsum([0, *(width for _, _, width in bags)])
    nodes = np.concatenate([n for n, _, _ in bags])
    columns = np.concatenate([c + first for (_, c, _), first in zip(bags, offsets[:-1], strict=True)])
    order = np.lexsort((columns, nodes))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=count))]).astype(np.int64)
    report.sparse = int(offsets[-1])
    if matrix is None:
        report.empty_nodes = int(np.count_nonzero(np.diff(indptr) == 0))
    return FeatureArrays(matrix, indptr, columns[order], int(offsets[-1]))


def bag_values(name: str, kind: Kind) -> str:
    """SQL for the list of values of a bag; for a text, its words in lower case."""
    column = quoted(name)
    return f"regexp_extract_all(lower({column}::VARCHAR), '{WORDS}')" if kind == "text" else f"{column}[:]"


def _numbers(ask: Ask, table: str, role: str, names: list[str], report: NodeReport) -> FloatArray:
    listed = ", ".join(f"{quoted(name)}::DOUBLE AS c{i}" for i, name in enumerate(names))
    found = ask(f"SELECT {listed} FROM {table} ORDER BY graphlearn_id ASC")
    out: list[FloatArray] = []
    for i, name in enumerate(names):
        column = found.column(f"c{i}").combine_chunks()
        missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        values = np.asarray(column.fill_null(0.0).to_numpy(zero_copy_only=False))
        _check_finite(values, role, name)
        out.append(values.astype(np.float32))
        if missing.any():
            report.null_values += int(missing.sum())
            out.append(missing.astype(np.float32))
    return np.stack(out, axis=1)


def _vector(ask: Ask, table: str, count: int, role: str, name: str, report: NodeReport) -> FloatArray:
    column = quoted(name)
    lengths = ask(
        f"SELECT len({column}) AS n, count(*) AS rows FROM {table} WHERE {column} IS NOT NULL "
        "GROUP BY n ORDER BY rows DESC, n ASC"
    ).to_pydict()
    if len(lengths["n"]) > 1:
        some = ", ".join(f"{rows:,} of {n}" for n, rows in list(zip(lengths["n"], lengths["rows"], strict=True))[:3])
        raise InputError(
            f"{name} of {role} has vectors of {len(lengths['n'])} lengths: {some}",
            role=role,
            help="use vectors of equal length, or INTEGER[] or VARCHAR[] for lists of values",
        )
    width = lengths["n"][0] if lengths["n"] else 0
    if not width:
        raise InputError(f"{name} of {role} is empty in every row", role=role, help="leave it out")
    holes = f"SELECT count(*) AS n FROM {table} WHERE list_count({column}::DOUBLE[]) < len({column})"
    if ask(holes).column("n")[0].as_py():
        raise InputError(
            f"{name} of {role} has NULLs inside its vectors", role=role, help="fill them, e.g. with list_transform(…)"
        )
    empty = f"list_resize([]::DOUBLE[], {width}, 0::DOUBLE)"
    found = ask(
        f"SELECT coalesce({column}::DOUBLE[], {empty}) AS v, {column} IS NULL AS missing FROM {table} "
        "ORDER BY graphlearn_id ASC"
    )
    values = np.asarray(found.column("v").combine_chunks().flatten().to_numpy(zero_copy_only=False))
    report.null_values += int(np.count_nonzero(found.column("missing").to_numpy()))
    _check_finite(values, role, name)
    return values.reshape(count, width).astype(np.float32)


def _bag(ask: Ask, table: str, role: str, name: str, kind: Kind, report: NodeReport) -> tuple[IdArray, IdArray, int]:
    """(node, column) of each one, and the number of columns."""
    column = quoted(name)
    ones = f"(SELECT DISTINCT graphlearn_id AS node, unnest({bag_values(name, kind)}) AS value FROM {table})"
    least = WORD_NODES if kind == "text" else 1
    known = (
        f"(SELECT value, row_number() OVER (ORDER BY value ASC) - 1 AS place FROM {ones} WHERE value IS NOT NULL "
        f"GROUP BY value HAVING count(*) >= {least})"
    )
    found = ask(f"SELECT node, place FROM {ones} JOIN {known} USING (value)")
    nodes, places = (found.column(c).to_numpy().astype(np.int64) for c in ("node", "place"))
    if not len(nodes):
        raise InputError(
            f"{name} of {role} "
            + ("has no word that occurs in two nodes" if kind == "text" else "is empty in every row"),
            role=role,
            help="leave it out",
        )
    report.null_values += int(ask(f"SELECT count(*) AS n FROM {table} WHERE {column} IS NULL").column("n")[0].as_py())
    return nodes, places, int(places.max()) + 1


def _check_finite(values: Any, role: str, name: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise InputError(
            f"{name} of {role} has {counted(bad, 'value')} that {'is' if bad == 1 else 'are'} NaN or infinite",
            role=role,
            help=f"make them NULL (a missing value), e.g. CASE WHEN isfinite({name}) THEN {name} END AS {name}",
        )
    if len(values) and np.abs(values).max() > FLOAT32_MAX:
        raise InputError(
            f"{name} of {role} has values beyond what float32 holds ({FLOAT32_MAX:.2g})", role=role, help="divide them"
        )
