"""What lists and `graphlearn show` say about a stored graph model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from graphlearn.jobs.dhan.metrics import METHOD, METRICS, baselines_of, deciding, overall
from graphlearn.jobs.family import Summary, SummaryTable
from graphlearn.jobs.metrics import Metric, metrics_line, read_metrics
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.hetero.report import HeteroReport
from graphlearn.text import number
from graphlearn.types import Json

CLASSES = 30
"""Classes that are listed."""


def summary(artifact: Artifact) -> Summary:
    """What was learnt, the tables and what was counted in them, the metrics of the model and its baselines."""
    manifest = artifact.manifest
    counts, options, metrics = (manifest.get(name) or {} for name in ("counts", "options", "metrics"))
    report, rows = HeteroReport.from_json(counts), read_metrics(artifact.path)
    best, metric = baselines_of(rows), deciding(rows)
    return Summary(
        listed={
            "learns": options.get("target") or "embeddings",
            "nodes": counts.get("nodes"),
            "edges": counts.get("edges"),
            "measured": metrics_line(dict(_first(metrics)), METRICS, ", "),
            "best baseline": f"{best[0]['method']}: {metric.label} {number(best[0][metric.name])}"
            if best and metric is not None
            else "",
        },
        fields={
            "learns": _learns(manifest.get("target") or {}, options, report),
            "graph": "\n".join(report.lines()),
            "counted": "\n".join(message for message, _ in report.notes()) or None,
            "verdict": manifest.get("verdict") or None,
        },
        tables=_tables(rows, manifest.get("protocol")),
    )


def _learns(target: Json, options: Json, report: HeteroReport) -> str:
    if options.get("target") is None:
        return "embeddings from links alone"
    splits = ", ".join(f"{n:,} {split}" for split, n in (("train", report.train), ("valid", report.valid)) if n)
    splits += f", {report.test:,} test"
    if target.get("node"):
        return f"{target['column']} of {target['node']}, {report.classes:,} classes: {splits}"
    return f"links of {options['target']}: {splits}"


def _tables(rows: list[Json], protocol: str | None) -> list[SummaryTable]:
    """The model, its parts and every baseline, the best first, with the metrics that the task has; then the classes."""
    shown = [metric for metric in METRICS if any(row.get(metric.name) is not None for row in overall(rows))]
    if not shown:
        return []
    by = deciding(rows) or shown[0]
    whole = sorted(overall(rows), key=lambda row: (row["split"], -(row[by.name] or 0)))
    bounds = [f"{by.label}, 95 %"] if by.interval else []
    found = [
        SummaryTable(
            f"metrics ({protocol})" if protocol else "metrics",
            ("method", "split", *(metric.title for metric in shown), *bounds, "count"),
            [
                (
                    *(row["method"], row["split"], *(row[metric.name] for metric in shown)),
                    *[_interval(row, by) for _ in bounds],
                    _count(row),
                )
                for row in whole
            ],
        )
    ]
    mine = [row for row in rows if (row["method"], row["split"]) == (METHOD, "test")]
    classes = [row for row in mine if row.get("class") is not None]
    if classes:
        names = ("class", "precision", "recall", "f1")
        lines = [(*(row[name] for name in names), _count(row)) for row in classes[:CLASSES]]
        more = f", the first {CLASSES} of {len(classes):,}" if len(classes) > CLASSES else ""
        found.append(SummaryTable(f"classes on the test split{more}", (*names, "count"), lines))
    return found


def _first(metrics: Json, most: int = 2) -> Iterator[tuple[str, float]]:
    """The first few metrics, without their bounds."""
    return islice(((m.name, metrics[m.name]) for m in METRICS if m.summary and m.name in metrics), most)


def _interval(row: Mapping[str, Any], metric: Metric) -> str:
    low, high = (row.get(bound) for bound in metric.bounds)
    return "" if low is None or high is None else f"{metric.text(low)} to {metric.text(high)}"


def _count(row: Mapping[str, Any]) -> str:
    """The number of test items, and whether they are too few to judge."""
    count = row["count"]
    return "" if count is None else f"{count:,} (too few)" if row.get("too_few") else f"{count:,}"
