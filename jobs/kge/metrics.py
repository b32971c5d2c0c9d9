"""Ranking metrics of each method and split, overall and by relation, for both sides and for each side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.jobs.metrics import (
    HITS_AT_1,
    HITS_AT_3,
    HITS_AT_10,
    MRR,
    TOO_FEW,
    Metric,
    MetricTable,
    Verdict,
    measured,
    verdict,
)
from graphlearn.storage.dictionary import Dictionary
from graphlearn.types import Side, Split

if TYPE_CHECKING:
    from graphlearn.jobs.link_baselines import LinkBaselines
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
    keys=(
        pa.field("method", pa.string()),
        pa.field("split", pa.string()),
        pa.field("side", pa.string()),
        pa.field("relation", pa.int64()),
    ),
    metrics=METRICS,
)
"""Metrics by method, split, side (both, head, tail) and relation id; -1 stands for all relations.

`count` is the number of ranks: a triple has two, one for each side. `too_few` goes by the number of triples.
"""
SIDES: tuple[tuple[str, Side | None], ...] = (("both", None), ("head", Side.HEAD), ("tail", Side.TAIL))


def metrics_of(ranks: Ranks, side: Side | None = None) -> dict[str, float]:
    """All metrics with the interval of the MRR; empty without any triple."""
    if not len(ranks):
        return {}
    return {**measured(ranks.sample(side), METRICS), **ranks.metrics(side)}


def metric_rows(method: str, split: str, ranks: Ranks) -> list[dict[str, Any]]:
    """One record for each side (both, head, tail) and relation; relation -1 stands for all relations.

    Of a single relation, only both sides together have an interval, and none on the validation split.
    """
    order = np.argsort(ranks.triples.relations, kind="stable")
    ids, starts = np.unique(ranks.triples.relations[order], return_index=True)
    groups = [(-1, ranks)]
    if len(ids):
        groups += [(int(i), ranks[rows]) for i, rows in zip(ids, np.split(order, starts[1:]), strict=True)]
    out = []
    for relation, part in groups:
        for name, side in SIDES:
            interval = relation < 0 or (side is None and split != Split.VALID)
            figures = metrics_of(part, side) if interval else part.metrics(side)
            if figures:
                row = {"method": method, "split": str(split), "side": name, "relation": relation, **figures}
                out.append({**row, "too_few": len(part) < TOO_FEW})
    return out


def compared(method: str, ranks: Ranks, baselines: LinkBaselines, *, cut: bool) -> Verdict | None:
    """The verdict on the test triples that the model and the baselines ranked. `ranks`: of all test triples."""
    rows = baselines.rows
    others = {name: found.sample() for name, found in baselines.ranks.items()}
    where = "on the test split" if len(rows) == len(ranks) else f"on {len(rows):,} of {len(ranks):,} test triples"
    advice = "rules may be enough, or the options of the model may need tuning"
    return verdict(method, MRR, ranks[rows].sample(), others, where, advice=advice, cut=cut)


def metrics_table(
    rows: Sequence[Mapping[str, Any]], relations: Dictionary, schema: pa.Schema, protocol: str
) -> pa.Table:
    """The records with the users' keys of the relations, NULL for all relations. `schema`: of `evaluate(...)`."""
    table = TABLE.table(rows, protocol)
    keys = relations.take(np.array([row["relation"] for row in rows], np.int64))
    columns = [keys if name == "relation" else table[name] for name in schema.names]
    return pa.table(columns, schema=schema)
