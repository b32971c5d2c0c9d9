"""Metrics: their declaration by a family, a one-line summary, the verdict, and their table in a stored version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.models.core.bootstrap import Comparison, Outcome, Sample, compare
from graphlearn.storage.files import disk_errors
from graphlearn.storage.stored import read_parquet
from graphlearn.text import counted, number, tenths

METRICS = "metrics.parquet"
"""The file with the metrics of a stored version."""
TOO_FEW = 30
"""With fewer test items than this, a row of a metric table is marked as `too_few` to judge."""
FEWEST = 10
"""With fewer independent groups of test items than this, methods are not compared, and rows are `too_few` to judge."""
CUT = "the baselines were cut to save time; baseline_share = 0 trains them to the end"
"""Follows a verdict that this could change."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its column in the system tables, its label, its format, and whether higher is better.

    Shares, such as Hits@k and accuracy, are numbers from 0 to 1 everywhere. `unit` follows the value. `summary`: part
    of the one-line summary. `headline`: shown in lists of models and runs; if several are, the first one that was
    measured is. `interval`: whether it comes with a 95 % confidence interval, in the columns `<name>_low` and
    `<name>_high`.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True
    summary: bool = True
    headline: bool = False
    interval: bool = False

    @property
    def bounds(self) -> tuple[str, str]:
        """The columns of its interval."""
        return f"{self.name}_low", f"{self.name}_high"

    @property
    def title(self) -> str:
        """The heading of its column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        """A formatted value: `0.3456`, `8.1 %`."""
        return f"{tenths(value) if self.unit else number(value)} {self.unit}".rstrip()


MRR = Metric(name="mrr", label="MRR", headline=True, interval=True)
HITS_AT_1 = Metric(name="hits_at_1", label="Hits@1")
HITS_AT_3 = Metric(name="hits_at_3", label="Hits@3")
HITS_AT_10 = Metric(name="hits_at_10", label="Hits@10")


def present(metrics: Mapping[str, float], declared: Sequence[Metric]) -> Iterator[tuple[Metric, float]]:
    """The declared metrics that were measured, in order of declaration."""
    return ((metric, metrics[metric.name]) for metric in declared if metric.name in metrics)


def metrics_line(metrics: Mapping[str, float], declared: Sequence[Metric], separator: str = " · ") -> str:
    """A one-line summary: `MRR 0.3456 (0.3391 to 0.3520) · Hits@1 0.2510`, or `RMSE 12.3 · MAE 8.1 · MAPE 4.2 %`."""
    found = []
    for metric, value in present(metrics, declared):
        if metric.summary:
            low, high = (metrics.get(bound) for bound in metric.bounds)
            interval = f" ({metric.text(low)} to {metric.text(high)})" if low is not None and high is not None else ""
            found.append(f"{metric.label} {metric.text(value)}{interval}")
    return separator.join(found or [f"{name} {number(value)}" for name, value in list(metrics.items())[:4]])


def measured(sample: Sample, declared: Sequence[Metric]) -> dict[str, float]:
    """The finite metrics of a sample, with the bounds of those that have intervals. See `Metric.bounds`."""
    figures = sample.metrics()
    out = {
        metric.name: figures[metric.name] for metric in declared if math.isfinite(figures.get(metric.name, math.nan))
    }
    wanted = {metric.name: metric for metric in declared if metric.interval and metric.name in out}
    for name, interval in sample.intervals(list(wanted)).items():
        out |= zip(wanted[name].bounds, interval, strict=True)
    return out


@dataclass(frozen=True)
class Verdict:
    """How a model compares with the best of its baselines. `sentence`: for people."""

    outcome: Outcome
    best: str
    comparison: Comparison
    sentence: str

    @property
    def level(self) -> Literal["info", "warning"]:
        """The level of the note that reports it."""
        return "warning" if self.outcome == "worse" else "info"


def verdict(
    method: str,
    metric: Metric,
    ours: Sample,
    baselines: Mapping[str, Sample],
    where: str,
    *,
    advice: str = "",
    cut: bool = False,
) -> Verdict | None:
    """Compare a model with the best of its baselines on the same test items; None without baselines.

    `where`: the items, as in `on the test split`. `advice` follows if the model loses. `cut`: whether the baselines had
    too little time, so that the best one may still improve. Where the interval of the paired difference contains 0, or
    there are fewer than FEWEST groups of items, the two tie.
    """
    sign = 1 if metric.higher_is_better else -1
    figures = {name: sign * sample.metrics().get(metric.name, math.nan) for name, sample in baselines.items()}
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}
    mine = ours.metrics().get(metric.name, math.nan)
    if not figures or not math.isfinite(mine):
        return None
    best = max(figures, key=lambda name: figures[name])
    found = compare(ours, baselines[best], metric.name, higher_is_better=metric.higher_is_better)
    scores = f"{metric.label} {metric.text(found.ours)} against {metric.text(found.theirs)} {where}"
    if len(ours.sums) < FEWEST:
        items = counted(len(ours.sums), "independent test item")
        sentence = f"{method} and the best baseline, {best}, cannot be compared on {items}: {scores}"
        return Verdict("tie", best, found, sentence)
    words = {
        "better": f"{method} is ahead of the best baseline so far" if cut else f"{method} beats the best baseline",
        "worse": f"{method} loses to a baseline",
        "tie": f"{method} ties with the best baseline",
    }
    sentence = f"{words[found.outcome]}, {best}: {scores}"
    sentence += f" (95 % interval of the gain: {metric.text(found.low)} to {metric.text(found.high)})"
    more = advice if found.outcome == "worse" else CUT if cut else ""
    return Verdict(found.outcome, best, found, f"{sentence}; {more}" if more else sentence)


def headline(metrics: Mapping[str, float | None], declared: Sequence[Metric]) -> Metric | None:
    """The metric that lists show; None if no headline metric was measured."""
    return next((metric for metric in declared if metric.headline and metrics.get(metric.name) is not None), None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metric table of a stored version as records; empty if it has no metrics."""
    if not (folder / METRICS).exists():
        return []
    rows: list[dict[str, Any]] = read_parquet(folder / METRICS, "metric table").to_pylist()
    return rows


