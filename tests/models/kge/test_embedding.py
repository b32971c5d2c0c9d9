"""The ranks, best answers and scores of an embedding compared with plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases.kge import MODELS, graph, scorer
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.errors import TrainingDiverged
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.embedding import Embedding
from graphlearn.types import BoolArray, Side, Triples

E, R = 12, 3


def model(name: str, seed: int, *, ties: bool = False, reciprocal: bool = False) -> Embedding:
    s = scorer(name, reciprocal=reciprocal)
    g = torch.Generator().manual_seed(seed)
    entities = s.initial_entities(E, g)
    relations = s.initial_relations(R * (2 if reciprocal else 1), g)
    if ties:
        entities, relations = entities.round(), relations.round()
    return Embedding(s, entities, relations, s.initial_dense(g), R)


def known_of(*parts: Triples) -> dict[Side, KnownAnswers]:
    return {side: KnownAnswers.of(list(parts), side, R) for side in Side}


def plain_ranks(
    m: Embedding,
    triples: Triples,
    facts: set[tuple[int, int, int]],
    side: Side,
    alive: BoolArray,
) -> tuple[list[float], list[int]]:
    ranks, candidates = [], []
    for h, r, t in zip(triples.heads.tolist(), triples.relations.tolist(), triples.tails.tolist(), strict=True):
        anchor, target = (h, t) if side is Side.TAIL else (t, h)
        scores = m.scores(m.queries(np.array([anchor]), np.array([r]), side))[0].tolist()
        above = level = 0
        total = 1
        for e in range(E):
            fact = (h, r, e) if side is Side.TAIL else (e, r, t)
            if e == target or fact in facts or not alive[e]:
                continue
            above += scores[e] > scores[target]
            level += scores[e] == scores[target]
            total += 1
        ranks.append(1 + above + level / 2)
        candidates.append(total)
    return ranks, candidates


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 1000), ties=st.booleans(), vanished=st.sets(st.integers(0, E - 1), max_size=E - 2))
@settings(max_examples=12, deadline=None)
def test_ranks_equal_a_plain_loop(name: str, seed: int, ties: bool, vanished: set[int]) -> None:
    m = model(name, seed, ties=ties, reciprocal=seed % 2 == 0)
    train, test = graph(60, E, R, seed), graph(15, E, R, seed + 1)
    facts = {
        f for t in (train, test) for f in zip(t.heads.tolist(), t.relations.tolist(), t.tails.tolist(), strict=True)
    }
    alive = np.ones(E, bool)
    alive[list(vanished)] = False
    given_alive = alive if vanished else None
    known = known_of(train, test)
    got = m.rank(test, known, alive=given_alive, memory_limit=4 * E * 4, threads=1)
    assert (got.tail.tolist(), got.tail_candidates.tolist()) == plain_ranks(m, test, facts, Side.TAIL, alive)
    assert (got.head.tolist(), got.head_candidates.tolist()) == plain_ranks(m, test, facts, Side.HEAD, alive)
    threaded = m.rank(test, known, alive=given_alive, threads=3)
    np.testing.assert_allclose(threaded.tail, got.tail, atol=0.5 if ties else 0)


def test_constant_scores_rank_at_chance() -> None:
    m = model("distmult", 0)
    m.entities.zero_()
    test = graph(30, E, R)
    got = m.rank(test, {side: KnownAnswers.of([], side, R) for side in Side})
    assert set(got.tail) == {(E + 1) / 2}
    assert got.metrics()["amri"] == pytest.approx(0)


def test_vanished_entities_do_not_count_in_amri() -> None:
    """With constant scores, the rank is that of chance among the entities that are alive."""
    m = model("distmult", 0)
    m.entities.zero_()
    alive = np.arange(E) < 5
    test = Triples(*(np.array([[0, 1, 2], [0, 1, 2], [1, 4, 0]], np.int32)))
    got = m.rank(test, {side: KnownAnswers.of([], side, R) for side in Side}, alive=alive)
    assert set(got.head_candidates) == set(got.tail_candidates) == {5}
    assert set(got.tail) == {3}
    assert got.metrics()["amri"] == pytest.approx(0)


def test_no_triples_have_no_metrics() -> None:
    m, none = model("distmult", 0), graph(5, E, R)[:0]
    assert m.rank(none, known_of(none)).metrics() == {}


def test_scores_that_are_not_finite_are_refused() -> None:
    m = model("complex", 0)
    m.entities[3, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match="not finite"):
        m.rank(graph(5, E, R), known_of(graph(5, E, R)))


@given(seed=st.integers(0, 1000), k=st.integers(1, 20), vanished=st.sets(st.integers(0, E - 1), max_size=E - 2))
@settings(max_examples=40, deadline=None)
def test_top_k_leaves_out_known_answers_and_vanished_entities(seed: int, k: int, vanished: set[int]) -> None:
    m = model("transe" if seed % 2 else "complex", seed)
    train = graph(80, E, R, seed)
    known = known_of(train)[Side.TAIL] if seed % 3 else None
    alive = None
    if vanished:
        alive = np.ones(E, bool)
        alive[list(vanished)] = False
    anchors, relations = train.heads[:10], train.relations[:10]
    ids, scores = m.top_k(anchors, relations, Side.TAIL, k, known, alive=alive, memory_limit=4 * E * 3)
    assert ids.shape == scores.shape == (10, min(k, E))
    for i in range(10):
        taken = set(vanished)
        if known is not None:
            taken |= set(known.rows(known.keys(anchors[i : i + 1], relations[i : i + 1]))[1].tolist())
        row = m.scores(m.queries(anchors[i : i + 1], relations[i : i + 1], Side.TAIL))[0].numpy()
        best = sorted((e for e in range(E) if e not in taken), key=lambda e: -row[e])[:k]
        got = [e for e in ids[i].tolist() if e >= 0]
        assert not taken & set(got)
        assert np.isnan(scores[i][len(got) :]).all()
        np.testing.assert_allclose(sorted(row[got]), sorted(row[best]), rtol=1e-5)
        assert np.all(np.diff(scores[i][: len(got)]) <= 0)


def test_top_k_without_queries() -> None:
    none = np.empty(0, np.int32)
    ids, scores = model("complex", 0).top_k(none, none, Side.HEAD, 5)
    assert ids.shape == scores.shape == (0, 5)


def test_triple_scores_agree_with_candidate_scores() -> None:
    m = model("rotate", 3)
    t = graph(20, E, R)
    rows = m.scores(m.queries(t.heads, t.relations, Side.TAIL)).numpy()
    np.testing.assert_allclose(m.score(t.heads, t.relations, t.tails), rows[np.arange(20), t.tails], rtol=1e-4)
    assert m.score(*[np.empty(0, np.int32)] * 3).shape == (0,)
