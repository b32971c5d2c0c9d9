"""Baselines on graphs, compared with dense matrices, and what they leave out when there is little time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cases.hetero import blocks_graph, small_graph, small_task
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.models.dhan.baselines import baselines
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.baselines.allowance import Allowance
from graphlearn.models.hetero.baselines.neighbours import ItemNeighbours
from graphlearn.models.hetero.baselines.propagated import label_propagation, regression
from graphlearn.models.hetero.baselines.ranking import LEAST, PILOT, Popularity, measure_all
from graphlearn.models.hetero.baselines.transitions import Direction, Transitions
from graphlearn.models.hetero.baselines.walk import STEPS, RandomWalk
from graphlearn.models.hetero.classes import ClassQueries
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.links import LinkQueries
from graphlearn.models.hetero.splits import random_split
from graphlearn.models.hetero.tasks import LinkRanking
from graphlearn.types import FloatArray, Split

OPTIONS = DhanOptions(hidden=8, heads=2, device="cpu")


def links_graph(seed: int, *, same: bool) -> tuple[HeteroGraph, LinkRanking]:
    """Links with weights (some 0) that repeat, and a hub relation."""
    rng = np.random.default_rng(seed)
    sources, targets, n = 12, 12 if same else 9, 40
    src, dst = rng.integers(sources, size=n), rng.integers(targets, size=n)
    weight = rng.integers(0, 3, n).astype(np.float32)
    nodes = (NodeType("a", sources), NodeType("b", targets))[: 1 if same else 2]
    hubs = Relation("shares", "a", "a", rng.integers(sources, size=15), rng.integers(4, size=15), None, 4)
    graph = HeteroGraph(nodes, (Relation("to", "a", "a" if same else "b", src, dst, weight), hubs))
    return graph, LinkRanking("to", random_split(n, (0.6, 0.2, 0.2), seed))


def matrix_of(graph: HeteroGraph, task: LinkRanking) -> FloatArray:
    """The weights of the links that may be used."""
    r = graph.relation("to")
    counts = {node.name: node.count for node in graph.nodes}
    out = np.zeros((counts["a"], counts[r.target]), np.float32)
    given = np.asarray(task.split) <= 0
    assert r.weight is not None
    np.add.at(out, (r.src[given], r.dst[given]), r.weight[given])
    return out


def same_order(found: FloatArray, wanted: FloatArray, degree: FloatArray) -> None:
    """Rows are in the order of what was wanted; equal scores are in the order of the degree."""
    for row, oracle in zip(found, wanted, strict=True):
        assert row.argmax() in np.flatnonzero(oracle >= oracle.max() - 1e-4 * max(1e-9, oracle.max()))
        top = max(oracle.max(), 1e-30)
        np.testing.assert_allclose(row, oracle / top, atol=1e-4)
    assert (np.diff(found[wanted.max(1) == 0][:, np.argsort(degree)]) >= 0).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 500), st.booleans(), st.sampled_from([0.0, 20.0]), st.sampled_from([200, 20]))
def test_item_neighbours_are_those_of_dense_matrices(seed: int, same: bool, shrinkage: float, kept: int) -> None:
    graph, task = links_graph(seed, same=same)
    queries = LinkQueries.of(graph, task, 0, 0)
    links = (matrix_of(graph, task) > 0).astype(np.float64)
    count = links.sum(0)
    common = links.T @ links
    cosine = common / np.maximum(np.sqrt(np.outer(count, count)) + shrinkage, 1e-12)
    np.fill_diagonal(cosine, 0)
    liked = links + np.eye(len(links)) if same else links
    sources = np.arange(len(links))
    (found,) = ItemNeighbours(queries, Allowance()).scores(sources, [(shrinkage, kept)])
    same_order(found, liked @ cosine, count)


def test_only_the_most_similar_targets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphlearn.models.hetero.baselines.neighbours.KEPT", (3, 2))
    monkeypatch.setattr("graphlearn.models.hetero.baselines.neighbours.CELLS", 20)  # several blocks
    graph, task = links_graph(1, same=False)
    links = (matrix_of(graph, task) > 0).astype(np.float64)
    count = links.sum(0)
    cosine = links.T @ links / np.maximum(np.sqrt(np.outer(count, count)), 1e-12)
    np.fill_diagonal(cosine, 0)
    for kept in (2, 3):
        least = -np.sort(-cosine, axis=1)[:, kept - 1 : kept]
        wanted = links @ np.where(cosine >= least, cosine, 0)
        method = ItemNeighbours(LinkQueries.of(graph, task, 0, 0), Allowance())
        (found,) = method.scores(np.arange(12), [(0.0, kept)])
        same_order(found, wanted, count)


def transition_matrix(graph: HeteroGraph, task: LinkRanking, *, wide: bool, same: bool) -> FloatArray:
    """Of all nodes, then hubs: each relation and direction that a node has with the same probability."""
    links = matrix_of(graph, task)
    sources, targets = links.shape
    nodes = sources if same else sources + targets
    size, first = nodes + 4, 0 if same else sources
    forward, hub = np.zeros((size, size)), np.zeros((size, size))
    forward[:sources, first : first + targets] = links
    r = graph.relation("shares")
    np.add.at(hub, (r.src, nodes + r.dst), 1)
    parts = [forward, forward.T, *([hub, hub.T] if wide else [])]
    mixed = sum(p / np.maximum(p.sum(1, keepdims=True), 1e-12) for p in parts)
    return np.asarray(mixed / np.maximum(mixed.sum(1, keepdims=True), 1e-12))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 500), st.booleans(), st.booleans(), st.sampled_from([0.2, 0.6]), st.sampled_from([0.0, 0.6]))
def test_walks_are_powers_of_a_dense_matrix(seed: int, same: bool, wide: bool, restart: float, power: float) -> None:
    graph, task = links_graph(seed, same=same)
    queries = LinkQueries.of(graph, task, 0, 0)
    step = transition_matrix(graph, task, wide=wide, same=same)
    first = 0 if same else 12
    at = np.eye(len(step))[:12]
    total = np.zeros((12, queries.targets))
    for k in range(STEPS):
        at = at @ step
        total += (1 - restart) ** k * at[:, first : first + queries.targets]
    total /= np.maximum(queries.degree, 1) ** power
    (found,) = RandomWalk(graph, queries).scores(np.arange(12), [(wide, restart, power)])
    same_order(found, total, queries.degree)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200))
def test_steps_are_probabilities_and_their_transpose(seed: int) -> None:
    graph = small_graph(seed)
    walk = Transitions.of(graph)
    size = walk.numbering.size
    dense = walk.mean(torch.eye(size))
    torch.testing.assert_close(walk.push(torch.eye(size)), dense.T)
    sums = dense.sum(1)
    torch.testing.assert_close(sums, (sums > 0.5).float())
    one = Transitions.of(graph, only=[Direction("writes", back=True)]).mean(torch.eye(size))
    writes = graph.relation("writes")
    paper, author = walk.numbering.nodes("paper"), walk.numbering.nodes("author")
    assert {tuple(pair) for pair in one[paper, author].nonzero().tolist()} == set(
        zip(writes.dst.tolist(), writes.src.tolist(), strict=True)
    )


def test_propagated_features_and_labels_find_classes_that_the_mlp_does_not() -> None:
    graph, task = blocks_graph()
    queries = ClassQueries.of(task)
    test = queries.nodes(Split.TEST)
    found = baselines(graph, task, OPTIONS)
    figures = {name: splits[Split.TEST].figures["macro_f1"] for name, splits in found.items()}
    assert set(figures) == {"majority", "label propagation", "propagated features", "MLP"}
    assert figures["propagated features"] > figures["MLP"] + 0.1
    assert figures["label propagation"] > 0.7
    again = regression(graph, "node", queries, "tfidf", Allowance())
    assert again is not None
    assert queries.figures(again[test], test) == dict(found["propagated features"][Split.TEST].figures)
    np.testing.assert_allclose(again[queries.split >= 0].sum(1), 1, atol=1e-5)
    spread = label_propagation(graph, "node", queries)
    np.testing.assert_allclose(spread.sum(1), 1, atol=1e-5)


def test_labels_of_other_splits_are_not_read() -> None:
    graph = small_graph()
    task = small_task(graph)
    hidden = np.where(task.split == Split.TEST.code, (task.labels + 1) % 3, task.labels)
    other = type(task)(task.type, hidden, task.split, 3)
    for method in (
        lambda queries: regression(graph, "paper", queries, "tfidf", Allowance()),
        lambda queries: label_propagation(graph, "paper", queries),
    ):
        np.testing.assert_array_equal(method(ClassQueries.of(task)), method(ClassQueries.of(other)))


class Clock:
    """A budget of so many looks at it."""

    def __init__(self, looks: float) -> None:
        self.looks, self.cuts = looks, list[str]()

    @property
    def left(self) -> float:
        self.looks -= 1
        return max(0.0, self.looks)

    def cut(self, what: str) -> None:
        self.cuts.append(what)


class Counting:
    """A method that counts how often it scores."""

    name, settings = "counting", (1, 2, 3)

    def __init__(self, targets: int) -> None:
        self.targets, self.calls = targets, 0

    def scores(self, sources: np.ndarray, settings: tuple[int, ...]) -> Iterator[FloatArray]:
        self.calls += len(settings)
        for setting in settings:
            yield np.full((len(sources), self.targets), setting, np.float32)


def test_what_does_not_fit_into_the_budget_is_named() -> None:
    graph, task = links_graph(0, same=False)
    queries = LinkQueries.of(graph, task, 0, 0)
    method, clock = Counting(9), Clock(0)
    assert measure_all([method], queries, (Split.VALID, Split.TEST), Allowance(clock)) == {}
    assert "counting was left out" in clock.cuts
    found = measure_all([method], queries, (Split.VALID, Split.TEST), Allowance())
    assert set(found["counting"]) == {Split.VALID, Split.TEST}
    clock = Clock(1)
    found = baselines(graph, task, OPTIONS, allowance=Allowance(clock))
    assert "MLP dot product was left out" in clock.cuts
    assert any(cut.startswith("item neighbours count at most 1 links of each a") for cut in clock.cuts)
    classes = baselines(*blocks_graph(), OPTIONS, allowance=Allowance(clock := Clock(1e-9)))
    assert set(classes) == {"majority", "label propagation", "propagated features"}
    assert "32 random projections of the 30 features were propagated" not in clock.cuts
    assert "MLP was left out" in clock.cuts


def test_baselines_are_trained_to_convergence_whatever_the_models_epochs() -> None:
    graph, task = links_graph(3, same=False)
    few, many = (
        baselines(graph, task, DhanOptions(hidden=8, heads=2, device="cpu", epochs=epochs)) for epochs in (1, 50)
    )
    assert set(few) == {"degree", "item neighbours", "random walk", "MLP dot product"}
    for name, splits in few.items():
        assert splits[Split.TEST].figures == many[name][Split.TEST].figures
    pickle.loads(pickle.dumps(few))


def test_samples_have_the_metrics_that_were_measured() -> None:
    graph, task = links_graph(0, same=False)
    queries = LinkQueries.of(graph, task, 0, 0)
    degree = Popularity(queries)
    measured = queries.rank(queries.measured(Split.TEST), lambda nodes: next(degree.scores(nodes, [None]))).measured()
    assert measured.sample is not None
    assert len(measured.sample.sums) == len(np.unique(graph.relation("to").src[queries.split == Split.TEST.code]))
    assert measured.sample.metrics() == pytest.approx({k: v for k, v in measured.figures.items() if k != "edges"})
    rng = np.random.default_rng(0)
    for labels in (np.eye(4)[rng.integers(3, size=80)], (rng.random((80, 4)) < 0.4).astype(float)):
        single = bool((labels.sum(1) == 1).all())
        classes = ClassQueries(labels.astype(np.float32), np.full(80, 2, np.int8), single)
        found = classes.measured(rng.random((80, 4)).astype(np.float32), np.arange(80))
        assert found.sample is not None
        assert found.sample.metrics() == pytest.approx({k: v for k, v in found.figures.items() if k != "nodes"})
        f1 = [row["f1"] for row in found.by_class if "f1" in row]
        assert np.mean(f1) == pytest.approx(found.figures["macro_f1"])
        assert [row["count"] for row in found.by_class] == labels.sum(0).tolist()


def test_some_links_are_ranked_as_if_all_were() -> None:
    graph, task = links_graph(0, same=False)
    for candidates in (0, 3):
        queries = LinkQueries.of(graph, task, candidates, 0)
        degree, edges = Popularity(queries), queries.measured(Split.TRAIN)
        some = np.sort(np.random.default_rng(1).permutation(edges)[: len(edges) // 3])
        one = queries.rank(some, lambda nodes, degree=degree: next(degree.scores(nodes, [None])), edges)
        whole = queries.rank(edges, lambda nodes, degree=degree: next(degree.scores(nodes, [None])))
        assert np.array_equal(one.ranks, whole.of(some).ranks)
        assert np.array_equal(one.candidates, whole.of(some).candidates)
        assert np.array_equal(one.sources, whole.of(some).sources)


class Seconds:
    """A budget of so many seconds, of which a query of `Slow` takes some."""

    def __init__(self, left: float) -> None:
        self.left, self.cuts = left, list[str]()

    def cut(self, what: str) -> None:
        self.cuts.append(what)


class Slow:
    """A method that takes so many seconds per query."""

    settings = (None,)

    def __init__(self, name: str, budget: Seconds, seconds: float, targets: int) -> None:
        self.name, self.budget, self.seconds, self.targets = name, budget, seconds, targets

    def scores(self, sources: np.ndarray, settings: tuple[None, ...]) -> Iterator[FloatArray]:
        self.budget.left = max(0.0, self.budget.left - len(sources) * self.seconds)
        for _ in settings:
            yield np.zeros((len(sources), self.targets), np.float32)


def test_methods_rank_as_many_links_as_there_is_time_for() -> None:
    rng = np.random.default_rng(0)
    nodes = (NodeType("a", 60), NodeType("b", 40))
    pairs = rng.permutation(60 * 40)[:1500]
    graph = HeteroGraph(nodes, (Relation("r", "a", "b", pairs // 40, pairs % 40),))
    split = np.where(np.arange(1500) < 500, Split.TRAIN.code, Split.TEST.code).astype(np.int8)
    queries = LinkQueries.of(graph, LinkRanking("r", split), 0, 0)
    budget = Seconds(1000)
    quick, slow = (Slow(name, budget, cost, 40) for name, cost in (("quick", 1.0), ("slow", 2.0)))
    found = measure_all([quick, slow], queries, (Split.VALID, Split.TEST), Allowance(budget))
    ranked = [len(by[Split.TEST].edges) for by in found.values()]
    assert ranked == [int((1000 - 3 * PILOT) * 0.8 / 3)] * 2
    assert ranked[0] >= LEAST
    assert np.array_equal(*(by[Split.TEST].edges for by in found.values()))
    assert budget.cuts == [f"baselines ranked {ranked[0]} of 1,000 test links"]
    assert budget.left > 0
    budget.left, slow.seconds = 1000, 20.0
    assert list(measure_all([quick, slow], queries, (Split.TEST,), Allowance(budget))) == ["quick"]
    assert "slow was left out" in budget.cuts
