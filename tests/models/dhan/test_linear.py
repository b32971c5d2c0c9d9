"""The linear part of DHAN's classifiers, and the relation of similar nodes, its most important input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases.hetero import blocks_graph, small_graph, small_task
from hypothesis import given
from hypothesis import strategies as st

from graphlearn.models.core.fit import train_epoch
from graphlearn.models.dhan.explain import explain
from graphlearn.models.dhan.linear import fit as linear_fit
from graphlearn.models.dhan.linear.model import averaged_rows, features_of, sketched
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.hetero import knn as hetero_knn
from graphlearn.models.hetero.graph import Features, HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.knn import nearest, with_knn
from graphlearn.models.hetero.regression import cross_entropy, regress
from graphlearn.types import Split

CPU = torch.device("cpu")
OPTIONS = DhanOptions(hidden=8, heads=2, epochs=3, device="cpu")


@given(st.integers(0, 1000), st.integers(1, 5), st.booleans(), st.booleans())
def test_similar_nodes_have_the_largest_cosine(seed: int, k: int, words: bool, vectors: bool) -> None:
    rng = np.random.default_rng(seed)
    n, ends = 9, np.arange(10) * 3
    indices = np.concatenate([rng.choice(12, 3, replace=False) for _ in range(n)])
    dense = rng.normal(size=(n, 4)).astype(np.float32) if vectors or not words else None
    features = Features(dense, *((ends, indices, None, 12) if words else (None, None, None, 0)))
    cosine = np.zeros((n, n))
    if dense is not None:
        unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
        cosine += unit @ unit.T
    if words:
        bag = np.zeros((n, 12))
        bag[np.repeat(np.arange(n), 3), indices] = 1
        bag *= np.log(n / np.maximum(bag.sum(0), 1))
        bag /= np.maximum(np.linalg.norm(bag, axis=1, keepdims=True), 1e-12)
        cosine += bag @ bag.T
    np.fill_diagonal(cosine, -9)
    src, dst = nearest(NodeType("node", n, features), k, CPU)
    assert sorted(zip(src, dst, strict=True)) == sorted(zip(dst, src, strict=True))
    found = np.zeros((n, n), bool)
    found[src, dst] = True
    kth = -np.sort(-cosine, axis=1)[:, k - 1 : k]
    sure = (cosine > kth + 1e-5) & (cosine > 1e-5)
    possible = (cosine >= kth - 1e-5) & (cosine > -1e-5)
    assert found[sure].all()
    assert not found[~(possible | possible.T)].any()


def test_a_type_that_is_too_large_or_has_no_features_gets_no_similar_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small_graph()
    assert [r.name for r in with_knn(graph, "paper", 3, CPU).relations][-1] == "similar paper"
    bare = HeteroGraph((NodeType("node", 4),), (Relation("links", "node", "node", np.array([0]), np.array([1])),))
    assert with_knn(bare, "node", 3, CPU) is bare
    monkeypatch.setattr(hetero_knn, "COMPARISONS", 24 * 96 - 1)
    assert with_knn(graph, "paper", 3, CPU) is graph
    monkeypatch.setattr(linear_fit, "AFFORDABLE", 0)
    training = ClassTraining(graph, small_task(graph), OPTIONS)
    assert training.head.linear is None
    assert [sentence.split(" too ")[0] for sentence in training.skipped] == ["paper has", "the graph is"]
    train_epoch(training, 0)
    assert training.evaluate(Split.TEST)["nodes"] > 0


@pytest.mark.parametrize("shape", [(12, 30), (40, 7)])
@pytest.mark.parametrize("single", [True, False])
def test_regression_is_where_the_gradient_is_zero(shape: tuple[int, int], single: bool) -> None:
    """Both with fewer rows than features and with more."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    actual = torch.eye(3)[torch.from_numpy(rng.integers(3, size=shape[0]))]
    decays = (1e-3, 1e-2)
    scale = float(x.norm(dim=1).mean())
    for decay, (weights, bias) in zip(decays, regress(x, actual, single, decays), strict=True):
        w, b = weights.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = cross_entropy(x @ w + b, actual, single) + decay * scale**2 * w.square().sum()
        loss.backward()
        assert w.grad is not None
        assert b.grad is not None
        assert float(w.grad.abs().max()) / scale < 3e-3
        assert float(b.grad.abs().max()) < 3e-3


def test_the_linear_part_averages_rows_as_a_plain_loop_does() -> None:
    graph = small_graph()
    training = ClassTraining(graph, small_task(graph), OPTIONS)
    linear, batch = training.head.linear, training.full_batch()
    assert linear is not None
    with torch.no_grad():
        for logits in linear.mixes:
            logits.copy_(torch.linspace(-1, 1, len(logits)))
    restart, rows = float(linear.restart), torch.tensor([0, 5, 23])
    weights = torch.cat([p for part in linear.per_type for p in (part.dense, part.sparse)])
    mix = {t: m.detach() for t, m in linear.mix.items()}
    found = averaged_rows(batch, mix, "paper", rows, (restart,), {})[restart] @ weights + linear.bias
    torch.testing.assert_close(found, linear(batch)[rows], atol=1e-5, rtol=1e-4)


