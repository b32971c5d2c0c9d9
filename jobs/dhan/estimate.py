"""What preparing, training and evaluating DHAN will cost.

The constants were measured on the reference machine (`benchmarks/estimates.py`).
"""

from __future__ import annotations

from graphlearn.jobs.dataflow import Estimate
from graphlearn.jobs.dhan.options import DhanJobOptions
from graphlearn.jobs.dhan.sizes import edge_flops, flops, reached
from graphlearn.jobs.train import expected_epochs
from graphlearn.models.hetero.comparisons import COMPARISONS, comparisons
from graphlearn.storage.hetero.sizes import EdgeSize, GraphSizes, NodeSize
from graphlearn.storage.hetero.target import Target

IMPORTS = 1.2
"""Seconds to import what torch's optimisers need, once per process."""
STEP = 0.04
"""Seconds of an optimiser step, apart from its arithmetic."""
SHARE, EDGE_SHARE = 0.5, 0.025
"""Speed of matrix products and of sums over edges, as a share of that of a large matrix product."""
MEAN_SHARE, KNN_SHARE = 0.03, 0.06
"""The same for averages of features over edges, and for comparisons of nodes."""
SAMPLED_NODE = 6e-6
"""Seconds per node that sampling reaches."""
FORWARD = 0.5
"""An evaluation of the whole graph, as a share of an optimiser step."""
SCORE = 4e-8
"""Seconds to score a candidate of a held-out link and to rank it."""

MLP_STEPS, MLP_STEP = 240, 0.02
"""Optimiser steps of the MLPs among the baselines, four settings until they converge, and seconds of each."""
BASELINES = 2.0
"""Seconds of the other baselines of a small graph."""


def step(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> Estimate:
    """An optimiser step."""
    if options.fanout:
        return Estimate(seconds=STEP + reached(sizes, options) * SAMPLED_NODE, flops=flops(sizes, options))
    knn = edge_flops(_knn(sizes, options, target), options)
    edges = knn + sum(edge_flops(edge, options) for edge in sizes.edges.values())
    whole = flops(sizes, options) + knn
    return Estimate(seconds=STEP, flops=whole, gemm=(whole - edges) / SHARE + edges / EDGE_SHARE)


def steps(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> int:
    """Optimiser steps of an epoch."""
    if options.fanout:
        items = sizes.edges[target.edges].edges if target.edges else _rows(sizes, target)
        return max(1, items // options.batch_size)
    if target.node is not None and options.target is not None:
        return 1
    from graphlearn.models.dhan.training.pairs import CHUNKS

    return CHUNKS


def evaluation(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> Estimate:
    """Predictions for a held-out split, and its metrics."""
    whole = step(sizes, options, target) * FORWARD
    if target.edges is None:
        return whole
    edge = sizes.edges[target.edges]
    held = edge.edges * options.split[1]
    return whole + Estimate(seconds=held * (options.candidates or sizes.nodes[edge.target].rows) * SCORE)


def training(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> Estimate:
    """The whole training, with its evaluations on the validation split."""
    epochs = expected_epochs(options)
    evaluations = -(-epochs // options.evaluate_every) if options.evaluate_every else 1
    each = step(sizes, options, target) * (epochs * steps(sizes, options, target))
    return each + evaluation(sizes, options, target) * evaluations


def baselines(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> Estimate:
    """MLPs on features, and features or links propagated over edges."""
    wide = sum(6.0 * (node.rows * node.dense + node.ones) * options.hidden for node in sizes.nodes.values())
    edges = sum(edge.edges for edge in sizes.edges.values())
    propagated = _linear(sizes, options, target, _knn(sizes, options, target)) if target.node else 0.0
    work = MLP_STEPS * wide / SHARE + propagated / MEAN_SHARE
    return Estimate(seconds=BASELINES + MLP_STEPS * MLP_STEP + 1e-5 * edges, gemm=work)


def preparation(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> Estimate:
    """Features, the knn relation, and the linear model with its search for the weights of relations."""
    found = Estimate(seconds=IMPORTS + 3e-8 * sizes.bytes)
    if target.node is None or options.target is None:
        return found
    node = sizes.nodes[target.node]
    knn = _knn(sizes, options, target)
    if knn.edges:
        found += Estimate(gemm=comparisons(node.rows, node.dense, node.ones) / KNN_SHARE)
    return found + Estimate(gemm=_linear(sizes, options, target, knn) / MEAN_SHARE)


def _linear(sizes: GraphSizes, options: DhanJobOptions, target: Target, knn: EdgeSize) -> float:
    """Multiplications to fit the linear model; see models/dhan/linear/fit.py."""
    if not options.linear or options.fanout:
        return 0.0
    from graphlearn.models.dhan.linear.fit import AFFORDABLE, SEARCH, SKETCH, TRIES
    from graphlearn.models.dhan.linear.model import ROUNDS

    edges = 2 * sum(edge.edges for edge in sizes.edges.values()) + knn.edges
    width = sum(node.dense + node.sparse for node in sizes.nodes.values())
    once = ROUNDS * edges * width
    if once > AFFORDABLE:
        return 0.0
    tried = ROUNDS * edges * min(width, SKETCH)
    # every relation of the target is weighted up and down, in about two rounds
    moves = 4 * (1 + sum(target.node in (edge.source, edge.target) for edge in sizes.edges.values()))
    return once + tried * min(TRIES, moves, SEARCH // max(1, tried))


def _knn(sizes: GraphSizes, options: DhanJobOptions, target: Target) -> EdgeSize:
    """The relation between similar nodes, with no edges if there is none."""
    node = sizes.nodes.get(target.node or "", NodeSize())
    wanted = options.target is not None and node.dense + node.sparse > 0
    affordable = comparisons(node.rows, node.dense, node.ones) <= COMPARISONS
    # pairs are in the relation if either is near the other, which adds about half
    return EdgeSize("", "", "", int(1.5 * options.knn * node.rows) if wanted and affordable else 0)


def _rows(sizes: GraphSizes, target: Target) -> int:
    return sizes.nodes[target.node].rows if target.node else max(node.rows for node in sizes.nodes.values())
