"""The picture of a run: the curves, a map of embeddings, the weight of each relation, methods and classes.

matplotlib is optional (`pip install 'graphlearn[plot]'`) and imported inside the functions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphlearn.jobs.dhan.metrics import METHOD, METRICS, deciding, overall
from graphlearn.jobs.dhan.stored import POINTS, NodeMap, Stored, read_stored
from graphlearn.jobs.drawing import (
    COLOURS,
    GREY,
    History,
    any_script,
    below,
    draw_loss,
    finish_curve,
    literal,
    new_figure,
    plain,
    principal,
    short,
    title,
)
from graphlearn.text import number
from graphlearn.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = ("macro_f1", "micro_f1", "mrr", "auc", "nmi")
"""Metrics drawn over the epochs: the first two that were measured."""
GROUPS = 8
"""Classes with a colour of their own."""
NAMED = 10
"""Nodes that are named on the map of a link model."""
BARS = 10
"""Bars per panel, and classes in the confusion matrix."""


def draw(history: History, version_folder: Path | None) -> Figure:
    """The curves and, with a stored version, the map, the relations, the methods and the classes."""
    stored = read_stored(version_folder) if version_folder is not None else None
    text = title(history, METRICS)
    if stored is None:
        figure = new_figure(11, 4.2)
        axes = figure.subplot_mosaic([["loss", "valid"]])
    else:
        by_class = [row for row in stored.rows if row.get("class") is not None]
        right: Any = [["methods"], ["relations"], ["valid"], ["loss"]]
        if by_class:
            right = [["methods", "classes"], ["relations", "confusion"], ["valid", "loss"]]
        figure = new_figure(19 if by_class else 15, 9.6)
        axes = figure.subplot_mosaic([["map", right]], width_ratios=[1, 1.25] if by_class else [1.9, 1])
        text += below(stored.verdict)
    figure.suptitle(text, x=0.01, ha="left", fontsize=11)
    draw_loss(axes["loss"], history)
    axes["loss"].set_ylabel("cross entropy (nats)", fontsize=9)
    _draw_valid(axes["valid"], history)
    if stored is not None:
        with any_script():
            _draw_map(figure, axes["map"], stored.map)
            of = f"weight of relations for {stored.map.table} ({stored.part})"
            if stored.map.links is not None:
                of = f"weight of relations ({stored.part})"
            bars = [Bar(name, value) for name, value in stored.relations.items()]
            _draw_bars(axes["relations"], bars, of, "share, on average")
            _draw_methods(axes["methods"], stored)
            if "classes" in axes:
                _draw_classes(axes["classes"], stored)
                _draw_confusion(axes["confusion"], stored)
    return figure


def _draw_valid(axes: Axes, history: History) -> None:
    axes.set_title("on the validation split", loc="left", fontsize=10)
    labels = {metric.name: metric.label for metric in METRICS}
    drawn = [name for name in CURVES if name in history.valid][:2]
    for name, colour in zip(drawn, (COLOURS[2], COLOURS[1]), strict=False):
        points = history.valid[name]
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=labels[name])
    if drawn:
        epoch, best = max(history.valid[drawn[0]], key=lambda point: point[1])
        axes.plot([epoch], [best], "o", color=COLOURS[2], markersize=6)
        axes.annotate(number(best), (epoch, best), textcoords="offset points", xytext=(0, -14), ha="center", fontsize=9)
        axes.margins(x=0.05, y=0.2)
        axes.set_ylabel("0 to 1", fontsize=9)
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    finish_curve(axes, bool(drawn), "nothing to validate on")


def _draw_map(figure: Figure, axes: Axes, nodes: NodeMap) -> None:
    norms = np.linalg.norm(nodes.vectors, axis=1, keepdims=True)
    flat, share = principal(nodes.vectors / np.maximum(norms, 1e-12))
    axes.set_xlabel("first principal component", fontsize=9)
    axes.set_ylabel("second principal component", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d5d8dc")
    variance = f"\n(two principal components of their embeddings: {share:.0%} of the variance)"
    if nodes.links is not None:
        _draw_links(figure, axes, nodes, flat)
        most = "the most linked " if len(flat) == POINTS else ""
        heading = literal(f"{most}{len(flat):,} nodes of {nodes.table}, by their number of links")
        axes.set_title(heading + variance, loc="left", fontsize=10)
        return
    names, counts = np.unique(nodes.groups.astype(str), return_counts=True)
    top = [str(name) for name in names[np.argsort(-counts, kind="stable")] if name][:GROUPS]
    for name in [None, *reversed(top)]:
        rows = ~np.isin(nodes.groups.astype(str), top) if name is None else nodes.groups == name
        if rows.any():
            colour = GREY if name is None else COLOURS[top.index(name)]
            label = literal(short(name or ("other" if top else nodes.table), 40))
            axes.scatter(flat[rows, 0], flat[rows, 1], s=14, color=colour, alpha=0.7, linewidths=0, label=label)
    which = "of the test split " if nodes.tested.all() and len(nodes.tested) else ""
    by = f", by {nodes.column}" if nodes.column else ""
    axes.set_title(
        literal(f"{len(flat):,} nodes of {nodes.table} {which}".strip() + by) + variance, loc="left", fontsize=10
    )
    if top:
        legend = axes.legend(
            *(entries[::-1] for entries in axes.get_legend_handles_labels()),
            frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.03), markerscale=2,
        )  # fmt: skip
        legend.set_in_layout(True)


def _draw_links(figure: Figure, axes: Axes, nodes: NodeMap, flat: FloatArray) -> None:
    """Targets by their number of links, the most linked ones with their keys."""
    from matplotlib.colors import LogNorm

    assert nodes.links is not None
    links = np.maximum(nodes.links, 1)
    order = np.argsort(links, kind="stable")  # the most linked ones on top
    x, y = flat[order].T
    norm = LogNorm(1, max(2, int(links.max())))
    drawn = axes.scatter(x, y, c=links[order], s=14, cmap="cool", norm=norm, linewidths=0)
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.6, aspect=40, label="links to learn from")
    for place in order[::-1][:NAMED]:
        axes.annotate(
            literal(short(nodes.keys[place], 24)), flat[place], textcoords="offset points", xytext=(4, 3), fontsize=8
        )


@dataclass(frozen=True)
class Bar:
    """A bar, with its interval and a remark if there are any. `strong`: it is the model's."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    remark: str = ""
    strong: bool = True


