"""What lists and `graphlearn show` say about a stored time series model and its baselines."""

from __future__ import annotations

from collections.abc import Sequence

from graphlearn.jobs.family import Summary, SummaryTable
from graphlearn.jobs.metrics import read_metrics
from graphlearn.jobs.net3.metrics import COVERAGE, ERRORS, Z_RMSE
from graphlearn.jobs.net3.parts import graph_file, modes_with_graphs
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.series.report import SeriesReport
from graphlearn.storage.stored import parquet_metadata
from graphlearn.text import counted, number
from graphlearn.types import Json

STEPS_SHOWN = 12


def summary(artifact: Artifact) -> Summary:
    """Counts and metrics of a version, on the test split or, if that is empty, on the validation split."""
    manifest, rows = artifact.manifest, read_metrics(artifact.path)
    counts, metrics = manifest.get("counts", {}), manifest.get("metrics", {})
    options: Json = manifest.get("options", {})
    report = SeriesReport.from_json(counts)
    task = options.get("task")
    does = f"{options.get('recovery')}, " if task == "recover" else ""
    ahead = "" if task == "recover" else f", horizon {options.get('horizon')}"
    split = _split(rows)
    on = "" if split == "test" else f"{split} "
    return Summary(
        listed={
            "task": task,
            "series": counts.get("series"),
            "steps": counts.get("steps"),
            "of": counts.get("freq"),
            f"{on}RMSE": metrics.get("rmse"),
            f"{on}RMSE (z)": metrics.get("z_rmse"),
            "best baseline": _best_baseline(rows, split),
        },
        fields={
            "task": f"{task}, {does}window {options.get('window')}{ahead}",
            "series": report.line(),
            "time": f"{report.first} to {report.last}",
            "counted": "\n".join(message for message, _ in report.notes()) or None,
            "graphs": ", ".join(_graphs(artifact, list(report.modes))) or "none given",
            "coverage": _coverage(metrics, split),
            "verdict": manifest.get("verdict") or None,
        },
        tables=_tables(rows, manifest.get("protocol")),
    )


def _graphs(artifact: Artifact, modes: Sequence[str]) -> list[str]:
    """The graphs of a version, with how they were generated."""
    made = {name.lower(): kind for name, kind in artifact.manifest.get("options", {}).get("graphs", {}).items()}
    found = []
    for mode in modes_with_graphs(artifact):
        name = modes[mode] if mode < len(modes) else "series"
        edges = parquet_metadata(artifact.path / graph_file(mode), "graph").num_rows
        found.append(f"{name}: {counted(edges, 'edge')}{f' ({made[name.lower()]})' if name.lower() in made else ''}")
    return found


def _tables(rows: Sequence[Json], protocol: str | None) -> list[SummaryTable]:
    """The model and every baseline, the best first; for a horizon of several steps also their RMSE by step."""
    total = sorted((row for row in rows if row["step"] is None), key=lambda row: (row["split"], row["z_rmse"]))
    if not total:
        return []
    found = [
        SummaryTable(
            f"metrics ({protocol})" if protocol else "metrics",
            ("method", "split", *(metric.title for metric in ERRORS), "95 % interval of RMSE (z)", "cells"),
            [
                (row["method"], row["split"], *(row[metric.name] for metric in ERRORS), _interval(row), row["cells"])
                for row in total
            ],
        )
    ]
    split = total[0]["split"]
    methods = [row["method"] for row in total if row["split"] == split]
    by_step = {(row["step"], row["method"]): row["rmse"] for row in rows if row["split"] == split and row["step"]}
    steps = _spread(sorted({step for step, _ in by_step}))
    if steps:
        found.append(
            SummaryTable(
                f"RMSE by step ahead ({split} split)",
                ("step", *methods),
                [(step, *(by_step.get((step, method)) for method in methods)) for step in steps],
            )
        )
    return found


def _interval(row: Json) -> str:
    low, high = (row.get(bound) for bound in Z_RMSE.bounds)
    return f"{number(low)} to {number(high)}" if low is not None and high is not None else ""


def _coverage(metrics: Json, split: str) -> str | None:
    """The share of the cells of a split inside the intervals of each level."""
    found = [f"{metrics[m.name]:.1%} {m.label}".replace("%", " %", 1) for m in COVERAGE if m.name in metrics]
    return f"{', '.join(found)}, of the {split} cells" if found else None


def _spread(steps: list[int]) -> list[int]:
    """Some of the steps, evenly, with the first and the last."""
    last = len(steps) - 1
    if last < STEPS_SHOWN:
        return steps
    return sorted({steps[round(k * last / (STEPS_SHOWN - 1))] for k in range(STEPS_SHOWN)})


def _split(rows: Sequence[Json]) -> str:
    """The split that the metrics of a version describe: the test split or, if that is empty, the validation split."""
    return "valid" if rows and not any(row["split"] == "test" for row in rows) else "test"


def _best_baseline(rows: Sequence[Json], split: str) -> str:
    """The best baseline and its RMSE on a split; empty without one."""
    # the model's own rows come first
    others = [r for r in rows if r["split"] == split and r["step"] is None and r["method"] != rows[0]["method"]]
    best = min(others, key=lambda row: row["z_rmse"], default=None)
    return f"{number(best['rmse'])} {best['method']}" if best else ""
