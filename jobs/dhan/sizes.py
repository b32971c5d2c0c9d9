"""What training on a graph will cost, by relation, from the sizes that storage measured."""

from __future__ import annotations

from graphlearn.errors import ResourceError
from graphlearn.jobs.dhan.options import DhanJobOptions
from graphlearn.jobs.machine import BASE_MEMORY
from graphlearn.storage.hetero.paths import Metapath
from graphlearn.storage.hetero.sizes import EdgeSize, GraphSizes
from graphlearn.text import counted, human_bytes

EDGE, EDGE_HEAD, NODE_STATE = 260, 90, 32
"""Measured memory of training without sampling, in float32: bytes per edge and direction, bytes for each of its heads
and layers, and floats of the hidden width per node."""
SAMPLED_EDGE = 160
"""Bytes per edge and direction when neighbours are sampled: the graph, and the index of each node's edges."""


def edge_flops(edge: EdgeSize, options: DhanJobOptions) -> float:
    """Arithmetic of an epoch on a relation: every edge per direction, layer and hop, times three for gradients."""
    passes = _directions(options) * (options.layers + options.hops)
    return 3.0 * passes * edge.edges * (2 * options.hidden + 8 * options.heads)


def edge_memory(edge: EdgeSize, options: DhanJobOptions) -> int:
    """Bytes of the edges of a relation and of what is computed for them while training."""
    whole = EDGE + EDGE_HEAD * options.heads * options.layers
    return _directions(options) * edge.edges * (SAMPLED_EDGE if options.fanout else whole)


def edge_text(edge: EdgeSize, options: DhanJobOptions) -> str:
    """For EXPLAIN: ends, edges, arithmetic and memory of an epoch; for a hub table also the pairs that it replaces."""
    cost = f"{edge_flops(edge, options) / 1e9:,.2f} GFLOP per epoch, {human_bytes(edge_memory(edge, options))}"
    if edge.hubs is None:
        return f"{edge.source} – {edge.target}: {counted(edge.edges, 'edge')}, {cost}"
    saved = f"{edge.pairs:,} edges as pairs"
    return f"{edge.source} – {counted(edge.hubs, 'hub')}: {counted(edge.edges, 'edge')} ({saved}), {cost}"


def _directions(options: DhanJobOptions) -> int:
    """Passes over the edges of a layer: along them, and against them."""
    return 2 if options.reverse else 1


def flops(sizes: GraphSizes, options: DhanJobOptions) -> float:
    """Arithmetic of an epoch over the whole graph."""
    wide = sum(6.0 * (n.rows * n.dense + n.ones) * options.hidden for n in sizes.nodes.values())
    deep = sum(6.0 * n.rows * options.hidden**2 * (len(sizes.edges) + 1) for n in sizes.nodes.values())
    return wide + deep * options.layers + sum(edge_flops(e, options) for e in sizes.edges.values())


def memory(sizes: GraphSizes, options: DhanJobOptions) -> int:
    """An upper bound of the bytes that training needs in addition to the graph."""
    states = 4 * (NODE_STATE * options.layers + 4 * options.hops) * reached(sizes, options) * options.hidden
    weights = 16 * sum((n.dense + n.sparse or n.rows) * options.hidden for n in sizes.nodes.values())
    return states + weights + sum(edge_memory(e, options) for e in sizes.edges.values())


def reached(sizes: GraphSizes, options: DhanJobOptions) -> int:
    """Nodes that a step computes: all, or those that sampling reaches from a batch."""
    rows, reached = sum(n.rows for n in sizes.nodes.values()), options.batch_size
    for fanout in options.fanout:
        reached *= 1 + fanout * max(1, len(sizes.edges))
    return min(rows, reached) if options.fanout else rows


def check_memory(sizes: GraphSizes, options: DhanJobOptions, available: int) -> None:
    """Raise ResourceError if training does not fit into the available bytes, naming the relation that costs most."""
    need = BASE_MEMORY + 3 * sizes.bytes + memory(sizes, options)
    if need <= available or not sizes.known:
        return
    heavy = max(sizes.edges.values(), key=lambda e: edge_memory(e, options))
    help = f"lower hidden (now {options.hidden}), or use a larger machine"
    if not options.fanout:
        help = f"sample neighbours with fanout = [10, 5], {help}"
    raise ResourceError(
        f"the job needs about {human_bytes(need)} of memory to train, and {human_bytes(available)} is free; "
        f"what costs most is {heavy.name}, {edge_text(heavy, options)}",
        help=help,
    )


def check_paths(sizes: GraphSizes, options: DhanJobOptions) -> None:
    """Raise ResourceError for a metapath that may have more edges than the option edge_cap allows."""
    for path in sizes.paths:
        walks = sizes.edges[path.name].edges
        if walks > options.edge_cap:
            raise ResourceError(
                f"the metapath {path.name} would have {walks:,} edges, more than edge_cap = {options.edge_cap:,}",
                help=_instead(path),
            )


def _instead(path: Metapath) -> str:
    """What to write instead of a metapath that is too large."""
    role = path.through
    if role is None:
        return "leave it out (layers = 2 follows its steps one after the other), or raise edge_cap"
    if role.hub:
        return f"leave it out: {role.name} is a hub table, so nodes with a common hub are neighbours already"
    end, hub = (role.source, role.target) if path.source == role.source.node else (role.target, role.source)
    return f"give it as a hub: {path.name} AS (SELECT {end.column} AS source, {hub.column} AS hub FROM …)"
