"""Small graphs with several node types for the tests of DHAN."""

from __future__ import annotations

import numpy as np

from graphlearn.models.hetero.graph import Features, HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.splits import random_split
from graphlearn.models.hetero.tasks import Classification


def sparse_features(rng: np.random.Generator, count: int, width: int, each: int = 4) -> Features:
    """`each` ones in every row."""
    rows = [np.sort(rng.choice(width, size=each, replace=False)) for _ in range(count)]
    return Features(None, np.arange(count + 1) * each, np.concatenate(rows), None, width)


def small_graph(seed: int = 0, papers: int = 24, authors: int = 15) -> HeteroGraph:
    """Papers and authors; cites (directed), an empty relation, topics (hubs), writes (weighted)."""
    rng = np.random.default_rng(seed)

    def edges(a: int, b: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        code = rng.choice(a * b, size=n, replace=False)
        return code // b, code % b

    cites, writes, about = edges(papers, papers, 40), edges(authors - 1, papers - 2, 50), edges(papers - 3, 5, 30)
    none = np.zeros(0, np.int64)
    return HeteroGraph(
        (
            NodeType("paper", papers, sparse_features(rng, papers, 20)),
            NodeType("author", authors, Features(rng.normal(size=(authors, 6)).astype(np.float32))),
        ),
        (
            Relation("cites", "paper", "paper", *cites),
            Relation("reviews", "author", "paper", none, none),
            Relation("topic", "paper", "paper", *about, None, 5),
            Relation("writes", "author", "paper", *writes, rng.uniform(0.5, 2, 50).astype(np.float32)),
        ),
    )


def small_task(graph: HeteroGraph, seed: int = 0) -> Classification:
    """Three random classes of papers."""
    n = graph.node("paper").count
    labels = np.random.default_rng([seed, 1]).integers(3, size=n)
    labels[:3] = [0, 1, 2]
    return Classification("paper", labels, random_split(n, (0.6, 0.2, 0.2), seed, labels), 3)


def blocks_graph(seed: int = 0, count: int = 300, classes: int = 3) -> tuple[HeteroGraph, Classification]:
    """Nodes with hubs and friends of their own class, and words that carry little information."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    word = np.where(rng.random((count, 3)) < 0.25, labels[:, None] * 10, rng.integers(classes, size=(count, 3)) * 10)
    word = np.sort(word + rng.integers(10, size=(count, 3)), axis=1)
    hubs = np.where(rng.random((count, 2)) < 0.8, labels[:, None], rng.integers(classes, size=(count, 2)))
    hubs = hubs * 20 + rng.integers(20, size=(count, 2))
    src = rng.integers(count, size=8 * count)
    dst = rng.integers(count, size=8 * count)
    kept = (labels[src] == labels[dst]) | (rng.random(len(src)) < 0.1)
    features = Features(None, np.arange(count + 1) * 3, word.ravel(), None, classes * 10)
    graph = HeteroGraph(
        (NodeType("node", count, features),),
        (
            Relation("shares", "node", "node", np.repeat(np.arange(count), 2), hubs.ravel(), None, classes * 20),
            Relation("friend", "node", "node", src[kept], dst[kept]),
        ),
    )
    return graph, Classification("node", labels, random_split(count, (0.2, 0.3, 0.5), seed, labels), classes)
