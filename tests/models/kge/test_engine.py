"""The fused step compared with autograd, independence of the number of threads, and the effect of every option."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from cases.kge import FUSED, MODELS, graph, scorer

from graphlearn.models.kge.batches import Sampler
from graphlearn.models.kge.engines.autograd import AutogradEngine
from graphlearn.models.kge.engines.engine import Engine
from graphlearn.models.kge.engines.fused import FusedEngine
from graphlearn.models.kge.engines.independent import IndependentEngine
from graphlearn.models.kge.engines.make import make_engine
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import Scorer
from graphlearn.types import Side

E, R = 40, 5


def run(engine: Engine, epochs: int = 2) -> list[float]:
    sampler = Sampler(graph(), E, R, engine.options)
    losses = [
        engine.step(batch, engine.options.learning_rate) for epoch in range(epochs) for batch in sampler.epoch(epoch)
    ]
    engine.close()
    return losses


def fresh(kind: type[Engine], s: Scorer) -> Engine:
    return kind(s, E, R, torch.device("cpu"))


VARIANTS: list[dict[str, Any]] = [
    {"loss": "softmax"},
    {"loss": "logistic", "margin": 4.0, "adversarial_temperature": 1.0, "sides": "alternate"},
    {"loss": "margin", "margin": 2.0, "filter_negatives": True},
    {"loss": "bce", "margin": 1.0},
    {"loss": "softmax", "optimizer": "row_adam", "learning_rate": 0.01, "filter_negatives": True},
    {"loss": "softmax", "reciprocal": True, "regularization": 0.01, "degree_exponent": 0.75},
    {"loss": "softmax", "regularizer": "l2", "regularization": 0.01, "sides": "tail"},
    {"loss": "softmax", "regularizer": "dura", "regularization": 0.02, "reciprocal": True},
]


ENGINES = (FusedEngine, IndependentEngine)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))
@pytest.mark.parametrize("model", [*FUSED, "transe-l2"])
def test_fused_equals_autograd(model: str, variant: dict[str, Any], kind: type[FusedEngine]) -> None:
    name, extra = (model[:-3], {"norm": 2}) if model.endswith("-l2") else (model, {})
    # row-wise state by default: Adagrad's first step per entry is the sign of a sum that may be rounding noise
    if "sides" in variant:
        extra = {**extra, "reciprocal": False}
    s = scorer(name, **({"optimizer": "row_adagrad", "negative_sampling": kind.sampling} | variant | extra))
    reference, fused = fresh(AutogradEngine, s), fresh(kind, s)
    expected, got = run(reference), run(fused)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    for key, value in reference.weights().items():
        torch.testing.assert_close(fused.weights()[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("model", FUSED)
def test_one_step_gradient_to_1e_5(model: str, kind: type[FusedEngine]) -> None:
    s = scorer(model, regularization=0.01, negative_sampling=kind.sampling)
    engines = [fresh(AutogradEngine, s), fresh(kind, s)]
    before = engines[0].entities.weights.clone()
    for engine in engines:
        sampler = Sampler(graph(), E, R, engine.options)
        engine.step(next(iter(sampler.epoch(0))), 0.1)
        engine.close()
    moved = [engine.entities.weights - before for engine in engines]
    assert moved[0].abs().max() > 1e-3
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("model", ["complex", "rotate", "transe"])
def test_threads_do_not_change_a_bit(model: str, kind: type[FusedEngine]) -> None:
    one, three = (fresh(kind, scorer(model, threads=n, negative_sampling=kind.sampling)) for n in (1, 3))
    assert run(one) == run(three)
    assert torch.equal(one.entities.weights, three.entities.weights)
    assert torch.equal(one.relations.weights, three.relations.weights)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, FusedEngine),
        ({"negative_sampling": "independent"}, IndependentEngine),
        ({"negative_sampling": "independent", "entity_dropout": 0.1}, AutogradEngine),
        ({"negatives": 0}, AutogradEngine),
    ],
)
def test_the_fastest_engine_is_chosen(options: dict[str, Any], kind: type[Engine]) -> None:
    engine = make_engine(scorer("complex", **options), E, R)
    engine.close()
    assert type(engine) is kind


def test_one_vs_all_equals_sampling_all_entities() -> None:
    """Softmax over all entities, grouped by query, is the plain cross-entropy of each triple."""
    train = graph()
    s = scorer("complex", negatives=0, batch_size=10_000, sides="tail")
    engine = AutogradEngine(s, E, R, torch.device("cpu"))
    entities, relations = engine.entities.weights.clone(), engine.relations.weights.clone()
    sampler = Sampler(train, E, R, s.options)
    loss = engine.step(next(iter(sampler.epoch(0))), 0.1)
    pairs = np.unique(np.stack([train.heads, train.relations, train.tails]), axis=1)
    h, r, t = (torch.from_numpy(c).long() for c in pairs)
    scores = s.score(entities[h], relations[r], entities, "sp_")
    expected = torch.nn.functional.cross_entropy(scores, t, reduction="sum")
    assert loss == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("model", ["rescal", "complex"])
def test_dura_penalises_entities_and_queries(model: str) -> None:
    """Zhang, Cai and Wang 2020, equation 6: |h|^2 + |h R|^2 + |t|^2 for each triple, on top of the loss."""
    train, weight = graph(), 0.01
    losses = []
    for penalty in ({}, {"regularizer": "dura", "regularization": weight}):
        s = scorer(model, negatives=0, batch_size=10_000, reciprocal=True, **penalty)
        engine = AutogradEngine(s, E, R, torch.device("cpu"))
        entities, relations = engine.entities.weights.clone(), engine.relations.weights.clone()
        batch = next(iter(Sampler(train, E, R, s.options).epoch(0)))
        losses.append(engine.step(batch, 0.1))
    flip = batch.side is Side.HEAD
    pairs = np.unique(np.stack([train.heads, train.relations, train.tails]), axis=1)
    h, r, t = (torch.from_numpy(c).long() for c in pairs)
    if flip:
        h, r, t = t, r + R, h
    query = s.project(entities[h], s.prepare(relations[r]), Side.TAIL, {})
    expected = weight * (entities[h].square().sum() + entities[t].square().sum() + query.square().sum())
    assert losses[1] - losses[0] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("negatives", [0, 20])
def test_every_model_learns(model: str, negatives: int) -> None:
    loss = {"loss": "softmax"}
    s = scorer(model, negatives=negatives, dim=16, optimizer="adagrad", learning_rate=0.1, **loss)
    losses = run(make_engine(s, E, R), epochs=12)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


CHANGES: dict[str, dict[str, Any]] = {
    "dim": {"dim": 12},
    "batch_size": {"batch_size": 50},
    "chunk_size": {"chunk_size": 30},
    "negatives": {"negatives": 11},
    "negative_sampling": {"negative_sampling": "independent"},
    "degree_exponent": {"degree_exponent": 1.0},
    "filter_negatives": {"filter_negatives": True},
    "sides": {"sides": "head"},
    "reciprocal": {"reciprocal": True},
    "loss": {"loss": "bce"},
    "margin": {"loss": "logistic", "margin": 2.0},
    "adversarial_temperature": {"loss": "logistic", "adversarial_temperature": 2.0},
    "regularizer": {"regularizer": "l2", "regularization": 0.1},
    "regularization": {"regularization": 0.1},
    "entity_dropout": {"entity_dropout": 0.3},
    "relation_dropout": {"relation_dropout": 0.3},
    "query_dropout": {"query_dropout": 0.3},
    "optimizer": {"optimizer": "row_adam"},
    "learning_rate": {"learning_rate": 0.2},
    "init_scale": {"init_scale": 0.3},
    "precision": {"precision": "bfloat16"},
    "seed": {"seed": 1},
}
ELSEWHERE = {  # options of the loop around the engine, tested in test_training.py and test_create.py
    "epochs", "schedule", "evaluate_every", "evaluate_at_most", "patience", "test_fraction", "valid_fraction",
    "checkpoint_seconds", "device", "threads", "baselines", "baseline_share", "evaluate_all",
}  # fmt: skip


def test_every_option_is_tested() -> None:
    assert set(CHANGES) | ELSEWHERE == {f.name for f in fields(KgeOptions)}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_the_result(option: str) -> None:
    change = CHANGES[option]
    base: dict[str, Any] = {}
    if option in ("margin", "adversarial_temperature"):
        base = {"loss": "logistic"}
    elif option == "regularizer":
        base = {"regularizer": "n3", "regularization": 0.1}
    plain, changed = (make_engine(scorer("complex", **o), E, R) for o in (base, change))
    run(plain, 1)
    run(changed, 1)
    same = plain.entities.weights.shape == changed.entities.weights.shape and torch.equal(
        plain.entities.weights, changed.entities.weights
    )
    assert not same


@pytest.mark.parametrize(("model", "option"), [("transe", {"norm": 2}), ("tucker", {"relation_dim": 3})])
def test_model_options_change_the_result(model: str, option: dict[str, Any]) -> None:
    plain, changed = (make_engine(scorer(model, **o), E, R) for o in ({}, option))
    assert run(plain, 1) != run(changed, 1)


def test_checkpointed_state_continues_exactly() -> None:
    s = scorer("rotate", optimizer="row_adam")
    whole = fresh(FusedEngine, s)
    run(whole, 3)
    first = fresh(FusedEngine, s)
    run(first, 1)
    saved = {k: v.clone() for k, v in first.state().items()}
    second = fresh(FusedEngine, s)
    second.load(saved)
    sampler = Sampler(graph(), E, R, s.options)
    for epoch in (1, 2):
        for batch in sampler.epoch(epoch):
            second.step(batch, s.options.learning_rate)
    second.close()
    assert torch.equal(whole.entities.weights, second.entities.weights)
    assert torch.equal(whole.relations.weights, second.relations.weights)


def growth(engine: Engine, more: int, extra: int) -> Sampler:
    """The engine with more entities and relations, and a sampler whose triples name them."""
    engine.grow(E + more, R + extra)
    return Sampler(graph(300, E + more, R + extra, seed=1), E + more, R + extra, engine.options)


GROWING: list[dict[str, Any]] = [
    {"optimizer": "adagrad", "filter_negatives": True},
    {"optimizer": "row_adam", "reciprocal": True, "regularization": 0.01},
    {"optimizer": "row_adagrad", "negatives": 0},
    {"optimizer": "row_adagrad", "negative_sampling": "independent", "negatives": 3},
]


@pytest.mark.parametrize("options", GROWING, ids=lambda o: str(o.get("negative_sampling", o["optimizer"])))
@pytest.mark.parametrize("model", MODELS)
def test_growth_while_training(model: str, options: dict[str, Any]) -> None:
    s = scorer(model, loss="softmax", **options)
    engine = make_engine(s, E, R)
    for batch in Sampler(graph(), E, R, s.options).epoch(0):
        engine.step(batch, 0.1)
    before = {name: value.clone() for name, value in engine.state().items()}
    sampler = growth(engine, 30, 2)
    new_relation = torch.tensor([R, R + 1] if not s.options.reciprocal else [R, R + 1, 2 * R + 2, 2 * R + 3])
    for name, value in engine.state().items():
        new = torch.arange(E, E + 30) if "entities" in name else new_relation
        if len(value) == len(before[name]):
            assert torch.equal(value, before[name])
            continue
        old = torch.ones(len(value), dtype=torch.bool)
        old[new] = False
        assert torch.equal(value[old], before[name])
    grown = {name: value.clone() for name, value in engine.state().items()}
    batch = next(iter(sampler.epoch(0)))
    engine.step(batch, 0.1)
    touched = np.concatenate([batch.anchors, batch.targets, batch.candidates.ravel()])
    untouched = np.setdiff1d(np.arange(E + 30), touched)
    if s.options.negatives:
        assert len(untouched)
        for name in ("entities", "optimiser.entities.square"):
            assert torch.equal(engine.state()[name][untouched], grown[name][untouched])
    assert (engine.entities.weights[E:] != grown["entities"][E:]).any()
    losses = [float(engine.step(b, 0.1)) for epoch in range(1, 8) for b in sampler.epoch(epoch)]
    engine.close()
    assert np.isfinite(losses).all()
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("kind", [AutogradEngine, FusedEngine])
def test_a_grown_engine_continues_from_its_checkpoint(kind: type[Engine]) -> None:
    """A new engine of the grown size that loads the state trains and grows in the same way."""
    s = scorer("complex", optimizer="row_adam", reciprocal=True, filter_negatives=True)
    one = fresh(kind, s)
    for batch in Sampler(graph(), E, R, s.options).epoch(0):
        one.step(batch, 0.1)
    sampler = growth(one, 10, 1)
    for batch in sampler.epoch(0):
        one.step(batch, 0.1)
    saved = {name: value.clone() for name, value in one.state().items()}
    other = kind(s, E + 10, R + 1, torch.device("cpu"))
    other.load(saved)
    for engine in (one, other):
        sampler = growth(engine, 25, 3)
        for batch in sampler.epoch(1):
            engine.step(batch, 0.1)
        engine.close()
    assert one.state().keys() == other.state().keys()
    for name, value in one.state().items():
        assert torch.equal(other.state()[name], value)


def test_a_grown_engine_is_the_embedding_it_shows() -> None:
    engine = make_engine(scorer("complex", reciprocal=True), E, R)
    engine.grow(E + 5, R + 1)
    embedding = engine.embedding
    engine.close()
    assert embedding.entities.shape[0] == E + 5
    assert embedding.relations.shape[0] == 2 * embedding.n_relations == 2 * (R + 1)
