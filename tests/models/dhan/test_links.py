"""Link ranking: excluded candidates, and the number of candidates that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.splits import random_split
from graphlearn.models.hetero.tasks import LinkRanking
from graphlearn.types import Split

SOURCES = 30


def training(*, same: bool, candidates: int = 0) -> LinkTraining:
    rng = np.random.default_rng(0)
    targets = SOURCES if same else 20
    src, dst = np.unique(np.stack([rng.integers(0, SOURCES, 200), rng.integers(0, targets, 200)]), axis=1)
    nodes = (NodeType("a", SOURCES), NodeType("b", targets))[: 1 if same else 2]
    graph = HeteroGraph(nodes, (Relation("to", "a", "a" if same else "b", src, dst),))
    task = LinkRanking("to", random_split(len(src), (0.6, 0.2, 0.2), 0))
    return LinkTraining(graph, task, DhanOptions(hidden=4, heads=1, device="cpu", candidates=candidates))


@pytest.mark.parametrize("same", [False, True])
def test_figures_equal_a_plain_loop(same: bool) -> None:
    links = training(same=same)
    r = links.relation
    scores = np.random.default_rng(1).integers(0, 5, (SOURCES, links.targets)).astype(np.float32)
    ranks, below = [], []
    for e in links.queries.measured(Split.TEST):
        v, own = int(r.src[e]), int(r.dst[e])
        facts = set(r.dst[r.src == v].tolist()) | ({v} if same else set())
        others = [t for t in range(links.targets) if t not in facts]
        above = sum(scores[v, t] > scores[v, own] for t in others)
        rank = 1 + above + sum(scores[v, t] == scores[v, own] for t in others) / 2
        ranks.append(rank)
        below.append(1 - (rank - 1) / len(others))
    got = links.queries.rank(links.queries.measured(Split.TEST), lambda nodes: scores[nodes]).figures()
    assert got["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert got["auc"] == pytest.approx(np.mean(below))
    assert got["hits_at_1"] == pytest.approx(np.mean(np.array(ranks) <= 1))
    assert got["edges"] == len(ranks)


def test_each_edge_is_ranked_against_the_drawn_candidates() -> None:
    """With equal scores, every rank is the middle of the candidates."""
    links = training(same=True, candidates=6)
    equal = np.zeros((SOURCES, links.targets), np.float32)
    ranked = links.queries.rank(links.queries.measured(Split.TEST), lambda nodes: equal[nodes])
    assert ranked.figures()["mrr"] == pytest.approx(1 / (1 + 6 / 2))


@pytest.mark.parametrize("same", [False, True])
def test_predictions_leave_out_training_facts_and_never_held_out_ones(same: bool) -> None:
    links = training(same=same)
    r = links.relation
    nodes = np.arange(SOURCES)
    found, scores = links.predict(nodes, k=links.targets)
    for v in nodes:
        facts = set(r.dst[(r.src == v) & (links.split == 0)].tolist()) | ({int(v)} if same else set())
        assert set(found[v][found[v] >= 0].tolist()) == set(range(links.targets)) - facts
        assert np.isneginf(scores[v][found[v] < 0]).all()
