"""The picture of a run: the curves, a map of embeddings, the attention to each relation, the baselines.

matplotlib is optional (`pip install 'graphlearn[plot]'`) and imported inside the functions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphlearn.jobs.dhan.metrics import METHOD, METRICS, baselines_of, deciding, final_metrics
from graphlearn.jobs.dhan.predictor import DhanPredictor
from graphlearn.jobs.drawing import (
    COLOURS,
    GREY,
    History,
    any_script,
    draw_loss,
    finish_curve,
    literal,
    new_figure,
    plain,
    principal,
    short,
    title,
)
from graphlearn.jobs.metrics import metrics_line, read_metrics
from graphlearn.storage.artifacts import MANIFEST, Artifact
from graphlearn.storage.files import read_json
from graphlearn.text import number
from graphlearn.types import BoolArray, FloatArray, Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = ("macro_f1", "micro_f1", "mrr", "auc", "nmi")
"""Metrics drawn over the epochs: the first two that were measured."""
POINTS = 2000
"""Nodes on the map."""
SAMPLED = 300
"""Nodes whose attention is averaged."""
GROUPS = 8
"""Classes with a colour of their own."""


@dataclass(frozen=True)
class NodeMap:
    """Some nodes to draw. shape: vectors [n, D]; groups, tested: [n]; an empty group has no class."""

    table: str
    column: str
    vectors: FloatArray
    groups: npt.NDArray[Any]
    tested: BoolArray


@dataclass(frozen=True)
class Stored:
    """The data of a stored version to draw."""

    verdict: str
    rows: list[dict[str, Any]]
    map: NodeMap
    attention: dict[str, float]


def read_stored(version_folder: Path) -> Stored:
    """The metrics of a stored version, embeddings of some of its nodes, and the mean attention to its relations."""
    manifest = read_json(version_folder / MANIFEST)
    model = DhanPredictor(Artifact(manifest["model"], manifest["version"], version_folder, manifest))
    return Stored(
        verdict=manifest.get("verdict") or "",
        rows=read_metrics(version_folder),
        map=_read_map(model),
        attention=_attention(model),
    )


def _some(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """At most `wanted` positions, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _read_map(model: DhanPredictor) -> NodeMap:
    """Nodes of the main table: those of the test split if there are any, because the others' classes were learnt."""
    name = model.shape.main
    table = model.tables.nodes[name]
    labels, split = table.labels, table.split
    tested = np.zeros(len(table), np.bool_) if split is None else np.asarray(split == Split.TEST.code)
    rows = np.flatnonzero(tested) if tested.any() else np.arange(len(table))
    rows = rows[_some(len(rows), POINTS)]
    groups = np.full(len(rows), "", object)
    if labels is not None:
        ids = labels.ids if labels.ids is not None else np.where(labels.known, np.argmax(labels.matrix, axis=1), -1)  # type: ignore[arg-type]
        keys = [str(key) for key in labels.classes.dictionary.keys.to_pylist()]
        groups = np.array([keys[k] if k >= 0 else "" for k in ids[rows]], object)
    vectors = np.asarray(model.training.embeddings(name, rows), np.float32)
    return NodeMap(name, labels.column if labels is not None else "", vectors, groups, tested[rows])


def _attention(model: DhanPredictor) -> dict[str, float]:
    """Mean attention of some nodes of the main table to each relation, in descending order."""
    from graphlearn.models.dhan.explain import explain

    name = model.shape.main
    nodes = _some(len(model.tables.nodes[name]), SAMPLED)
    sums: dict[str, float] = {}
    for reason in explain(model.training, name, nodes, 1):
        if reason.kind == "relation":
            label = f"{reason.relation}, backwards" if reason.back else str(reason.relation)
            sums[label] = sums.get(label, 0.0) + (reason.weight or 0.0) / len(nodes)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def draw(history: History, version_folder: Path | None) -> Figure:
    """The curves and, with a stored version, the map, the relations and the baselines."""
    stored = read_stored(version_folder) if version_folder is not None else None
    text = title(history, f"test {metrics_line(history.final, METRICS, ', ')}" if history.final else "")
    if stored is None:
        figure = new_figure(11, 4.2)
        axes = figure.subplot_mosaic([["loss", "valid"]])
    else:
        figure = new_figure(15, 9.2)
        right: Any = [["methods"], ["relations"], ["valid"], ["loss"]]
        axes = figure.subplot_mosaic([["map", right]], width_ratios=[1.9, 1])
        text += literal(f"\n{stored.verdict}") if stored.verdict else ""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12)
    draw_loss(axes["loss"], history)
    _draw_valid(axes["valid"], history)
    if stored is not None:
        with any_script():
            _draw_map(axes["map"], stored.map)
            _draw_bars(axes["relations"], stored.attention, f"attention of {stored.map.table} to relations, on average")
            _draw_methods(axes["methods"], stored)
    return figure


def _draw_valid(axes: Axes, history: History) -> None:
    axes.set_title("metrics on the validation split", loc="left", fontsize=10)
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
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    finish_curve(axes, bool(drawn), "nothing to validate on")


def _draw_map(axes: Axes, nodes: NodeMap) -> None:
    norms = np.linalg.norm(nodes.vectors, axis=1, keepdims=True)
    flat, share = principal(nodes.vectors / np.maximum(norms, 1e-12))
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
        literal(f"{len(flat):,} nodes of {nodes.table} {which}".strip() + by)
        + f"\n(first two principal components of their embeddings: {share:.0%} of the variance)",
        loc="left",
        fontsize=10,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d5d8dc")
    if top:
        legend = axes.legend(
            *(entries[::-1] for entries in axes.get_legend_handles_labels()),
            frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.01), markerscale=2,
        )  # fmt: skip
        legend.set_in_layout(True)


def _draw_bars(axes: Axes, bars: dict[str, float], heading: str, bold: str = "") -> None:
    axes.set_title(literal(heading), loc="left", fontsize=10)
    plain(axes)
    shown = dict(list(bars.items())[:8])
    if not shown:
        axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axes.transAxes, color="#777777")
        return
    colours = ["#a9c3e8" if not bold or name == bold else "#dfe2e7" for name in shown]
    axes.barh(range(len(shown)), list(shown.values()), color=colours, height=0.62)
    axes.set_yticks(range(len(shown)), [""] * len(shown))
    for k, (name, value) in enumerate(shown.items()):
        text = literal(f"{short(name, 44)}   {value:.3f}")
        axes.annotate(
            text, (0, k), textcoords="offset points", xytext=(6, 0), va="center", fontsize=9, color="#16181c",
            weight="bold" if name == bold else "normal",
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _draw_methods(axes: Axes, stored: Stored) -> None:
    """The metric that methods are compared by, of the model and its baselines."""
    metric, mine = deciding(stored.rows), final_metrics(stored.rows)
    bars = {row["method"]: float(row[metric.name]) for row in baselines_of(stored.rows)} if metric is not None else {}
    if metric is not None and metric.name in mine:
        bars[METHOD] = mine[metric.name]
    ordered = dict(sorted(bars.items(), key=lambda item: -item[1]))
    where = "on all labelled nodes" if any(row["split"] == "all" for row in stored.rows) else "on the test split"
    _draw_bars(axes, ordered, f"{metric.label} {where}" if metric is not None else "metrics", METHOD)
