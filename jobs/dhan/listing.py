"""What `graphlearn show` prints of a model of a graph: its tables, what was counted, its figures and the baselines'."""

from __future__ import annotations

import sys
from pathlib import Path

from graphlearn.jobs.dhan.metrics import FIGURES, METRICS, baselines_of, decider, read_metrics
from graphlearn.jobs.labels import title
from graphlearn.printing import print_table
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.hetero.report import HeteroReport
from graphlearn.text import number
from graphlearn.types import Json


def is_graph(path: Path) -> bool:
    """Whether a stored version is a model of a graph."""
    return (path / METRICS).exists()


def graph_fields(artifact: Artifact) -> dict[str, object]:
    """Names and values for people: what is learnt, the tables and what was counted in them, the verdict."""
    manifest = artifact.manifest
    report = HeteroReport.from_json(manifest.get("counts", {}))
    return {
        "learns": _learns(manifest.get("target") or {}, manifest.get("options", {}), report),
        "graph": "\n".join(report.lines()),
        "counted": "\n".join(message for message, _ in report.notes()) or None,
        "verdict": manifest.get("verdict") or None,
    }


def _learns(target: Json, options: Json, report: HeteroReport) -> str:
    if options.get("target") is None:
        return "embeddings from links alone"
    parts = ", ".join(f"{n:,} {part}" for part, n in (("train", report.train), ("valid", report.valid)) if n)
    parts += f", {report.test:,} test"
    if target.get("node"):
        return f"{target['column']} of {target['node']}, {report.classes:,} classes: {parts}"
    return f"links of {options['target']}: {parts}"


def print_graph_metrics(path: Path, protocol: str | None) -> None:
    """The model and every baseline, the best first; only figures that the task has."""
    rows = read_metrics(path / METRICS)
    names = [name for name in FIGURES if any(row[name] is not None for row in rows)]
    if not names:
        return
    rows.sort(key=lambda row: (row["split"], -(row[decider(rows) or names[0]] or 0)))
    sys.stdout.write(f"\nmetrics ({protocol})\n" if protocol else "\nmetrics\n")
    listed = [(row["method"], row["split"], *(row[name] for name in names), row["count"]) for row in rows]
    print_table(("method", "split", *map(title, names), "count"), listed)


def baseline_of(path: Path) -> str:
    """The best baseline and the figure that decides; empty without one."""
    rows = read_metrics(path / METRICS) if is_graph(path) else []
    name, others = decider(rows), baselines_of(rows)
    return f"{others[0]['method']}: {title(name)} {number(others[0][name])}" if name and others else ""