@dataclass(frozen=True)
class MetricTable:
    """The schema of a version's metric table.

    `keys`: the fields that identify a row, such as method, split, side or step. `count`: the column with the number of
    test items. Rows are given as records; a missing field becomes NULL, but for `too_few`, which follows from the
    count.
    """

    keys: tuple[pa.Field, ...]
    metrics: tuple[Metric, ...]
    count: str = "count"

    @property
    def schema(self) -> pa.Schema:
        """The columns of the stored table."""
        names = [n for metric in self.metrics for n in (metric.name, *(metric.bounds if metric.interval else ()))]
        figures = [pa.field(name, pa.float64()) for name in names]
        last = [pa.field(self.count, pa.int64()), pa.field("too_few", pa.bool_()), pa.field("protocol", pa.string())]
        return pa.schema([*self.keys, *figures, *last])

    def table(self, rows: Sequence[Mapping[str, Any]], protocol: str) -> pa.Table:
        """The records as a table; `protocol` describes how they were measured."""
        given = [{"too_few": self._too_few(row), **row, "protocol": protocol} for row in rows]
        return pa.Table.from_pylist(given, schema=self.schema)

    def _too_few(self, row: Mapping[str, Any]) -> bool | None:
        count = row.get(self.count)
        return None if count is None else bool(count < TOO_FEW)

    def write(self, folder: Path, rows: Sequence[Mapping[str, Any]], protocol: str) -> None:
        """Write the records to a version's folder. Raises WorkspaceError when the disk is full."""
        with disk_errors(folder / METRICS):
            pq.write_table(self.table(rows, protocol), folder / METRICS, compression="zstd")
