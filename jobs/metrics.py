"""Metrics: their declaration by a family, a one-line summary, and their table in a stored version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.errors import ArtifactError
from graphlearn.storage.files import disk_errors
from graphlearn.text import number

METRICS = "metrics.parquet"
"""The file with the metrics of a stored version."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its column in the system tables, its label, its format, and whether higher is better.

    `percent`: a share from 0 to 1, shown as a percentage. `unit` follows the value. `summary`: part of the one-line
    summary. `headline`: shown in lists of models and runs; if several are, the first one that was measured is.
    """

    name: str
    label: str
    percent: bool = False
    unit: str = ""
    higher_is_better: bool = True
    summary: bool = True
    headline: bool = False

    @property
    def title(self) -> str:
        """The heading of its column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        """A formatted value: `0.3456`, `25.1 %`."""
        if self.percent:
            return f"{value:.1%}".replace("%", " %")
        return f"{value:,.1f} {self.unit}" if self.unit else number(value)


MRR = Metric(name="mrr", label="MRR", headline=True)
HITS_AT_1 = Metric(name="hits_at_1", label="Hits@1", percent=True)
HITS_AT_3 = Metric(name="hits_at_3", label="Hits@3", percent=True)
HITS_AT_10 = Metric(name="hits_at_10", label="Hits@10", percent=True)


def present(metrics: Mapping[str, float], declared: Sequence[Metric]) -> Iterator[tuple[Metric, float]]:
    """The declared metrics that were measured, in order of declaration."""
    return ((metric, metrics[metric.name]) for metric in declared if metric.name in metrics)


def metrics_line(metrics: Mapping[str, float], declared: Sequence[Metric], separator: str = " · ") -> str:
    """A one-line summary: `MRR 0.3456 · Hits@1 25.1 %`, or `RMSE 12.3 · MAE 8.1 · MAPE 4.2 %`."""
    found = [f"{metric.label} {metric.text(value)}" for metric, value in present(metrics, declared) if metric.summary]
    return separator.join(found or [f"{name} {number(value)}" for name, value in list(metrics.items())[:4]])


def headline(metrics: Mapping[str, float | None], declared: Sequence[Metric]) -> Metric | None:
    """The metric that lists show; None if no headline metric was measured."""
    return next((metric for metric in declared if metric.headline and metrics.get(metric.name) is not None), None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metric table of a stored version as records; empty if it has no metrics."""
    if not (folder / METRICS).exists():
        return []
    try:
        rows: list[dict[str, Any]] = pq.read_table(folder / METRICS).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"the metrics {folder / METRICS} are damaged: {error}", help="train the model again with --force"
        ) from error
    return rows


@dataclass(frozen=True)
class MetricTable:
    """The schema of a version's metric table.

    `keys`: the fields that identify a row, such as split, side or step. `metrics`: the names of the metrics. `count`:
    the column with the number of test items. Rows are given as records; a missing field becomes NULL.
    """

    keys: tuple[pa.Field, ...]
    metrics: tuple[str, ...]
    count: str = "count"

    @property
    def schema(self) -> pa.Schema:
        """The columns of the stored table."""
        figures = [pa.field(name, pa.float64()) for name in self.metrics]
        return pa.schema([*self.keys, *figures, pa.field(self.count, pa.int64()), pa.field("protocol", pa.string())])

    def table(self, rows: Sequence[Mapping[str, Any]], protocol: str) -> pa.Table:
        """The records as a table; `protocol` describes how they were measured."""
        return pa.Table.from_pylist([{**row, "protocol": protocol} for row in rows], schema=self.schema)

    def write(self, folder: Path, rows: Sequence[Mapping[str, Any]], protocol: str) -> None:
        """Write the records to a version's folder. Raises WorkspaceError when the disk is full."""
        with disk_errors(folder / METRICS):
            pq.write_table(self.table(rows, protocol), folder / METRICS, compression="zstd")