def _draw_bars(axes: Axes, bars: list[Bar], heading: str, unit: str) -> None:
    axes.set_title(literal(heading), loc="left", fontsize=10)
    plain(axes)
    shown = bars[:BARS]
    if not shown:
        axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axes.transAxes, color="#777777")
        return
    colours = ["#a9c3e8" if bar.strong else "#dfe2e7" for bar in shown]
    axes.barh(range(len(shown)), [bar.value for bar in shown], color=colours, height=0.62)
    axes.set_yticks(range(len(shown)), [literal(short(bar.name, 26)) for bar in shown], fontsize=9)
    for k, bar in enumerate(shown):
        end = bar.value
        if bar.low is not None and bar.high is not None:
            end = max(bar.high, end)
            axes.plot([bar.low, bar.high], [k, k], color="#5a5f66", linewidth=1.2, marker="|", markersize=6)
        text = f"{bar.value:.3f}{bar.remark}"
        axes.annotate(text, (end, k), textcoords="offset points", xytext=(5, 0), va="center", fontsize=8)
    axes.set_xlim(0, 1.3 * max(max(bar.value, bar.high or 0.0) for bar in shown) or 1)
    axes.set_xlabel(unit, fontsize=9)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _draw_methods(axes: Axes, stored: Stored) -> None:
    """The metric that methods are compared by, of the model, its parts and its baselines."""
    rows = overall(stored.rows)
    metric = deciding(rows)
    split = "all" if any(row["split"] == "all" for row in rows) else "test"
    bars = []
    if metric is not None:
        for row in rows:
            if row["split"] == split and row.get(metric.name) is not None:
                low, high = (row.get(bound) for bound in metric.bounds)
                strong = row["method"].startswith(METHOD)
                bars.append(Bar(row["method"], row[metric.name], low, high, strong=strong))
    bars.sort(key=lambda bar: -bar.value)
    where = "on all labelled nodes" if split == "all" else "on the test split"
    heading = f"{metric.label} {where}" if metric is not None else "metrics"
    if metric is not None and metric.interval:
        heading += ", with 95 % intervals"
    _draw_bars(axes, bars, heading, metric.label if metric is not None else "")


def _draw_classes(axes: Axes, stored: Stored) -> None:
    """The F1 of each class on the test split, the most frequent first."""
    rows = [row for row in stored.rows if row.get("class") is not None]
    rows = [row for row in rows if (row["method"], row["split"]) == (METHOD, "test")]
    rows.sort(key=lambda row: -row["count"])
    few = {True: ", too few", False: "", None: ""}
    bars = [
        Bar(
            row["class"],
            row["f1"] or 0.0,
            remark=f"  ({row['count']:,}{few[row['too_few']]})",
            strong=not row["too_few"],
        )
        for row in rows
    ]
    some = f" ({BARS} of {len(bars):,})" if len(bars) > BARS else ""
    _draw_bars(axes, bars, f"classes on the test split{some} (nodes)", "F1")


def _draw_confusion(axes: Axes, stored: Stored) -> None:
    """How often nodes of each class are taken for each class, in percent of the actual class, with counts."""
    matrix = stored.confusion
    if matrix is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nodes can have several classes", ha="center", va="center", color="#777777")
        return
    shown, names = matrix[:BARS, :BARS], [literal(short(name, 14)) for name in stored.classes[:BARS]]
    share = shown / np.maximum(matrix.sum(1)[:BARS, None], 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 9 if len(names) < 6 else 6
    for (i, j), value in np.ndenumerate(shown):
        text = f"{share[i, j]:.0%}".replace("%", " %") + f"\n{value:,}"
        axes.text(
            j, i, text, ha="center", va="center", fontsize=size, color="white" if share[i, j] > 0.6 else "#16181c"
        )
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=30 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("actual", fontsize=9)
    axes.tick_params(length=0)
    some = f" ({BARS} most frequent of {len(matrix):,} classes)" if len(matrix) > BARS else ""
    axes.set_title(f"confusion, by actual class (test split){some}", loc="left", fontsize=10)
