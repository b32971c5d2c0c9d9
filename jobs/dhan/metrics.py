"""Metrics of the model, its parts and its baselines, one row per method, split and class, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from graphlearn.jobs.metrics import HITS_AT_1, HITS_AT_10, MRR, Metric, MetricTable, Verdict, measured, verdict
from graphlearn.storage.hetero.target import Target

if TYPE_CHECKING:
    from graphlearn.models.hetero.measured import Measured
    from graphlearn.types import Split

METHOD, NETWORK, LINEAR = "dhan", "dhan network", "dhan linear"
"""The model, and its parts on their own."""
TaskKind = Literal["classes", "links", "clusters", "embeddings"]
CLASSES = (
    Metric(name="macro_f1", label="macro-F1", headline=True, interval=True),
    Metric(name="micro_f1", label="micro-F1"),
    Metric(name="accuracy", label="accuracy", summary=False),
)
LINKS = (MRR, Metric(name="ndcg_10", label="NDCG@10"), HITS_AT_1, HITS_AT_10)
AUC = Metric(name="auc", label="AUC")
CLUSTERS = (Metric(name="nmi", label="NMI", headline=True, interval=True), Metric(name="ari", label="ARI"))
METRICS = (*CLASSES, *LINKS, AUC, *CLUSTERS)
BY_CLASS = tuple(Metric(name=name, label=name) for name in ("precision", "recall", "f1"))
"""Of a single class, in rows that name it."""
OF_TASK: Mapping[TaskKind, tuple[Metric, ...]] = {
    "classes": (*CLASSES, *BY_CLASS),
    "links": (*LINKS, AUC),
    "clusters": (AUC, *CLUSTERS),
    "embeddings": (AUC,),
}
_KEYS = (pa.field("method", pa.string()), pa.field("split", pa.string()))
_CLASS = pa.field("class", pa.string())
_COUNTS = ("nodes", "edges")
_ORDER = ("test", "all", "valid", "train")


def task_kind(target: Target, *, learnt: bool) -> TaskKind:
    """The task of a target. `learnt`: the user named it; else labels only measure clusters."""
    if target.edges is not None:
        return "links"
    if learnt:
        return "classes"
    return "clusters" if target.node is not None else "embeddings"


def metric_table(kind: TaskKind) -> MetricTable:
    """The table of `evaluate('m')`, with the metrics that the task has; count is of nodes, or of links.

    For classes, rows with a class have the metrics of that class, and the others have NULL there.
    """
    return MetricTable(keys=(*_KEYS, _CLASS) if kind == "classes" else _KEYS, metrics=OF_TASK[kind])


def finite(found: Mapping[str, float]) -> dict[str, float]:
    """The metrics among what was measured, without NaN and infinity; none of an empty split."""
    if "nmi" not in found and any(found.get(name) == 0 for name in _COUNTS):
        return {}
    names = [metric.name for metric in METRICS]
    return {name: float(found[name]) for name in names if name in found and math.isfinite(found[name])}


def metric_row(method: str, split: Split | str, found: Measured) -> dict[str, Any]:
    """The record of a method on a split; empty if nothing was measured."""
    figures = finite(found.figures)
    if not figures:
        return {}
    if found.sample is not None:
        figures = measured(found.sample, METRICS) | figures
    count = next((int(found.figures[name]) for name in _COUNTS if name in found.figures), None)
    return {"method": method, "split": str(split), **figures, "count": count}


def metric_rows(method: str, split: Split | str, found: Measured, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The record of a method on a split, and those of its classes."""
    whole = metric_row(method, split, found)
    keys = {"method": method, "split": str(split)}
    return [whole, *({**keys, **row, "class": classes[row["class"]]} for row in found.by_class)] if whole else []


def overall(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that are not about a single class."""
    return [row for row in rows if row.get("class") is None]


def final_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The model's metrics on the test split, or on the one that there is, with the bounds of their intervals."""
    mine = [row for row in overall(rows) if row["method"] == METHOD]
    mine.sort(key=lambda row: _ORDER.index(row["split"]))
    names = [name for metric in METRICS for name in (metric.name, *metric.bounds)]
    return {name: mine[0][name] for name in names if mine and mine[0].get(name) is not None}


def deciding(rows: Sequence[Mapping[str, Any]]) -> Metric | None:
    """The metric by which methods are compared."""
    headlines = [metric for metric in METRICS if metric.headline]
    return next((metric for metric in headlines if any(row.get(metric.name) is not None for row in rows)), None)


def baselines_of(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The baselines on the split that the model is measured on, the best first."""
    rows = overall(rows)
    metric = deciding(rows)
    if metric is None:
        return []
    split = "test" if any(row["split"] == "test" for row in rows) else "all"
    ours = (METHOD, NETWORK, LINEAR)
    others = [
        row for row in rows if row["method"] not in ours and row["split"] == split and row.get(metric.name) is not None
    ]
    return sorted(others, key=lambda row: -row[metric.name])


def decided_by(shares: Mapping[str, float], ours: Mapping[str, Measured]) -> tuple[str, str]:
    """(what the verdict credits, a sentence on how much each part of the model contributes; empty with one part).

    `shares`: by part, `network` and `linear`; `ours`: what was measured of the model and each part on the test split.
    """
    if "linear" not in shares:
        return METHOD, ""
    share = shares["linear"]
    score = {part: found.figures["macro_f1"] for part, found in ours.items()}
    alone = f"alone: the network {score['network']:.4f}, the linear part {score['linear']:.4f}"
    if share in (0.0, 1.0):
        part, other = ("linear part", "network") if share else ("network", "linear part")
        return (
            f"the {part} of dhan",
            f"the {part} decides: its weight is 100 %, that of the {other} 0 % (macro-F1 {alone})",
        )
    both = f"network {1 - share:.0%}, linear part {share:.0%}".replace("%", " %")
    return METHOD, f"the network and the linear part decide together ({both}; macro-F1 {alone})"


def verdict_of(method: str, ours: Measured, baselines: Mapping[str, Measured], *, cut: bool) -> Verdict | None:
    """Compare what decides in the model with the best baseline on the test split, or the links that all have ranked."""
    metric = deciding([ours.figures])
    samples = {name: found.sample for name, found in baselines.items() if found.sample is not None}
    if metric is None or ours.sample is None:
        return None
    mine, where, ranked = ours, "on the test split", ours.ranked
    some = next((found.ranked for found in baselines.values() if found.ranked is not None), None)
    if ranked is not None and some is not None and len(some.edges) < len(ranked.edges):  # all of them rank the same
        mine = ranked.of(some.edges).measured()
        where = f"on {len(some.edges):,} of {len(ranked.edges):,} test links"
    assert mine.sample is not None
    found = verdict(method, metric, mine.sample, samples, where, cut=cut)
    if found is None or found.outcome != "worse":
        return found
    advice = "check the features and the relations, or train longer"
    if found.best.startswith("MLP"):
        advice = "train longer; else the links add nothing to the features, or the relations are the wrong ones"
    return replace(found, sentence=f"{found.sentence}; {advice}")
