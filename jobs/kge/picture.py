"""The picture of a run: loss, MRR, MRR by relation, and a map of the entities' embeddings.

matplotlib is optional (`pip install 'graphlearn[plot]'`) and imported only inside the functions.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
from graphlearn.jobs.kge.metrics import METRICS
from graphlearn.jobs.kge.view import triples_of
from graphlearn.jobs.metrics import read_metrics
from graphlearn.jobs.train import WEIGHTS
from graphlearn.storage.artifacts import MANIFEST
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.files import read_json
from graphlearn.storage.scratch import scratch
from graphlearn.storage.triples.snapshot import ENTITIES, RELATIONS, SNAPSHOT
from graphlearn.types import FloatArray, Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 1500  # entities on the map: those with the most triples
LABELS = 70  # names on the map, at most; names that would overlap others are left out
GROUPS = 8  # groups with a colour of their own; the others are grey
RELATIONS_DRAWN = 15  # bars: the relations with the most test triples


@dataclass(frozen=True)
class EntityMap:
    """Entities to draw: vectors, names, the role that each plays most often in triples, number of triples.

    shape: vectors [n, D]; labels, groups, degrees [n]
    """

    vectors: FloatArray
    labels: list[str]
    groups: list[str]
    degrees: npt.NDArray[np.int64]


def read_map(version_folder: Path, points: int = POINTS) -> EntityMap:
    """The entities of a stored version with the most triples. Only their rows of the embedding table are read."""
    from safetensors import safe_open

    entities, relations = Dictionary(version_folder / ENTITIES), Dictionary(version_folder / RELATIONS)
    sql = """
        WITH ends AS (
            SELECT head AS id, relation, 'head' AS side FROM read_parquet($snapshot) WHERE present
            UNION ALL
            SELECT tail, relation, 'tail' FROM read_parquet($snapshot) WHERE present
        ),
        counted AS (SELECT id, relation, side, count(*) AS n FROM ends GROUP BY ALL),
        chosen AS (SELECT id, sum(n)::BIGINT AS degree FROM counted GROUP BY id ORDER BY degree DESC, id LIMIT $points),
        main AS (
            SELECT id, arg_max({relation: relation, side: side}, (n, -relation)) AS role
            FROM counted SEMI JOIN chosen USING (id) GROUP BY id
        )
        SELECT id, role.relation, role.side, degree FROM chosen JOIN main USING (id) ORDER BY id
    """
    with closing(scratch(version_folder / SNAPSHOT)) as connection:
        rows = connection.execute(sql, {"snapshot": str(version_folder / SNAPSHOT), "points": points}).fetchnumpy()
    ids = rows["id"].astype(np.int64)
    names = [str(key) for key in entities.take(ids).to_pylist()]
    kinds = [str(key) for key in relations.take(rows["relation"].astype(np.int64)).to_pylist()]
    groups = [f"{side} of {kind}" for side, kind in zip(rows["side"], kinds, strict=True)]
    with safe_open(version_folder / WEIGHTS, "np") as weights:
        table = weights.get_slice("entities")
        vectors = np.concatenate([table[int(row) : int(row) + 1] for row in ids]).astype(np.float32)
    return EntityMap(vectors, names, groups, rows["degree"].astype(np.int64))


def draw(history: History, version_folder: Path | None) -> Figure:
    """Draw loss and MRR and, if a version is stored, the MRR of each relation and the map of its entities."""
    text = title(history, METRICS, "filtered")
    verdict = read_json(version_folder / MANIFEST).get("verdict") if version_folder is not None else ""
    text += below(str(verdict or ""))
    rows = read_metrics(version_folder) if version_folder is not None else []
    each = _relations(rows, history.family)
    if version_folder is None:
        figure = new_figure(11, 4.6)
        axes = figure.subplot_mosaic([["loss", "mrr"]])
    else:
        figure = new_figure(16, 8.6 + 0.22 * len(each))
        panels = ["loss", "mrr", *(["relations"] if each else [])]
        heights = [1.0, 1.0, *([0.5 + 0.07 * len(each)] if each else [])]
        axes = figure.subplot_mosaic([[name, "map"] for name in panels], width_ratios=[1, 2.1], height_ratios=heights)
    figure.suptitle(text, x=0.01, ha="left", fontsize=12 if version_folder is not None else 10)
    draw_loss(axes["loss"], history)
    axes["loss"].set_ylabel("loss per query", fontsize=9)
    _draw_mrr(axes["mrr"], history, rows)
    if version_folder is not None:
        with any_script():
            if each:
                _draw_relations(axes["relations"], each, Dictionary(version_folder / RELATIONS))
            _draw_map(axes["map"], read_map(version_folder), figure)
    return figure


def _draw_mrr(axes: Axes, history: History, rows: list[Json]) -> None:
    """The MRR over the epochs; that of the stored model and those of the baselines as lines."""
    axes.set_title("filtered MRR", loc="left", fontsize=10)
    mrr = history.valid.get("mrr", [])
    test = history.final.get("mrr")
    lines = [(f"{history.split} {test:.4f}", test, COLOURS[1])] if test is not None else []
    whole = [row for row in rows if (row["split"], row["side"]) == ("test", "both") and row["relation"] < 0]
    baselines = [row for row in whole if row.get("method", history.family) != history.family]
    for row, colour in zip(baselines, COLOURS[3:], strict=False):
        lines.append((f"{row['method']} {row['mrr']:.4f}", row["mrr"], colour))
    if mrr:
        best_epoch, best = max(mrr, key=lambda point: point[1])
        label = f"validation, best {best:.4f} in epoch {best_epoch:g}"
        axes.plot(*zip(*mrr, strict=True), color=COLOURS[2], marker="o", markersize=4, label=label)
    for label, value, colour in lines:
        axes.axhline(value, color=colour, linestyle="--", linewidth=1.2, label=literal(label))
    finish_curve(axes, bool(mrr or lines), "no validation triples")
    axes.set_ylabel("MRR", fontsize=9)
    if mrr or lines:
        axes.set_ylim(bottom=0, top=1.08 * max([*(value for _, value, _ in lines), *(v for _, v in mrr)]) or 1)
        axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="upper left", bbox_to_anchor=(-0.02, -0.2))


def _relations(rows: list[Json], family: str) -> list[Json]:
    """The test rows of the relations with the most test triples, those with the most first."""
    mine = [row for row in rows if row["relation"] >= 0 and (row["split"], row["side"]) == ("test", "both")]
    mine = [row for row in mine if row.get("method", family) == family]
    return sorted(mine, key=lambda row: -row["count"])[:RELATIONS_DRAWN]


def _draw_relations(axes: Axes, rows: list[Json], relations: Dictionary) -> None:
    """The test MRR of each relation with its interval; grey where there are too few triples to judge."""
    names = relations.take(np.array([row["relation"] for row in rows], np.int64)).to_pylist()
    for at, row in enumerate(rows):
        few = bool(row.get("too_few"))
        axes.barh(at, row["mrr"], height=0.7, color=GREY if few else COLOURS[0], alpha=0.8)
        low, high = row.get("mrr_low"), row.get("mrr_high")
        if low is not None and high is not None:
            axes.plot([low, high], [at, at], color="#444444", linewidth=1.2)
    labels = [f"{short(str(name), 26)} ({triples_of(row):,})" for name, row in zip(names, rows, strict=True)]
    plain(axes)
    axes.set_yticks(range(len(rows)), [literal(label) for label in labels], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("filtered test MRR, with its 95 % interval", fontsize=9)
    grey = "; grey: too few to judge" if any(row.get("too_few") for row in rows) else ""
    axes.set_title(f"by relation (test triples{grey})", loc="left", fontsize=10)


def _draw_map(axes: Axes, entities: EntityMap, figure: Figure) -> None:
    from matplotlib.collections import PathCollection

    norms = np.linalg.norm(entities.vectors, axis=1, keepdims=True)
    flat, share = principal(entities.vectors / np.maximum(norms, 1e-12))
    groups = np.array(entities.groups)
    names, counts = np.unique(groups, return_counts=True)
    top = [str(name) for name in names[np.argsort(-counts, kind="stable")][:GROUPS]]
    size = 6 + 5 * np.log2(np.maximum(entities.degrees / max(1, int(np.median(entities.degrees))), 1))
    for name in [None, *reversed(top)]:
        rows = ~np.isin(groups, top) if name is None else groups == name
        if rows.any():
            colour = GREY if name is None else COLOURS[top.index(name)]
            label = literal(short(name or "anything else", 40))
            axes.scatter(
                flat[rows, 0], flat[rows, 1], s=size[rows], color=colour, alpha=0.75, linewidths=0, label=label
            )
    axes.set_title(
        f"the {len(flat):,} entities with the most triples, coloured by their most frequent side and relation\n"
        f"(first two principal components of their embeddings: {share:.0%} of the variance)",
        loc="left",
        fontsize=10,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("first component", fontsize=9)
    axes.set_ylabel("second component", fontsize=9)
    axes.spines[:].set_color("#d5d8dc")
    legend = axes.legend(
        *(entries[::-1] for entries in axes.get_legend_handles_labels()),
        frameon=False, fontsize=8.5, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.03)
    )  # fmt: skip
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([40])
    figure.draw_without_rendering()  # performs the layout, so that label sizes are known
    _draw_labels(axes, flat, entities)


def _draw_labels(axes: Axes, flat: FloatArray, entities: EntityMap) -> None:
    """Draw names of well-connected entities where there is room, taking turns between the groups."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    order = np.argsort(-entities.degrees, kind="stable")
    turn: dict[str, int] = {}
    rank = {}
    for row in order:
        rank[int(row)] = turn[entities.groups[row]] = turn.get(entities.groups[row], 0) + 1
    waiting = sorted(rank, key=lambda row: (rank[row], -entities.degrees[row]))
    frame = axes.get_window_extent().padded(-6)
    taken: list[Bbox] = []
    for row in waiting[: 6 * LABELS]:
        text = axes.annotate(
            literal(short(entities.labels[row], 30)),
            (float(flat[row, 0]), float(flat[row, 1])),
            textcoords="offset points",
            xytext=(3, 3),
            fontsize=8,
            color="#222222",
            path_effects=[withStroke(linewidth=2.2, foreground="white")],
        )
        text.set_in_layout(False)
        box = text.get_window_extent().padded(2)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            text.remove()
        if len(taken) >= LABELS:
            break
