"""How large a graph is and what it will cost, relation by relation, before anything of it is read: SQL counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from graphlearn.errors import ResourceError
from graphlearn.jobs.dhan.options import DhanJobOptions
from graphlearn.storage.columns import quoted, subquery
from graphlearn.storage.hetero.features import WORDS, Kind
from graphlearn.storage.hetero.paths import Metapath, count_walks
from graphlearn.storage.hetero.roles import EdgeRole
from graphlearn.storage.interrupt import interruptible
from graphlearn.text import counted, human_bytes

SPEED = 1e9
"""Multiplications and additions a second of sums over edges, which wait for memory more than for arithmetic."""
EDGE, EDGE_HEAD, NODE_STATE = 260, 90, 32
"""Bytes that training was seen to hold for an edge and direction, for each of its heads and layers, and floats of the
hidden width for a node; without sampling, in float32."""
SAMPLED_NODE = 6e-6
"""Seconds for each node that sampling reaches."""
SAMPLED_EDGE = 160
"""Bytes of an edge and direction where neighbours are sampled: the graph, and what finds a node's edges in it."""


@dataclass(frozen=True)
class NodeSize:
    """A node table: its rows, dense columns, about how many sparse columns, and ones in them."""

    rows: int = 0
    dense: int = 0
    sparse: int = 0
    ones: int = 0

    @property
    def bytes(self) -> int:
        """Of the arrays: dense columns, indices of ones, and where each row ends."""
        return 4 * self.rows * self.dense + 8 * self.ones + 8 * self.rows

    def text(self) -> str:
        """`4,019 nodes, about 1,902 sparse features`."""
        dense = [f"{self.dense:,} dense"] if self.dense else []
        kinds = [*dense, *([f"about {self.sparse:,} sparse"] if self.sparse else [])]
        return counted(self.rows, "node") + (f", {' and '.join(kinds)} features" if kinds else ", vectors learnt")


@dataclass(frozen=True)
class EdgeSize:
    """A relation: its edges (of a path at most), the hubs it goes through, the pairs of nodes that stand for them."""

    name: str
    source: str
    target: str
    edges: int = 0
    hubs: int | None = None
    paths: int = 0

    def flops(self, options: DhanJobOptions) -> float:
        """Arithmetic of an epoch: along every edge, there and back, once a layer and hop, and thrice that to learn."""
        passes = self.steps(options) * (options.layers + options.hops)
        return 3.0 * passes * self.edges * (2 * options.hidden + 8 * options.heads)

    def memory(self, options: DhanJobOptions) -> int:
        """Bytes of its edges and of what is computed for them while training."""
        whole = EDGE + EDGE_HEAD * options.heads * options.layers
        return self.steps(options) * self.edges * (SAMPLED_EDGE if options.fanout else whole)

    @staticmethod
    def steps(options: DhanJobOptions) -> int:
        """Passes over the edges of a layer: along them, and against them."""
        return 2 if options.reverse else 1

    def text(self, options: DhanJobOptions) -> str:
        """For EXPLAIN: ends, edges, arithmetic and memory of an epoch, and what a materialised form would have."""
        joins = f"{self.source} – {self.target}"
        cost = f"{self.flops(options) / 1e9:,.2f} GFLOP an epoch, {human_bytes(self.memory(options))}"
        if self.hubs is None:
            return f"{joins}: {counted(self.edges, 'edge')}, {cost}"
        saved = f"{self.paths:,} edges as pairs"
        return f"{self.source} – {counted(self.hubs, 'hub')}: {counted(self.edges, 'edge')} ({saved}), {cost}"


