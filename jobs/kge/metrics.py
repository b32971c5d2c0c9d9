"""Ranking metrics of a split, overall and by relation, for both sides and for each side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.jobs.metrics import HITS_AT_1, HITS_AT_3, HITS_AT_10, MRR, Metric, MetricTable
from graphlearn.storage.dictionary import Dictionary
from graphlearn.types import Side

if TYPE_CHECKING:
    from graphlearn.models.core.ranks import Ranks


METRICS = (
    MRR,
    Metric(name="mr", label="MR", higher_is_better=False, summary=False),
    Metric(name="amri", label="AMRI", summary=False),
    HITS_AT_1,
    HITS_AT_3,
    HITS_AT_10,
)
PROTOCOL = "filtered, all entities, ties at mean rank"
TABLE = MetricTable(
    keys=(pa.field("split", pa.string()), pa.field("side", pa.string()), pa.field("relation", pa.int64())),
    metrics=METRICS,
)
"""Metrics by split, side (both, head, tail) and relation id; -1 stands for all relations."""


def metric_rows(split: str, ranks: Ranks) -> list[dict[str, Any]]:
    """One record for each side (both, head, tail) and relation; relation -1 stands for all relations."""
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


def metrics_table(
    rows: Sequence[Mapping[str, Any]], relations: Dictionary, schema: pa.Schema, protocol: str
) -> pa.Table:
    """The records with the users' keys of the relations, NULL for all relations. `schema`: of `evaluate(...)`."""
    table = TABLE.table(rows, protocol)
    keys = relations.take(np.array([row["relation"] for row in rows], np.int64))
    columns = [keys if name == "relation" else table[name] for name in schema.names]
    return pa.table(columns, schema=schema)