def test_a_sketch_keeps_inner_products() -> None:
    graph = small_graph()
    batch = ClassTraining(graph, small_task(graph), OPTIONS).full_batch()
    assert features_of(batch) == 26
    wide = sketched(batch, ["paper", "author"], 20_000)
    columns = batch.columns["author"].dense
    assert columns is not None
    found, wanted = wide["author"] @ wide["author"].T, columns @ columns.T
    assert float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
    assert float((wide["author"] @ wide["paper"].T).abs().max()) < 0.1 * float(wanted.abs().max())


def test_informative_channels_get_more_weight() -> None:
    """Friends are mostly in a node's class; noise connects nodes at random."""
    graph, task = blocks_graph()
    rng = np.random.default_rng(1)
    noise = Relation("noise", "node", "node", rng.integers(300, size=3000), rng.integers(300, size=3000))
    graph = HeteroGraph(graph.nodes, (*graph.relations, noise))
    training = ClassTraining(graph, task, replace(OPTIONS, knn=0))
    linear, block = training.head.linear, training.full_batch().blocks["all", "node"]
    assert linear is not None
    share = dict(zip([c.name for c in block.channels], linear.mix["node"].softmax(0).tolist(), strict=True))
    assert max(share["noise"], share["noise (back)"]) < min(share["friend"], share["friend (back)"])
    training.head.share.fill_(1.0)
    mixed = training.evaluate(Split.TEST)["macro_f1"]
    with torch.no_grad():
        linear.mix["node"].zero_()
    assert mixed > training.evaluate(Split.TEST)["macro_f1"]


def test_a_linear_part_is_fitted_without_a_validation_split() -> None:
    graph, task = blocks_graph()
    task = replace(task, split=np.where(task.split == 1, -1, task.split))
    training = ClassTraining(graph, task, OPTIONS)
    training.head.share.fill_(1.0)
    assert training.evaluate(Split.TEST)["macro_f1"] > 0.6


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_explanations_count_the_linear_part_as_the_prediction_does(share: float) -> None:
    graph = small_graph()
    training = ClassTraining(graph, small_task(graph), OPTIONS)
    training.head.share.fill_(share)
    linear = training.head.linear
    assert linear is not None
    rows = explain(training, "paper", np.array([1, 5]), top=100)
    for node in (1, 5):
        own = [r for r in rows if r.node == node]
        assert {r.part for r in own} == {0.0: {"network"}, 0.25: {"network", "linear"}, 1.0: {"linear"}}[share]
        relations = {(r.part, r.relation, r.back): r.weight for r in own if r.kind == "relation"}
        assert sum(relations.values()) == pytest.approx(1, abs=1e-4)
        assert sum(w for key, w in relations.items() if key[0] == "linear") == pytest.approx(share, abs=1e-4)
        near = {r.neighbour for r in own if r.kind == "neighbour" and r.relation == "similar paper"}
        similar = training.graph.relation("similar paper")
        assert near == set(similar.src[similar.dst == node].tolist())
        if share == 1:
            block = training.full_batch().blocks["all", "paper"]
            wanted = torch.where(block.present[node], linear.mix["paper"], -1e30).softmax(0).tolist()
            for c, weight in zip(block.channels, wanted, strict=True):
                assert relations.get(("linear", c.relation, c.back), 0) == pytest.approx(weight, abs=1e-5)


@pytest.mark.parametrize("restart", [0.1, 0.5])
def test_contributions_add_up_to_the_score_of_the_predicted_class(restart: float) -> None:
    graph = small_graph()
    training = ClassTraining(graph, small_task(graph), OPTIONS)
    training.head.share.fill_(1.0)
    linear = training.head.linear
    assert linear is not None
    linear.restart.fill_(restart)
    logits = linear(training.full_batch()).detach().numpy() - linear.bias.detach().numpy()
    nodes = np.arange(24)
    rows = explain(training, "paper", nodes, top=1000)
    best = (logits + linear.bias.detach().numpy()).argmax(1)
    for node in nodes:
        own = [r for r in rows if r.node == node]
        added = sum(r.contribution or 0 for r in own if r.kind != "neighbour")
        assert added == pytest.approx(float(logits[node, best[node]] - logits[node].mean()), abs=1e-4)
        for relation in [r for r in own if r.kind == "relation"]:
            key = (relation.relation, relation.back)
            near = [r for r in own if r.kind == "neighbour" and (r.relation, r.back) == key]
            assert sum(r.contribution or 0 for r in near) == pytest.approx(relation.contribution, abs=1e-4)
