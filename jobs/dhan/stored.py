"""What the picture of a run shows of its stored version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphlearn.jobs.dhan.predictor import DhanPredictor
from graphlearn.jobs.metrics import read_metrics
from graphlearn.storage.artifacts import MANIFEST, Artifact
from graphlearn.storage.files import read_json
from graphlearn.types import BoolArray, FloatArray, IdArray, Split

POINTS = 2000
"""Nodes on the map."""
SAMPLED = 300
"""Nodes whose relations are averaged."""


@dataclass(frozen=True)
class NodeMap:
    """Some nodes to draw. shape: vectors [n, D]; groups, tested, keys, links: [n]; an empty group has no class.

    `links`: how many links to learn from a node has, if links were learnt.
    """

    table: str
    column: str
    vectors: FloatArray
    groups: npt.NDArray[Any]
    tested: BoolArray
    keys: list[str]
    links: IdArray | None = None


@dataclass(frozen=True)
class Stored:
    """The data of a stored version to draw.

    `relations`: the mean weight of each relation. `confusion`: nodes of the test split by actual and predicted class
    (C x C), None if nodes can have several.
    """

    verdict: str
    rows: list[dict[str, Any]]
    map: NodeMap
    relations: dict[str, float]
    part: str
    classes: list[str]
    confusion: IdArray | None


def read_stored(version_folder: Path) -> Stored:
    """The metrics of a stored version, embeddings of some of its nodes, and the mean weights of its relations."""
    manifest = read_json(version_folder / MANIFEST)
    model = DhanPredictor(Artifact(manifest["model"], manifest["version"], version_folder, manifest))
    relations, part = _relations(model)
    classes, confusion = _confusion(model)
    return Stored(
        verdict=manifest.get("verdict") or "",
        rows=read_metrics(version_folder),
        map=_read_map(model),
        relations=relations,
        part=part,
        classes=classes,
        confusion=confusion,
    )


def _some(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """At most `wanted` positions, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _read_map(model: DhanPredictor) -> NodeMap:
    """Nodes of the main table: those of the test split if there are any, because the others' classes were learnt.

    If links were learnt: their targets, the most linked ones first.
    """
    relation = model.tables.edges.get(model.target.relation) if model.target.edges is not None else None
    name = model.shape.main if relation is None else relation.target
    table = model.tables.nodes[name]
    labels, split = table.labels, table.split
    tested, links = np.zeros(len(table), np.bool_), None
    if relation is None:
        tested = tested if split is None else np.asarray(split == Split.TEST.code)
        rows = np.flatnonzero(tested) if tested.any() else np.arange(len(table))
        rows = rows[_some(len(rows), POINTS)]
    else:
        links = model.training.queries.degree
        rows = np.argsort(-links, kind="stable")[:POINTS]
    groups = np.full(len(rows), "", object)
    if labels is not None and relation is None:
        ids = labels.ids if labels.ids is not None else np.where(labels.known, np.argmax(labels.matrix, axis=1), -1)  # type: ignore[arg-type]
        keys = [str(key) for key in labels.classes.dictionary.keys.to_pylist()]
        groups = np.array([keys[k] if k >= 0 else "" for k in ids[rows]], object)
    vectors = np.asarray(model.training.embeddings(name, rows), np.float32)
    return NodeMap(
        name,
        labels.column if labels is not None and relation is None else "",
        vectors,
        groups,
        tested[rows],
        [str(key) for key in table.keys.dictionary.take(rows).to_pylist()],
        None if links is None else links[rows],
    )


def _relations(model: DhanPredictor) -> tuple[dict[str, float], str]:
    """Mean weight of each relation in predictions for some nodes of the main table, the largest first, and the part."""
    from graphlearn.models.dhan.explain import explain

    name = model.shape.main
    nodes = _some(len(model.tables.nodes[name]), SAMPLED)
    sums: dict[str, float] = {}
    for reason in explain(model.training, name, nodes, 1):
        if reason.kind == "relation":
            label = f"{reason.relation}, backwards" if reason.back else str(reason.relation)
            sums[label] = sums.get(label, 0.0) + (reason.weight or 0.0) / len(nodes)
    parts = " and ".join(part for part, share in model.training.shares.items() if share)
    return dict(sorted(sums.items(), key=lambda item: -item[1])), parts


def _confusion(model: DhanPredictor) -> tuple[list[str], IdArray | None]:
    """The classes, the most frequent first, and how often nodes of the test split are taken for each."""
    table = model.tables.labelled
    labels = table.labels if table is not None and model.shape.label is not None else None
    if table is None or labels is None or labels.ids is None or table.split is None:
        return [], None
    nodes = np.flatnonzero((table.split == Split.TEST.code) & (labels.ids >= 0))
    count = len(labels.classes)
    found, _ = model.training.predict(nodes, 1)
    matrix = np.bincount(labels.ids[nodes] * count + found[:, 0], minlength=count * count).reshape(count, count)
    order = np.argsort(-matrix.sum(1), kind="stable")
    keys = [str(key) for key in labels.classes.dictionary.keys.to_pylist()]
    return [keys[k] for k in order], matrix[np.ix_(order, order)]
