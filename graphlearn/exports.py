"""Graphs as objects of other libraries (PyTorch Geometric, DGL, networkx), and back.

    data = graphlearn.to_pyg(session, "acm")                                         # the graph of a stored model
    data = graphlearn.to_pyg(session, {"paper": "SELECT …", "writes": "SELECT …"})   # or of queries, by role
    roles = graphlearn.from_pyg(session, data)                                       # tables, and queries to train on

Nodes are ordered by key. Hub tables become node types with edges to them. Features are numbers first, then lists as
zeros and ones; labels are `y` (-1: unknown), and their splits are masks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError, UserError
from graphlearn.storage.columns import quoted
from graphlearn.types import FloatArray, Split

if TYPE_CHECKING:
    import networkx as nx

    from graphlearn.session import Session
    from graphlearn.storage.hetero.features import FeatureArrays
    from graphlearn.storage.hetero.nodes import NodeTable
    from graphlearn.storage.hetero.tables import HeteroTables

Source: TypeAlias = str | Mapping[str, str]
"""The name of a stored model, or SQL queries by role."""

MAX_DENSE_CELLS = 1 << 28
"""A feature matrix with more cells than this stays sparse."""
MASKS = {Split.TRAIN: "train_mask", Split.VALID: "val_mask", Split.TEST: "test_mask"}


def to_pyg(session: Session, source: Source, *, target: str | None = None, text: tuple[str, ...] = ()) -> Any:
    """The graph as a torch_geometric.data.HeteroData: x, y, train_mask, …, ids (the keys); edge_index, edge_weight.

    For queries, `target` is the column that becomes y, and `text` lists the columns whose words are features. x is
    dense, or a sparse CSR tensor if it would have more than MAX_DENSE_CELLS. Raises UserError if torch_geometric is not
    installed.
    """
    pyg = _library("torch_geometric.data", "pyg", "torch-geometric")
    import torch

    tables = _tables(session, source, target, text)
    data = pyg.HeteroData()
    for name, node in tables.nodes.items():
        store = data[name]
        store.num_nodes = len(node)
        store.ids = node.keys.dictionary.keys.to_pylist()
        if node.features is not None:
            store.x = _tensor(node.features, len(node))
        for key, values in _labels(node).items():
            store[key] = torch.from_numpy(values)
    for role, count in _hubs(tables).items():
        data[role].num_nodes = count
    for (start, name, end), edge in _edge_types(tables).items():
        store = data[start, name, end]
        store.edge_index = torch.from_numpy(np.stack([edge.src, edge.dst]).astype(np.int64))
        if edge.weight is not None:
            store.edge_weight = torch.from_numpy(edge.weight)
    return data


def to_dgl(session: Session, source: Source, *, target: str | None = None, text: tuple[str, ...] = ()) -> Any:
    """The graph as a dgl.heterograph; ndata: feat, y, train_mask, …; edata: weight. See `to_pyg`.

    Tested with DGL 1.1.3, which has wheels for Python 3.11; DGL 2 cannot be loaded with a torch of 2.11 or newer.
    """
    dgl = _library("dgl", "dgl", "dgl")
    import torch

    tables = _tables(session, source, target, text)
    found = _edge_types(tables)
    pairs = {kind: (torch.from_numpy(e.src.copy()), torch.from_numpy(e.dst.copy())) for kind, e in found.items()}
    counts = {name: len(node) for name, node in tables.nodes.items()} | _hubs(tables)
    graph = dgl.heterograph(pairs, num_nodes_dict=counts)
    for name, node in tables.nodes.items():
        if node.features is not None:
            graph.nodes[name].data["feat"] = torch.from_numpy(dense_features(node.features, len(node)))
        for key, values in _labels(node).items():
            graph.nodes[name].data[key] = torch.from_numpy(values)
    for kind, edge in found.items():
        if edge.weight is not None:
            graph.edges[kind].data["weight"] = torch.from_numpy(edge.weight)
    return graph


def to_networkx(
    session: Session, source: Source, *, target: str | None = None, text: tuple[str, ...] = ()
) -> nx.MultiDiGraph[Any]:
    """The graph as a networkx.MultiDiGraph: nodes are (type, key), edges have `relation` and `weight`.

    Nodes have `type` and, where known, `label` and `split`. Features are left out.
    """
    import networkx as nx

    tables = _tables(session, source, target, text)
    graph: nx.MultiDiGraph[Any] = nx.MultiDiGraph()
    names: dict[str, list[Any]] = {}
    for name, node in tables.nodes.items():
        names[name] = [(name, _hashable(key)) for key in node.keys.dictionary.keys.to_pylist()]
        graph.add_nodes_from((key, {"type": name}) for key in names[name])
        if node.labels is not None:
            classes = node.labels.classes.dictionary.keys.to_pylist()
            for row in np.flatnonzero(node.labels.known):
                ids, matrix = node.labels.ids, node.labels.matrix
                label = classes[int(ids[row])] if ids is not None else [classes[k] for k in np.flatnonzero(matrix[row])]  # type: ignore[index]
                graph.nodes[names[name][row]]["label"] = label
        for row in np.flatnonzero(node.split >= 0) if node.split is not None else ():
            graph.nodes[names[name][row]]["split"] = tuple(Split)[int(node.split[row])].value  # type: ignore[index]
    for (start, name, end), edge in _edge_types(tables).items():
        if edge.hubs is not None and end not in names:
            names[end] = [(end, _hashable(key)) for key in edge.hubs.dictionary.keys.to_pylist()]
            graph.add_nodes_from((key, {"type": end}) for key in names[end])
        weights = edge.weight if edge.weight is not None else np.ones(len(edge), np.float32)
        there = zip(edge.src.tolist(), edge.dst.tolist(), weights.tolist(), strict=True)
        graph.add_edges_from(
            (names[start][a], names[end][b], name, {"relation": name, "weight": w}) for a, b, w in there
        )
    return graph


def from_pyg(session: Session, data: Any, prefix: str = "") -> dict[str, str]:
    """Store a HeteroData as tables in the workspace; returns the queries by role, for CREATE MODEL.

    Node tables have the columns id (the position), x, y and split; edge tables have both ends and weight. A table's
    name is `prefix` and the name of its type or relation; if relations share a name, the types of their ends are added.
    Raises InputError if two tables would still have the same name.
    """
    roles: dict[str, str] = {}
    names = [kind[1] for kind in data.edge_types]
    for kind in data.node_types:
        store = data[kind]
        columns: dict[str, Any] = {"id": pa.array(np.arange(store.num_nodes))}
        if store.get("x") is not None:
            x = store.x.to_dense() if store.x.layout != _strided() else store.x
            values = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
            columns["x"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        if store.get("y") is not None:
            columns["y"] = _labels_column(store.y.detach().cpu().numpy())
        masks = {split: store.get(name) for split, name in MASKS.items()}
        if masks[Split.TRAIN] is not None:
            codes = np.full(store.num_nodes, None, object)
            for split, mask in masks.items():
                if mask is not None:
                    codes[mask.cpu().numpy().astype(bool)] = split.value
            columns["split"] = pa.array(codes.tolist(), pa.string())
        _store(session, roles, kind, prefix, pa.table(columns))
    for start, name, end in data.edge_types:
        store = data[start, name, end]
        role = name if names.count(name) == 1 and name not in data.node_types else f"{start}_{name}_{end}"
        ends = (start, end) if start != end else ("source", "target")
        index = store.edge_index.cpu().numpy()
        columns = {ends[0]: pa.array(index[0]), ends[1]: pa.array(index[1])}
        if store.get("edge_weight") is not None:
            columns["weight"] = pa.array(store.edge_weight.cpu().numpy().astype(np.float64))
        _store(session, roles, role, prefix, pa.table(columns))
    return roles


def _store(session: Session, roles: dict[str, str], role: str, prefix: str, table: pa.Table) -> None:
    if role.lower() in {known.lower() for known in roles}:
        raise InputError(f"two types or relations are called {role}", help="rename one of them")
    name = "__from_pyg"
    session.connection.register(name, table)
    try:
        session.connection.execute(f"CREATE OR REPLACE TABLE {quoted(prefix + role)} AS FROM {name}")
    finally:
        session.connection.unregister(name)
    roles[role] = f"FROM {quoted(prefix + role)}"


def _labels_column(y: Any) -> pa.Array:
    """A vector of classes with -1 as NULL; a matrix of zeros and ones as lists of classes."""
    if y.ndim == 2 and y.shape[1] > 1:
        return pa.array([np.flatnonzero(row).tolist() for row in y], pa.list_(pa.int64()))
    y = y.reshape(len(y)).astype(np.int64)
    return pa.array(y, mask=y < 0)


def _strided() -> Any:
    import torch

    return torch.strided


def _library(module: str, extra: str, package: str) -> Any:
    install = f"pip install 'graphlearn[{extra}]'"
    if extra == "dgl" and sys.version_info >= (3, 12):
        install += ", with Python 3.11: DGL 1.1.3, the last that works with this torch, has no newer wheels"
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        if find_spec(module.partition(".")[0]) is None:
            raise UserError(f"{package} is not installed", help=install) from error
        raise UserError(f"{package} {version(package)} cannot be loaded: {error}", help=install) from error


def _hashable(key: Any) -> Any:
    return key if getattr(type(key), "__hash__", None) is not None else repr(key)


def _tables(session: Session, source: Source, target: str | None, text: tuple[str, ...]) -> HeteroTables:
    if not isinstance(source, str):
        from graphlearn.storage.hetero.queries import read_graph

        return read_graph(session.connection, source, target, text)
    from graphlearn.jobs.functions import family_of
    from graphlearn.jobs.registry import family
    from graphlearn.storage.artifacts import ArtifactStore, reading

    artifact = ArtifactStore(session.workspace.folder).load(source)
    with reading(artifact, asked=True):
        tables: HeteroTables = family(family_of(artifact)).graph(artifact)
        for node in tables.nodes.values():
            assert len(node.keys.dictionary.keys) == len(node)
    return tables


def _edge_types(tables: HeteroTables) -> dict[tuple[str, str, str], Any]:
    """(type, relation, type) -> edges; the hubs of a role are a node type with its name."""
    return {(e.source, e.name, e.role if e.hubs is not None else e.target): e for e in tables.edges.values()}


def _hubs(tables: HeteroTables) -> dict[str, int]:
    return {edge.role: len(edge.hubs) for edge in tables.edges.values() if edge.hubs is not None}


def _labels(node: NodeTable) -> dict[str, Any]:
    """y, and a mask per split."""
    out: dict[str, Any] = {}
    if node.labels is not None:
        ids, matrix = node.labels.ids, node.labels.matrix
        out["y"] = ids.astype(np.int64) if ids is not None else np.asarray(matrix, np.float32)
    if node.split is not None:
        out |= {name: np.asarray(node.split == split.code) for split, name in MASKS.items()}
    return out


def dense_features(features: FeatureArrays, count: int) -> FloatArray:
    """All features of a node table as one matrix. shape: [N, width]"""
    out = np.zeros((count, features.width), np.float32)
    first = 0 if features.dense is None else features.dense.shape[1]
    if features.dense is not None:
        out[:, :first] = features.dense
    if features.indptr is not None and features.indices is not None:
        out[np.repeat(np.arange(count), np.diff(features.indptr)), first + features.indices] = 1
    return out


def _tensor(features: FeatureArrays, count: int) -> Any:
    import torch

    if count * features.width <= MAX_DENSE_CELLS or features.indptr is None or features.dense is not None:
        return torch.from_numpy(dense_features(features, count))
    assert features.indices is not None
    ones = torch.ones(len(features.indices))
    indptr, indices = torch.from_numpy(features.indptr.copy()), torch.from_numpy(features.indices.copy())
    return torch.sparse_csr_tensor(indptr, indices, ones, (count, features.sparse_width))
