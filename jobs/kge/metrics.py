"""Ranking metrics as a table: of a split, for both sides together and each side, overall and by relation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.files import disk_errors
from graphlearn.types import Side

if TYPE_CHECKING:
    from graphlearn.models.kge.ranks import Ranks

FIGURES = ("mrr", "mr", "amri", "hits_at_1", "hits_at_3", "hits_at_10")


def metric_rows(split: str, ranks: Ranks) -> list[dict[str, Any]]:
    """One record for each (side, relation); relation -1 is all of them. Sides: both, head, tail."""
    order = np.argsort(ranks.triples.relations, kind="stable")
    ids, starts = np.unique(ranks.triples.relations[order], return_index=True)
    groups = [(-1, None), *zip(ids.tolist(), np.split(order, starts[1:]), strict=True)]
    out = []
    for relation, rows in groups:
        if rows is not None and not len(rows):
            continue
        for name, side in (("both", None), ("head", Side.HEAD), ("tail", Side.TAIL)):
            figures = ranks.metrics(side, rows)
            if figures:
                out.append({"split": str(split), "side": name, "relation": relation, **figures})
    return out


def metrics_table(rows: list[dict[str, Any]], relations: Dictionary, protocol: str) -> pa.Table:
    """The records with relations as the users' keys, NULL for all."""
    ids = np.array([row["relation"] for row in rows], np.int64)
    columns: dict[str, Any] = {
        "split": pa.array([row["split"] for row in rows], pa.string()),
        "side": pa.array([row["side"] for row in rows], pa.string()),
        "relation": relations.take(ids),
        **{name: pa.array([float(row[name]) for row in rows], pa.float64()) for name in FIGURES},
        "count": pa.array([int(row["count"]) for row in rows], pa.int64()),
        "protocol": pa.array([protocol] * len(rows), pa.string()),
    }
    schema = metrics_schema(relations.field)
    return pa.table([columns[f.name] for f in schema], schema=schema)


def metrics_schema(relation: pa.Field) -> pa.Schema:
    """Columns of `evaluate(...)`; `relation` is the field of the relation keys."""
    return pa.schema(
        [
            pa.field("split", pa.string()),
            pa.field("side", pa.string()),
            relation.with_name("relation").with_nullable(True),
            *(pa.field(name, pa.float64()) for name in FIGURES),
            pa.field("count", pa.int64()),
            pa.field("protocol", pa.string()),
        ]
    )


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the records with relation ids, as metrics.parquet of a model; `read_metrics` is the inverse."""
    schema = pa.schema(
        [
            ("split", pa.string()),
            ("side", pa.string()),
            ("relation", pa.int64()),
            *((name, pa.float64()) for name in FIGURES),
            ("count", pa.int64()),
        ]
    )
    with disk_errors(path):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a stored model."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