@dataclass
class GraphSize:
    """All tables of a graph; `known` is False where they are still empty, so that nothing can be said."""

    nodes: dict[str, NodeSize] = field(default_factory=dict)
    edges: dict[str, EdgeSize] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether any table has rows."""
        return any(size.rows for size in self.nodes.values()) and any(size.edges for size in self.edges.values())

    @property
    def bytes(self) -> int:
        """Of all arrays in memory."""
        return sum(n.bytes for n in self.nodes.values()) + sum(16 * e.edges for e in self.edges.values())

    def flops(self, options: DhanJobOptions) -> float:
        """Arithmetic of an epoch over the whole graph."""
        wide = sum(6.0 * (n.rows * n.dense + n.ones) * options.hidden for n in self.nodes.values())
        deep = sum(6.0 * n.rows * options.hidden**2 * (len(self.edges) + 1) for n in self.nodes.values())
        return wide + deep * options.layers + sum(e.flops(options) for e in self.edges.values())

    def reached(self, options: DhanJobOptions) -> int:
        """Nodes that a step computes: all, or those that sampling reaches from a batch."""
        rows, reached = sum(n.rows for n in self.nodes.values()), options.batch_size
        for fanout in options.fanout:
            reached *= 1 + fanout * max(1, len(self.edges))
        return min(rows, reached) if options.fanout else rows

    def seconds(self, options: DhanJobOptions, gemm: float) -> float:
        """Of an epoch; `gemm` is the machine's arithmetic in matrix products a second."""
        if options.fanout:
            steps = max(1, max(n.rows for n in self.nodes.values()) // options.batch_size)
            return steps * self.reached(options) * SAMPLED_NODE
        edges = sum(e.flops(options) for e in self.edges.values())
        return edges / SPEED + (self.flops(options) - edges) / (0.3 * gemm)

    def memory(self, options: DhanJobOptions) -> int:
        """Bytes that training holds in addition to the graph, at most."""
        states = 4 * NODE_STATE * self.reached(options) * options.hidden * options.layers
        weights = 16 * sum((n.dense + n.sparse or n.rows) * options.hidden for n in self.nodes.values())
        return states + weights + sum(e.memory(options) for e in self.edges.values())

    def check(self, options: DhanJobOptions, base: int, available: int) -> None:
        """Raise ResourceError when training does not fit, with the relation that costs most."""
        need = base + 3 * self.bytes + self.memory(options)
        if need <= available or not self.edges:
            return
        heavy = max(self.edges.values(), key=lambda e: e.memory(options))
        help = f"lower hidden (now {options.hidden}), or take a larger machine"
        if not options.fanout:
            help = f"sample neighbours: fanout = [10, 5]; or {help}"
        raise ResourceError(
            f"the job needs about {human_bytes(need)} of memory to train, and {human_bytes(available)} is free; "
            f"what costs most is {heavy.name}, {heavy.text(options)}",
            help=help,
        )


def _ask(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    found = interruptible(cursor, lambda: cursor.execute(sql).fetchall())[0]
    return tuple(int(value or 0) for value in found)


def node_size(cursor: duckdb.DuckDBPyConnection, sql: str, kinds: Mapping[str, Kind]) -> NodeSize:
    """The size of a node table. One scan, and one more for each bag."""
    table = subquery(sql)
    vectors = [name for name, kind in kinds.items() if kind == "vector"]
    widths = "".join(f", max(len({quoted(name)}))" for name in vectors)
    rows, *lengths = _ask(cursor, f"SELECT count(*){widths} FROM {table}")
    numbers = sum(kind == "number" for kind in kinds.values())
    sparse = ones = 0
    for name, kind in kinds.items():
        column = quoted(name)
        values = f"regexp_extract_all(lower({column}::VARCHAR), '{WORDS}')" if kind == "text" else f"{column}[:]"
        if kind in ("bag", "text"):
            n, width = _ask(
                cursor, f"SELECT count(*), approx_count_distinct(v) FROM (SELECT unnest({values}) AS v FROM {table})"
            )
            sparse, ones = sparse + min(n, width), ones + n
    return NodeSize(rows, numbers + sum(lengths), sparse, ones)


def edge_size(cursor: duckdb.DuckDBPyConnection, sql: str, role: EdgeRole) -> EdgeSize:
    """The size of an edge table; of a hub table also the pairs of nodes that share a hub, by squares of degrees."""
    source = str(role.source.node)
    if not role.hub:
        (rows,) = _ask(cursor, f"SELECT count(*) FROM {subquery(sql)}")
        return EdgeSize(role.name, source, str(role.target.node), rows, None, rows)
    hub = quoted(role.target.column)
    degrees = f"SELECT count(*)::HUGEINT AS n FROM {subquery(sql)} WHERE {hub} IS NOT NULL GROUP BY {hub}"
    hubs, edges, pairs = _ask(cursor, f"SELECT count(*), sum(n), sum(n * n) FROM ({degrees})")
    return EdgeSize(role.name, source, source, edges, hubs, pairs)


def path_size(
    cursor: duckdb.DuckDBPyConnection, path: Metapath, sql: Mapping[str, str], options: DhanJobOptions
) -> EdgeSize:
    """The size of a metapath, counted without making it. Raises ResourceError above the option edge_cap."""
    walks = count_walks(cursor, path, sql)
    if walks > options.edge_cap:
        raise ResourceError(
            f"the metapath {path.name} would have {walks:,} edges, more than edge_cap = {options.edge_cap:,}",
            help=_instead(path),
        )
    return EdgeSize(path.name, path.source, path.target, walks, None, walks)


def _instead(path: Metapath) -> str:
    """What to write in place of a metapath that is too large."""
    role = path.through
    if role is None:
        return "leave it out: layers = 2 follows its steps one after another; or raise edge_cap"
    if role.hub:
        return f"leave it out: {role.name} is a hub table, through which such nodes meet in two steps without any pair"
    end, hub = (role.source, role.target) if path.source == role.source.node else (role.target, role.source)
    return f"give it as a hub: {path.name} AS (SELECT {end.column} AS source, {hub.column} AS hub FROM …)"
