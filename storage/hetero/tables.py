"""A graph of several node types and relations, stored with a model and read to answer queries.

node_<i>.parquet   keys of a node type by position       graph.safetensors   features, edges, labels, splits
hub_<i>.parquet    keys of a hub table                   graph.json          names, and the arrays of each table
classes.parquet    classes by position
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphlearn.errors import ArtifactError
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.files import disk_errors, read_json, write_json
from graphlearn.storage.hetero.edges import EdgeParts, EdgeTable
from graphlearn.storage.hetero.features import FeatureArrays
from graphlearn.storage.hetero.nodes import Keys, Labels, NodeTable
from graphlearn.storage.hetero.report import EdgeReport, HeteroReport, NodeReport
from graphlearn.storage.stored import check_array, check_ids, damaged_if_unreadable, read_tensors
from graphlearn.types import Json, SplitCodes

GRAPH, ARRAYS, CLASSES = "graph.json", "graph.safetensors", "classes.parquet"
FORMAT_VERSION = 2
_FEATURES = ("dense", "indptr", "indices")
_NODES = ("split", "present", "assigned")
_PARTS = ("src", "dst", "part")
_EDGES = ("src", "dst", "weight", "split")


@dataclass(frozen=True)
class HeteroTables:
    """All node types and relations. At most one node table has `labels`. The `split` is in the target's table."""

    nodes: dict[str, NodeTable]
    edges: dict[str, EdgeTable]
    report: HeteroReport = field(default_factory=HeteroReport)

    @classmethod
    def of(cls, nodes: list[NodeTable], edges: list[EdgeTable], reports: dict[str, EdgeReport]) -> HeteroTables:
        """The tables with their report, which counts nodes without an edge."""
        linked = {table.name: np.zeros(len(table), np.bool_) for table in nodes}
        for edge in edges:
            linked[edge.source][edge.src] = True
            if edge.hubs is None:
                linked[edge.target][edge.dst] = True
        for table in nodes:
            table.report.unlinked = int(np.count_nonzero(~linked[table.name])) - table.report.vanished
        report = HeteroReport(nodes={t.name: t.report for t in nodes}, edges=reports)
        return cls({t.name: t for t in nodes}, {e.name: e for e in edges}, report)

    @property
    def labelled(self) -> NodeTable | None:
        """The node table with labels."""
        return next((table for table in self.nodes.values() if table.labels is not None), None)

    def with_split(self, name: str, split: SplitCodes) -> HeteroTables:
        """The same tables, with splits of the node type or relation of this name, which later versions keep.

        The report counts them.
        """
        nodes = {n: t.remember(split) if n == name else t for n, t in self.nodes.items()}
        edges = {n: t.remember(split) if n == name else t for n, t in self.edges.items()}
        report, labels = self.report, nodes[name].labels if name in nodes else None
        report.train, report.valid, report.test = (int(np.count_nonzero(split == place)) for place in range(3))
        report.classes = len(labels.classes) if labels is not None else 0
        return HeteroTables(nodes, edges, report)

    def manifest(self) -> Json:
        """The keys that it adds to a version's manifest."""
        return {"counts": self.report.to_json()}

    def write(self, folder: Path) -> None:
        """Write the graph to an existing folder. Raises WorkspaceError when the disk is full or not writable."""
        from safetensors.numpy import save_file

        arrays: dict[str, Any] = {}
        stored: Json = {"format_version": FORMAT_VERSION, "nodes": [], "edges": [], "labels": None}
        for i, node in enumerate(self.nodes.values()):
            node.keys.write(folder / f"node_{i}.parquet")
            features = node.features
            arrays |= {f"node_{i}.{name}": getattr(features, name, None) for name in _FEATURES}
            arrays |= {f"node_{i}.{name}": getattr(node, name) for name in _NODES}
            stored["nodes"].append({"name": node.name, "sparse_width": features.sparse_width if features else None})
            if node.labels is not None:
                node.labels.classes.write(folder / CLASSES)
                arrays |= {"labels.ids": node.labels.ids, "labels.matrix": node.labels.matrix}
                stored["labels"] = {"node": node.name, "column": node.labels.column, "kind": node.labels.kind}
        hubs: list[str] = []
        for i, edge in enumerate(self.edges.values()):
            arrays |= {f"edge_{i}.{name}": getattr(edge, name) for name in _EDGES}
            if edge.assigned is not None:
                arrays |= {f"assigned_{i}.{name}": getattr(edge.assigned, name) for name in _PARTS}
            if edge.hubs is not None and edge.role not in hubs:
                edge.hubs.write(folder / f"hub_{len(hubs)}.parquet")
                hubs.append(edge.role)
            place = hubs.index(edge.role) if edge.hubs is not None else None
            names = {name: getattr(edge, name) for name in ("name", "role", "source", "target")}
            stored["edges"].append({**names, "hubs": place})
        with disk_errors(folder):
            there = {name: np.ascontiguousarray(a) for name, a in arrays.items() if a is not None}
            save_file(there, folder / ARRAYS)
            write_json(folder / GRAPH, {**stored, "report": self.report.to_json()})


