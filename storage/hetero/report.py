"""The report on the inputs of a graph: counts to check before trusting a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from graphlearn.text import counted
from graphlearn.types import Json


@dataclass(kw_only=True)
class NodeReport:
    """Counts of a node table.

    `null_values`: NULL features, used as 0. `null_classes`: NULLs in lists of classes, ignored. `empty_nodes` have no
    feature, `unlinked` nodes no edge. In the target's table, `unlabelled` nodes have a split but no label. Compared
    with earlier versions, `vanished` nodes (counted in `nodes`) are no longer in the table, and `kept_split` nodes keep
    their split although the table now gives another.
    """

    nodes: int = 0
    dense: int = 0
    sparse: int = 0
    null_values: int = 0
    null_classes: int = 0
    empty_nodes: int = 0
    unlinked: int = 0
    unlabelled: int = 0
    ignored_split: bool = False
    vanished: int = 0
    kept_split: int = 0

    def features(self) -> str:
        """`334 features`, or `learnt vectors` without any."""
        return counted(self.dense + self.sparse, "feature") if self.dense + self.sparse else "learnt vectors"


@dataclass(kw_only=True)
class EdgeReport:
    """Counts of an edge table.

    rows = null_rows + unknown_rows + duplicate_rows + edges. `unknown_rows` contain one of the `unknown_keys`, which
    are not in the node table. `duplicate_rows` repeat an edge (weights are added). `paths`: the pairs of nodes that
    share one of the `hubs`, of which `lonely_hubs` have a single node. `kept_split` edges keep the split of an earlier
    version although the table now gives another.
    """

    rows: int = 0
    null_rows: int = 0
    unknown_rows: int = 0
    unknown_keys: int = 0
    duplicate_rows: int = 0
    edges: int = 0
    self_loops: int = 0
    hubs: int = 0
    lonely_hubs: int = 0
    paths: int = 0
    dense_nodes: int = 0
    has_time: bool = False
    kept_split: int = 0
    relations: dict[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class HeteroReport:
    """Counts of a whole graph, by role. `classes` and the sizes of the splits are those of the target."""

    nodes: dict[str, NodeReport] = field(default_factory=dict)
    edges: dict[str, EdgeReport] = field(default_factory=dict)
    classes: int = 0
    train: int = 0
    valid: int = 0
    test: int = 0

    def to_json(self) -> Json:
        """All counts by name, including the sums shown in lists of models."""
        nodes, edges = (sum(n.nodes for n in self.nodes.values()), sum(e.edges for e in self.edges.values()))
        return {"nodes": nodes, "edges": edges, "graph": asdict(self)}

    @classmethod
    def from_json(cls, value: Json) -> HeteroReport:
        """The report from a manifest."""
        there = dict(value.get("graph", {}))
        nodes = {name: NodeReport(**row) for name, row in there.pop("nodes", {}).items()}
        edges = {name: EdgeReport(**row) for name, row in there.pop("edges", {}).items()}
        return cls(nodes=nodes, edges=edges, **there)

    def lines(self) -> list[str]:
        """The report as text, one line per table."""
        found = [f"{name}: {counted(n.nodes, 'node')}, {n.features()}" for name, n in self.nodes.items()]
        for name, e in self.edges.items():
            through = f" through {counted(e.hubs, 'hub')} (as pairs: {e.paths:,})" if e.hubs else ""
            kinds = f" in {counted(len(e.relations), 'relation')}" if len(e.relations) > 1 else ""
            found.append(f"{name}: {counted(e.edges, 'edge')}{kinds}{through}")
        return found

    def notes(self) -> list[tuple[str, str]]:
        """(message, level) of each count that the user should know about."""
        found = []
        for name, n in self.nodes.items():
            found += [(f"{name}: {text}", level) for text, level in _node_notes(n)]
        for name, e in self.edges.items():
            found += [(f"{name}: {text}", level) for text, level in _edge_notes(e)]
        return found


def _node_notes(n: NodeReport) -> list[tuple[str, str]]:
    rows = [
        (n.null_values, "{n}: used as 0", "NULL feature", "info"),
        (n.null_classes, "ignored {n} in lists of classes", "NULL", "warning"),
        (n.empty_nodes, "{n} without features", "node", "info"),
        (n.unlinked, "{n} without an edge", "node", "info"),
        (n.unlabelled, "{n} with a split but without a label: not used", "node", "warning"),
        (n.vanished, "{n} of earlier versions no longer in the table: kept, but not as candidates", "node", "info"),
        (n.kept_split, "kept {n} in the split of an earlier version although the table now differs", "node", "warning"),
    ]
    notes = [(text.format(n=counted(k, noun)), level) for k, text, noun, level in rows if k]
    return notes + ([("its split column is not used: it is not the target's table", "info")] if n.ignored_split else [])


def _edge_notes(e: EdgeReport) -> list[tuple[str, str]]:
    unknown = counted(e.unknown_keys, "unknown key")
    rows = [
        (e.null_rows, "dropped {n} with a NULL", "row", "warning"),
        (e.unknown_rows, f"dropped {{n}} with {unknown}", "row", "warning"),
        (e.duplicate_rows, "merged {n} into others with the same ends", "row", "info"),
        (e.self_loops, "kept {n}: source and target are the same", "self-loop", "info"),
        (e.lonely_hubs, "{n} with a single node, linking nothing", "hub", "info"),
        (e.kept_split, "kept {n} in the split of an earlier version although the table now differs", "edge", "warning"),
    ]
    notes = [(text.format(n=counted(k, noun)), level) for k, text, noun, level in rows if k]
    if e.dense_nodes:
        shares = "if these nodes share something (a subject, a user), use that as a hub table: source, hub"
        notes.append((f"{e.dense_nodes:,} edges per node on average: {shares}", "warning"))
    return notes + ([("the model does not use the column time", "info")] if e.has_time else [])
