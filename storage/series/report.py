"""The report on a series input: counts to check before trusting a forecast."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from graphlearn.text import counted
from graphlearn.types import Json

SPARSE = 0.9
"""If a larger share of the steps than this is empty, a time stamp or freq is probably wrong."""
EXTREMES = 5
"""The number of suspicious values that are named."""


@dataclass(kw_only=True)
class SeriesReport:
    """Counts of a series input.

    rows = null_rows + before_start + null_values + nonfinite_values + duplicate_rows + observed. `null_rows` have a
    NULL key or a NULL or infinite time; `before_start` are before the declared start; `null_values` and
    `nonfinite_values` (NaN, infinite) are cells without a reading; `duplicate_rows` are readings merged into another of
    their cell. `moved_rows` were not at the start of a step. Of the `series` (cells of one step): `empty_series`
    have no reading at all, `constant_series` have one value, `late_series` begin after the first step, and `gap_cells`
    are unobserved between the first and last reading of their series, and `ended_series` have their last reading long
    before the end. `empty_steps` have no reading of any series. `vanished_keys` (counted in `modes`) occur only in
    earlier versions. `extremes`: suspicious values, and how often they occur. `usual_freq`: the most common distance
    between stamps, if a declared freq is much shorter.
    """

    rows: int = 0
    null_rows: int = 0
    before_start: int = 0
    null_values: int = 0
    nonfinite_values: int = 0
    duplicate_rows: int = 0
    moved_rows: int = 0
    observed: int = 0
    steps: int = 0
    series: int = 0
    empty_series: int = 0
    constant_series: int = 0
    late_series: int = 0
    gap_cells: int = 0
    ended_series: int = 0
    empty_steps: int = 0
    vanished_keys: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    extremes: dict[str, int] = field(default_factory=dict)
    usual_freq: str = ""
    aggregate: str = "mean"
    freq: str = ""
    freq_inferred: bool = False
    first: str = ""
    last: str = ""

    @property
    def cells(self) -> int:
        """Steps times series."""
        return self.steps * self.series

    @property
    def density(self) -> float:
        """Observed share of the cells, 0 to 1."""
        return self.observed / self.cells if self.cells else 0.0

    def to_json(self) -> Json:
        """All counts by name, with cells and density."""
        return {**asdict(self), "cells": self.cells, "density": self.density}

    @classmethod
    def from_json(cls, value: Json) -> SeriesReport:
        """The report from a manifest; ignores unknown names."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})

    def line(self) -> str:
        """The report in one line: "416,000 readings: 336 steps of 1 month x 125 site x 16 variable, 100% observed"."""
        sizes = "".join(f" x {size:,} {name}" for name, size in self.modes.items())
        part = "100%" if self.observed == self.cells else f"{min(self.density, 0.9999):.2%}"
        return f"{self.rows:,} rows: {self.steps:,} steps of {self.freq}{sizes}, {part} observed"

    def lines(self) -> list[str]:
        """The report as text, one line per count."""
        return [self.line(), f"from {self.first} to {self.last}", *(message for message, _ in self.notes())]

    def notes(self) -> list[tuple[str, str]]:
        """(message, level) of what is worth a look."""
        step = f"inferred freq = {self.freq}, the most common distance between time stamps"
        sparse = self.empty_steps > SPARSE * self.steps and not self.usual_freq
        whose = "its" if self.moved_rows == 1 else "their"
        found = [
            (self.null_rows, "dropped {n} with a NULL time or key", "row", "warning"),
            (self.before_start, "dropped {n} before start", "row", "info"),
            (self.null_values, "{n}: not observed", "NULL value", "info"),
            (self.nonfinite_values, "{n}: not observed", "NaN or infinite value", "warning"),
            (self.moved_rows, f"moved {{n}} to the start of {whose} step", "reading", "info"),
            (
                self.duplicate_rows,
                f"merged {{n}} into others with the same step and keys (aggregate = '{self.aggregate}')",
                "reading",
                "warning",
            ),
            (self.empty_series, "{n} without any reading", "series", "warning"),
            (self.constant_series, "{n} with a constant value", "series", "info"),
            (self.late_series, "{n} starting after the first step", "series", "info"),
            (self.gap_cells, "{n} missing between the first and last of a series", "reading", "info"),
            (
                self.ended_series,
                "{n} with a last reading long before the end: forecasts of them read no recent value",
                "series",
                "warning",
            ),
            (self.vanished_keys, "{n} of earlier versions no longer in the input: kept", "key", "info"),
            (
                self.empty_steps,
                f"{{n}} of {self.steps:,} without any reading"
                + (", so look for outlying time stamps" if sparse else ""),
                "step",
                "warning" if sparse else "info",
            ),
        ]
        texts = [(text.format(n=counted(n, noun)), level) for n, text, noun, level in found if n]
        if self.extremes:
            shown = [f"{value} ({counted(count, 'time')})" for value, count in list(self.extremes.items())[:EXTREMES]]
            more = f" and {len(self.extremes) - EXTREMES:,} more" if len(self.extremes) > EXTREMES else ""
            first = next(iter(self.extremes))
            texts.append(
                (
                    f"values far from all others of their series: {', '.join(shown)}{more}; if they stand for missing "
                    f"readings, make them NULL, e.g. nullif(value, {first})",
                    "warning",
                )
            )
        if self.usual_freq:
            texts.append(
                (
                    f"freq = {self.freq} is much finer than the data, in which the most common distance is "
                    f"{self.usual_freq}: {self.empty_steps:,} of {self.steps:,} steps have no reading",
                    "warning",
                )
            )
        return [(step, "info"), *texts] if self.freq_inferred else texts


@dataclass(kw_only=True)
class GraphReport:
    """Counts of the graph of a mode.

    rows = null_rows + unknown_rows + duplicate_rows + edges. `null_rows` have a NULL end or weight; `unknown_rows` name
    one of the `unknown_keys`, which the series lacks; `duplicate_rows` were added to another row of the same ends.
    `self_loops` are kept. `missing_nodes` are keys of the series that no kept edge names.
    """

    mode: str = ""
    rows: int = 0
    null_rows: int = 0
    unknown_rows: int = 0
    unknown_keys: int = 0
    duplicate_rows: int = 0
    edges: int = 0
    self_loops: int = 0
    missing_nodes: int = 0

    def to_json(self) -> Json:
        """All counts by name."""
        return asdict(self)

    def line(self) -> str:
        """The report in one line."""
        return f"graph of {self.mode}: {counted(self.edges, 'edge')} from {counted(self.rows, 'row')}"

    def notes(self) -> list[tuple[str, str]]:
        """(message, level) of what is worth a look."""
        unknown = f"{counted(self.unknown_keys, 'key')} that the series lacks"
        found = [
            (self.null_rows, "dropped {n} with a NULL source, target or weight", "edge", "warning"),
            (self.unknown_rows, f"dropped {{n}} with {unknown}", "edge", "warning"),
            (self.duplicate_rows, "added {n} to others with the same ends", "edge", "info"),
            (self.self_loops, "kept {n}: source and target are the same", "self-loop", "info"),
            (self.missing_nodes, "{n} of the series without an edge", "key", "warning"),
        ]
        return [
            (f"graph of {self.mode}: " + text.format(n=counted(n, noun)), level) for n, text, noun, level in found if n
        ]