def read_hetero(folder: Path) -> HeteroTables:
    """Read a graph written by `HeteroTables.write`. Raises ArtifactError if it is missing, damaged or newer."""
    with damaged_if_unreadable(folder / GRAPH, "graph"):
        stored = read_json(folder / GRAPH)
        if stored["format_version"] > FORMAT_VERSION:
            raise ArtifactError(
                f"the graph in {folder} is from a newer GraphLearn", help="upgrade: pip install -U graphlearn"
            )
        arrays = read_tensors(folder / ARRAYS, "np")
        report = HeteroReport.from_json(stored["report"])
        nodes, edges = {}, {}
        for i, node in enumerate(stored["nodes"]):
            name, width = node["name"], node["sparse_width"]
            parts = [arrays.get(f"node_{i}.{part}") for part in _FEATURES]
            features = None if width is None else FeatureArrays(parts[0], parts[1], parts[2], width)
            labels, learnt = None, stored["labels"]
            if learnt is not None and learnt["node"] == name:
                ids, matrix = arrays.get("labels.ids"), arrays.get("labels.matrix")
                labels = Labels(learnt["column"], learnt["kind"], Keys(Dictionary(folder / CLASSES)), ids, matrix)
            keys = Keys(Dictionary(folder / f"node_{i}.parquet"))
            counted = report.nodes.get(name, NodeReport())
            split, present, assigned = (arrays.get(f"node_{i}.{part}") for part in _NODES)
            nodes[name] = NodeTable(
                name, keys, features, counted, labels, split=split, present=present, assigned=assigned
            )
        for i, edge in enumerate(stored["edges"]):
            place = edge.pop("hubs")
            if place is not None and type(place) is not int:  # part of a file name
                raise ValueError("a hub table has no number")
            hubs = None if place is None else Keys(Dictionary(folder / f"hub_{place}.parquet"))
            src, dst = arrays[f"edge_{i}.src"], arrays[f"edge_{i}.dst"]
            weight, split = arrays.get(f"edge_{i}.weight"), arrays.get(f"edge_{i}.split")
            known = None
            if f"assigned_{i}.part" in arrays:
                known = EdgeParts(*(arrays[f"assigned_{i}.{name}"] for name in _PARTS))
            edges[edge["name"]] = EdgeTable(
                **edge, src=src, dst=dst, weight=weight, hubs=hubs, split=split, assigned=known
            )
        for node_table in nodes.values():
            _check_node(node_table)
        for edge_table in edges.values():
            _check_edge(edge_table, nodes)
        return HeteroTables(nodes, edges, report)


def _check_node(node: NodeTable) -> None:
    """Raise ValueError, KeyError, TypeError for a node type whose parts do not fit together."""
    count, features, labels = len(node), node.features, node.labels
    if not isinstance(node.name, str):
        raise ValueError("a node type has no name")
    for name in _NODES:
        array = getattr(node, name)
        if array is not None:
            check_array(array, name, np.bool_ if name == "present" else np.int8, count)
    if features is not None:
        if features.dense is not None:
            check_array(features.dense, "features", np.float32, count, None)
        if type(features.sparse_width) is not int or features.sparse_width < 0:
            raise ValueError("sparse_width is not a number of columns")
        if features.indptr is not None:
            assert features.indices is not None
            check_array(features.indptr, "indptr", np.int64, count + 1)
            if features.indptr[0] != 0 or (np.diff(features.indptr) < 0).any():
                raise ValueError("indptr does not ascend from 0")
            if features.indptr[-1] != len(features.indices):
                raise ValueError("indptr does not end at the number of indices")
            check_ids(features.indices, "indices", features.sparse_width)
    if labels is not None:
        if labels.ids is not None:
            check_array(labels.ids, "labels", np.int64, count)
            check_ids(labels.ids, "labels", len(labels.classes), lowest=-1)
        else:
            check_array(np.asarray(labels.matrix), "labels", np.bool_, count, len(labels.classes))


def _check_edge(edge: EdgeTable, nodes: Mapping[str, NodeTable]) -> None:
    """Raise ValueError, KeyError, TypeError for a relation whose parts do not fit together or to its node types."""
    if not all(isinstance(name, str) for name in (edge.name, edge.role, edge.source, edge.target)):
        raise ValueError("a relation has no name")
    ends = len(nodes[edge.source]), len(edge.hubs if edge.hubs is not None else nodes[edge.target])
    for name, ids, count in (("source", edge.src, ends[0]), ("target", edge.dst, ends[1])):
        check_ids(ids, name, count)
        check_array(ids, name, ids.dtype, len(edge.src))
    if edge.weight is not None:
        check_array(edge.weight, "weight", np.float32, len(edge.src))
    if edge.split is not None:
        check_array(edge.split, "split", np.int8, len(edge.src))
    if edge.assigned is not None:
        known, count = edge.assigned, len(edge.assigned.src)
        for name in _PARTS:
            check_array(getattr(known, name), name, np.int8 if name == "part" else np.int64, count)
