"""Training of DHAN: every option, exact resumption, sampling, tasks, baselines and explanations."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from cases.hetero import blocks_graph, small_graph, small_task

from graphlearn.errors import InputError, OptionError
from graphlearn.models.core.fit import fit, train_epoch
from graphlearn.models.dhan.baselines import baselines
from graphlearn.models.dhan.explain import explain
from graphlearn.models.dhan.graph.sampler import Sampler
from graphlearn.models.dhan.linear import fit as linear_fit
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.embeddings import EmbeddingTraining
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.dhan.training.make import make_training
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.splits import random_split
from graphlearn.models.hetero.tasks import LinkRanking, MultiLabel, Task, Unsupervised
from graphlearn.types import Split

SMALL = {"hidden": 8, "heads": 2, "epochs": 3, "device": "cpu", "linear": False}
CHANGES = {
    "variant": "paper",
    "hidden": 16,
    "heads": 4,
    "layers": 2,
    "attention": "linear",
    "mask": False,
    "reverse": False,
    "fusion": "gate",
    "jumping": False,
    "hops": 1,
    "restart": 0.2,
    "linear": True,
    "hop_labels": False,
    "weighting": "mean",
    "input_dropout": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "fanout": (2, 2),
    "learning_rate": 0.1,
    "weight_decay": 0.9,
    "knn": 3,
    "ema": 0.0,
    "seed": 1,
}
ELSEWHERE = {
    "batch_size",  # test_sampled_batches
    "negatives",  # test_links
    "candidates",
    "epochs",  # the loop's
    "evaluate_every",
    "patience",
    "checkpoint_seconds",
    "baselines",
    "baseline_share",
    "device",
    "threads",
}


def trained(options: DhanOptions, epochs: int = 2) -> ClassTraining:
    graph = small_graph()
    training = ClassTraining(graph, small_task(graph), options)
    for epoch in range(epochs):
        train_epoch(training, epoch)
    return training


def test_every_option_is_tested() -> None:
    assert set(CHANGES) | ELSEWHERE == {f.name for f in fields(DhanOptions)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_changes_something(name: str) -> None:
    given = SMALL | {name: CHANGES[name]}
    if name == "variant":
        del given["heads"]
    nodes = np.arange(24)
    before = trained(DhanOptions(**SMALL)).probabilities(nodes)
    after = trained(DhanOptions(**given)).probabilities(nodes)
    assert np.abs(before - after).max() > 1e-6


@pytest.mark.parametrize("fusion", ["sequential", "concat", "gate"])
@pytest.mark.parametrize("attention", ["linear", "gat", "gatv2"])
def test_forms_differ_and_learn(fusion: str, attention: str) -> None:
    given = {"fusion": fusion, "attention": attention, "dropout": 0.0, "input_dropout": 0.0, "learning_rate": 0.02}
    training = trained(DhanOptions(**SMALL | given), epochs=0)
    losses = [train_epoch(training, epoch) for epoch in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def task_of(kind: str, graph: HeteroGraph) -> Task:
    return {
        "classes": small_task(graph),
        "links": LinkRanking("writes", random_split(50, (0.6, 0.2, 0.2), 0)),
        "embeddings": Unsupervised("paper", small_task(graph).labels),
    }[kind]


@pytest.mark.parametrize("sampling", [{}, {"fanout": (2, 2), "batch_size": 8}], ids=["whole", "sampled"])
@pytest.mark.parametrize("kind", ["classes", "links", "embeddings"])
def test_a_resumed_training_continues_bit_for_bit(kind: str, sampling: dict[str, Any]) -> None:
    graph = small_graph()
    options, task = DhanOptions(**SMALL, **sampling), task_of(kind, graph)
    whole = make_training(graph, task, options)
    train_epoch(whole, 0)
    again = make_training(graph, task, options, whole.state())
    assert [whole.step(1, i) for i in range(whole.steps_per_epoch)] == [
        again.step(1, i) for i in range(again.steps_per_epoch)
    ]
    assert whole.score() == again.score()
    served = make_training(graph, task, options, whole.weights())
    assert (served.embeddings("paper") == whole.embeddings("paper")).all()
    assert served.evaluate(Split.TEST) == whole.evaluate(Split.TEST)


@pytest.mark.parametrize("sampling", [{}, {"fanout": (2, 2), "batch_size": 8}], ids=["whole", "sampled"])
@pytest.mark.parametrize("kind", ["classes", "links", "embeddings"])
def test_a_pickled_training_continues_bit_for_bit(
    kind: str, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_fit, "TRIES", 1)
    graph = small_graph()
    options = DhanOptions(**SMALL | (sampling or {"linear": True}))
    training = make_training(graph, task_of(kind, graph), options)
    copy = pickle.loads(pickle.dumps(training))
    steps = range(training.steps_per_epoch)
    assert [training.step(0, k) for k in steps] == [copy.step(0, k) for k in steps]
    assert training.score() == copy.score()
    later = pickle.loads(pickle.dumps(training))
    assert training.step(1, 0) == copy.step(1, 0) == later.step(1, 0)
    assert training.evaluate(Split.VALID) == later.evaluate(Split.VALID)
    assert (training.embeddings("paper") == later.embeddings("paper")).all()


def test_only_labels_of_the_train_split_are_used() -> None:
    graph = small_graph()
    task = small_task(graph)
    hidden = np.where(task.split == 0, task.labels, (task.labels + 1) % 3)
    options = DhanOptions(**SMALL)
    a, b = ClassTraining(graph, task, options), ClassTraining(graph, replace(task, labels=hidden), options)
    torch.testing.assert_close(a.shown, b.shown)
    assert a.shown.abs().max() > 0


def test_label_channels_do_not_leak_a_nodes_own_label() -> None:
    graph = small_graph()
    task = small_task(graph)
    shown = ClassTraining(graph, task, DhanOptions(**SMALL)).shown
    for node in np.flatnonzero(task.split == 0):
        labels = task.labels.copy()
        labels[node] = (labels[node] + 1) % 3
        other = ClassTraining(graph, replace(task, labels=labels), DhanOptions(**SMALL)).shown
        torch.testing.assert_close(other[node], shown[node])


def test_the_whole_neighbourhood_gives_the_states_of_the_whole_graph() -> None:
    options = DhanOptions(**SMALL)
    graph = small_graph()
    whole = ClassTraining(graph, small_task(graph), options)
    parts = ClassTraining(graph, small_task(graph), replace(options, fanout=(99,) * 4, batch_size=5))
    parts.load(whole.weights())
    nodes = np.array([7, 3, 3, 20, 11, 0, 1])
    np.testing.assert_allclose(whole.embeddings("paper", nodes), parts.embeddings("paper", nodes), atol=1e-5)


def test_sampled_batches() -> None:
    graph = small_graph()
    training = ClassTraining(graph, small_task(graph), DhanOptions(**SMALL, fanout=(2,), batch_size=5))
    assert training.steps_per_epoch == -(-len(training.train) // 5)
    sampler = training.sampler
    assert isinstance(sampler, Sampler)
    seeds = {"paper": np.array([1, 4, 9])}
    nodes, edges = sampler.sample(seeds, (2,), np.random.default_rng(0))
    again, same = sampler.sample(seeds, (2,), np.random.default_rng(0))
    assert nodes["paper"][:3].tolist() == [1, 4, 9]
    for t, ids in nodes.items():
        assert (ids == again[t]).all()
        assert len(np.unique(ids)) == len(ids)
    for c, a in edges.items():
        assert (a.edge == same[c].edge).all()
        relation = training.graph.relation(c.relation)
        if not c.hub:
            assert np.bincount(a.dst, minlength=1).max() <= 2
            src, dst = (relation.dst, relation.src) if c.back else (relation.src, relation.dst)
            assert (nodes[c.source][a.src] == src[a.edge]).all()
            assert (nodes[c.target][a.dst] == dst[a.edge]).all()


def test_multi_label() -> None:
    graph, single = blocks_graph()
    labels = np.eye(3, dtype=bool)[single.labels]
    labels[:, 2] |= labels[:, 0]
    task = MultiLabel("node", labels, single.split)
    training = make_training(graph, task, DhanOptions(hidden=16, heads=2, epochs=60, device="cpu"))
    fit(training)
    found = baselines(graph, task, training.options)
    assert training.evaluate(Split.TEST)["macro_f1"] > found["majority"][Split.TEST].figures["macro_f1"] + 0.2


def test_the_graph_beats_the_mlp_which_beats_the_majority() -> None:
    graph, task = blocks_graph()
    training = make_training(graph, task, DhanOptions(hidden=16, heads=2, epochs=60, device="cpu"))
    fit(training)
    found = baselines(graph, task, training.options)
    ours, mlp, majority = (
        f["macro_f1"]
        for f in (
            training.evaluate(Split.TEST),
            found["MLP"][Split.TEST].figures,
            found["majority"][Split.TEST].figures,
        )
    )
    assert ours > mlp + 0.1 > majority + 0.2
    assert training.evaluate(Split.TEST)["nodes"] == (task.split == 2).sum()


@pytest.mark.parametrize("sampling", [{}, {"fanout": (10, 10, 10), "batch_size": 200}], ids=["whole", "sampled"])
def test_links(sampling: dict[str, Any]) -> None:
    graph, _ = blocks_graph()
    split = random_split(len(graph.relation("friend")), (0.8, 0.1, 0.1), 0)
    task = LinkRanking("friend", split)
    options = DhanOptions(hidden=16, heads=2, epochs=25, negatives=50, learning_rate=0.02, device="cpu", **sampling)
    training = make_training(graph, task, options)
    assert isinstance(training, LinkTraining)
    kept = training.edges[training.channels[1]].edge
    assert (split[kept] == 0).all()
    for epoch in range(options.epochs):
        train_epoch(training, epoch)
    figures = training.evaluate(Split.TEST)
    assert figures["auc"] > 0.6
    assert figures["auc"] > baselines(graph, task, options)["degree"][Split.TEST].figures["auc"]
    nodes = np.array([3, 0])
    targets, scores = training.predict(nodes, k=4)
    assert targets.shape == scores.shape == (2, 4)
    r = graph.relation("friend")
    assert not set(targets[0]) & ({3} | set(r.dst[r.src == 3]))
    np.testing.assert_allclose(
        training.pair_scores(nodes.repeat(4), targets.ravel()), scores.ravel(), rtol=1e-4, atol=1e-4
    )
    few = make_training(graph, task, replace(options, candidates=20), training.weights())
    assert few.evaluate(Split.TEST)["mrr"] > figures["mrr"]
    assert "20 random node" in few.protocol


def test_embeddings() -> None:
    graph, task = blocks_graph()
    options = DhanOptions(hidden=16, heads=2, epochs=25, device="cpu", negatives=50, learning_rate=0.02)
    training = make_training(graph, Unsupervised("node", task.labels), options)
    assert isinstance(training, EmbeddingTraining)
    fit(training)
    figures = training.evaluate(Split.TEST)
    assert figures["auc"] > 0.6
    assert figures["nmi"] > 0.2
    assert training.embeddings("node").shape == (300, 16)


@pytest.mark.parametrize("fanout", [(), (50, 50)])
@pytest.mark.parametrize("fusion", ["sequential", "gate"])
def test_explanations_add_up(fanout: tuple[int, ...], fusion: str) -> None:
    graph = small_graph()
    training = ClassTraining(graph, small_task(graph), DhanOptions(**SMALL, fanout=fanout, fusion=fusion))
    train_epoch(training, 0)
    rows = explain(training, "paper", np.array([1, 5]), top=100)
    for node in (1, 5):
        own = [r for r in rows if r.node == node]
        assert sum(r.weight for r in own if r.kind == "relation") == pytest.approx(1, abs=1e-4)
        for relation in {(r.relation, r.back) for r in own if r.kind == "neighbour"}:
            shares = [r.weight for r in own if r.kind == "neighbour" and (r.relation, r.back) == relation]
            assert sum(shares) == pytest.approx(1, abs=1e-4)
        writers = {r.neighbour for r in own if r.kind == "neighbour" and r.relation == "writes"}
        writes = graph.relation("writes")
        assert writers == set(writes.src[writes.dst == node].tolist())
        hubs = graph.relation("topic")
        shared = set(hubs.src[np.isin(hubs.dst, hubs.dst[hubs.src == node])].tolist())
        assert {r.neighbour for r in own if r.kind == "neighbour" and r.relation == "topic"} == shared


def test_what_cannot_be_learnt_is_refused() -> None:
    graph = small_graph()
    task = small_task(graph)
    for bad, words in (
        (replace(task, labels=np.zeros(24, np.int64)), "only one class"),
        (replace(task, split=np.where(task.split == 2, -1, task.split)), "test split"),
        (replace(task, type="film"), "no node type film"),
        (LinkRanking("topic", np.zeros(30, np.int8)), "hub table"),
    ):
        with pytest.raises(InputError, match=words):
            make_training(graph, bad, DhanOptions(**SMALL))
    with pytest.raises(InputError, match="no edges"):
        make_training(HeteroGraph((NodeType("a", 3),), ()), Unsupervised(), DhanOptions(**SMALL))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"hidden": 10, "heads": 4}, "hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"hops": 2**63 - 1}, "hops"),
        ({"layers": 101}, "layers"),
        ({"fanout": (0,)}, "fanout"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"variant": "paper", "attention": "gatv2"}, "attention"),
        ({"restart": float("nan")}, "restart"),
    ],
)
def test_options_are_checked(given: dict, key: str) -> None:
    with pytest.raises(OptionError) as caught:
        DhanOptions(**given)
    assert caught.value.key == key


def test_a_type_without_edges_or_features() -> None:
    graph = HeteroGraph(
        (NodeType("a", 8), NodeType("lonely", 3)), (Relation("r", "a", "a", np.arange(7), np.arange(1, 8)),)
    )
    task = small_task(HeteroGraph((NodeType("paper", 8),), ()))
    training = make_training(graph, replace(task, type="a"), DhanOptions(**SMALL))
    train_epoch(training, 0)
    assert training.embeddings("lonely").shape == (3, 8)
    alone = make_training(
        graph, replace(task, type="lonely", labels=np.array([0, 1, 0]), split=np.array([0, 0, 2])), DhanOptions(**SMALL)
    )
    train_epoch(alone, 0)
    assert alone.evaluate(Split.TEST)["nodes"] == 1
