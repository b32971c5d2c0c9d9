"""Graphs with several node types, their splits and metrics."""

from __future__ import annotations

import numpy as np
import pytest

from graphlearn.errors import InputError
from graphlearn.models.hetero.graph import Features, HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.metrics import cluster_sample, f1_scores, k_means, one_hot
from graphlearn.models.hetero.splits import random_split


def test_metrics_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    a, b = rng.integers(5, size=80), rng.integers(4, size=80)
    found = f1_scores(one_hot(a, 5), one_hot(b, 5))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(a, b, average="macro"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(a, b, average="micro"))
    many, more = rng.random((80, 5)) < 0.3, rng.random((80, 5)) < 0.3
    found = f1_scores(many, more)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(many, more, average="macro"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(many, more, average="micro"))
    assert cluster_sample(a, b).metrics()["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(a, b))
    assert cluster_sample(a, b).metrics()["ari"] == pytest.approx(metrics.adjusted_rand_score(a, b))


def test_metrics_at_their_extremes() -> None:
    a = np.array([0, 0, 1, 1, 2])
    assert cluster_sample(a, (a + 1) % 3).metrics()["nmi"] == pytest.approx(1)
    assert cluster_sample(a, (a + 1) % 3).metrics()["ari"] == pytest.approx(1)
    assert cluster_sample(a, np.zeros(5, np.int64)).metrics()["ari"] == pytest.approx(0)
    assert f1_scores(one_hot(a, 4), one_hot(a, 4)) == {"macro_f1": 1.0, "micro_f1": 1.0}


def test_k_means_finds_clusters() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(4), 30)
    x = (10 * np.eye(4)[truth] + rng.normal(size=(120, 4))).astype(np.float32)
    assert cluster_sample(truth, k_means(x, 4, 0)).metrics()["ari"] == pytest.approx(1)
    assert (k_means(x, 4, 0) == k_means(x, 4, 0)).all()
    assert len(k_means(x[:2], 4, 0)) == 2


def test_random_split_is_stratified() -> None:
    labels = np.repeat([0, 1], [40, 10])
    split = random_split(50, (0.6, 0.2, 0.2), 0, labels)
    assert [[int((split[labels == c] == p).sum()) for p in range(3)] for c in (0, 1)] == [[24, 8, 8], [6, 2, 2]]
    assert (split == random_split(50, (0.6, 0.2, 0.2), 0, labels)).all()
    known = labels == 0
    assert (random_split(50, (0.6, 0.2, 0.2), 0, labels, known)[~known] == -1).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Features(np.array([[np.nan]], np.float32)), "not finite"),
        (Features, "a dense or a sparse part"),
        (lambda: Features(None, np.array([0, 1]), np.array([5]), None, 5), "0 .. 4"),
        (lambda: NodeType("a", 3, Features(np.zeros((2, 1), np.float32))), "3 nodes"),
        (lambda: Relation("r", "a", "b", np.arange(2), np.arange(3)), "differ in length"),
        (lambda: Relation("r", "a", "b", np.arange(2), np.arange(2), None, 4), "joins nodes of one type"),
        (lambda: Relation("r", "a", "b", np.arange(1), np.arange(1), np.array([-1], np.float32)), "weights of r"),
        (lambda: HeteroGraph((NodeType("a", 3), NodeType("a", 3)), ()), "called a"),
        (
            lambda: HeteroGraph((NodeType("a", 3),), (Relation("r", "a", "b", np.arange(2), np.arange(2)),)),
            "not a node type",
        ),
        (lambda: HeteroGraph((NodeType("a", 1),), (Relation("r", "a", "a", np.arange(2), np.arange(2)),)), "0 .. 0"),
    ],
)
def test_bad_graphs_are_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=words):
        make()


def test_paths_of_a_hub_relation() -> None:
    relation = Relation("r", "a", "a", np.arange(6), np.array([0, 0, 0, 0, 1, 1]), None, 3)
    assert relation.paths == 16 + 4
    assert len(relation) == 6
