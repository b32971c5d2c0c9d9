"""What lists and `graphlearn show` say about a stored graph model."""

from __future__ import annotations

from graphlearn.jobs.dhan.metrics import METRICS, baselines_of, deciding
from graphlearn.jobs.family import Summary, SummaryTable
from graphlearn.jobs.metrics import metrics_line, read_metrics
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.hetero.report import HeteroReport
from graphlearn.text import number
from graphlearn.types import Json


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
            "measured": metrics_line(dict(list(metrics.items())[:2]), METRICS, ", "),
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
    """The model and every baseline, the best first, with the metrics that the task has."""
    shown = [metric for metric in METRICS if any(row[metric.name] is not None for row in rows)]
    if not shown:
        return []
    by = (deciding(rows) or shown[0]).name
    rows = sorted(rows, key=lambda row: (row["split"], -(row[by] or 0)))
    return [
        SummaryTable(
            f"metrics ({protocol})" if protocol else "metrics",
            ("method", "split", *(metric.title for metric in shown), "count"),
            [(row["method"], row["split"], *(row[metric.name] for metric in shown), row["count"]) for row in rows],
        )
    ]
