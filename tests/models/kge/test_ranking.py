"""Filtered ranking and top-k against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases.kge import MODELS, graph, scorer
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.errors import TrainingDiverged
from graphlearn.models.kge.known import KnownAnswers
from graphlearn.models.kge.ranking import Embedding, Ranks, rank, score_triples, summary, top_k
from graphlearn.types import Side, Triples

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


def plain_ranks(m: Embedding, triples: Triples, facts: set[tuple[int, int, int]], side: Side) -> list[float]:
    out = []
    for h, r, t in zip(triples.heads.tolist(), triples.relations.tolist(), triples.tails.tolist(), strict=True):
        anchor, target = (h, t) if side is Side.TAIL else (t, h)
        scores = m.scores(m.queries(np.array([anchor]), np.array([r]), side))[0].tolist()
        above = level = 0
        for e in range(E):
            fact = (h, r, e) if side is Side.TAIL else (e, r, t)
            if e == target or fact in facts:
                continue
            above += scores[e] > scores[target]
            level += scores[e] == scores[target]
        out.append(1 + above + level / 2)
    return out


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 1000), ties=st.booleans())
@settings(max_examples=8, deadline=None)
def test_ranks_equal_a_plain_loop(name: str, seed: int, ties: bool) -> None:
    m = model(name, seed, ties=ties, reciprocal=seed % 2 == 0)
    train, test = graph(60, E, R, seed), graph(15, E, R, seed + 1)
    facts = {
        f for t in (train, test) for f in zip(t.heads.tolist(), t.relations.tolist(), t.tails.tolist(), strict=True)
    }
    got = rank(m, test, known_of(train, test), memory_limit=4 * E * 4, threads=1)
    assert got.tail.tolist() == plain_ranks(m, test, facts, Side.TAIL)
    assert got.head.tolist() == plain_ranks(m, test, facts, Side.HEAD)
    threaded = rank(m, test, known_of(train, test), threads=3)
    np.testing.assert_allclose(threaded.tail, got.tail, atol=0.5 if ties else 0)


def test_summary_by_hand() -> None:
    got = summary(np.array([1.0, 2.0, 4.0, 20.0]), np.full(4, 39.0))
    assert got["mrr"] == pytest.approx((1 + 0.5 + 0.25 + 0.05) / 4)
    assert got["mr"] == 6.75
    assert got["amri"] == pytest.approx(1 - 5.75 / 19)
    assert (got["hits_at_1"], got["hits_at_3"], got["hits_at_10"]) == (0.25, 0.5, 0.75)


def test_constant_scores_rank_at_chance() -> None:
    m = model("distmult", 0)
    m.entities.zero_()
    test = graph(30, E, R)
    got: Ranks = rank(m, test, {side: KnownAnswers.of([], side, R) for side in Side})
    assert set(got.tail) == {(E + 1) / 2}
    assert got.metrics()["amri"] == pytest.approx(0)


def test_scores_that_are_not_finite_are_refused() -> None:
    m = model("complex", 0)
    m.entities[3, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match="not finite"):
        rank(m, graph(5, E, R), known_of(graph(5, E, R)))


@given(seed=st.integers(0, 1000), k=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_top_k_leaves_out_known_answers(seed: int, k: int) -> None:
    m = model("complex", seed)
    train = graph(80, E, R, seed)
    known = known_of(train)[Side.TAIL]
    anchors, relations = train.heads[:10], train.relations[:10]
    ids, scores = (np.concatenate(x) for x in zip(*top_k(m, anchors, relations, Side.TAIL, k, known), strict=True))
    for i in range(10):
        taken = set(known.rows(known.keys(anchors[i : i + 1], relations[i : i + 1]))[1].tolist())
        row = m.scores(m.queries(anchors[i : i + 1], relations[i : i + 1], Side.TAIL))[0].numpy()
        best = sorted((e for e in range(E) if e not in taken), key=lambda e: -row[e])[:k]
        got = [e for e in ids[i].tolist() if e >= 0]
        np.testing.assert_allclose(sorted(row[got]), sorted(row[best]), rtol=1e-5)
        assert np.all(np.diff(scores[i][: len(got)]) <= 0)


def test_triple_scores_agree_with_candidate_scores() -> None:
    m = model("rotate", 3)
    t = graph(20, E, R)
    rows = m.scores(m.queries(t.heads, t.relations, Side.TAIL)).numpy()
    np.testing.assert_allclose(score_triples(m, t), rows[np.arange(20), t.tails], rtol=1e-4)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_known_answers_equal_a_dictionary(seed: int) -> None:
    t = graph(50, E, R, seed)
    expected: dict[tuple[int, int], set[int]] = {}
    for h, r, x in zip(t.heads.tolist(), t.relations.tolist(), t.tails.tolist(), strict=True):
        expected.setdefault((h, r), set()).add(x)
    known = KnownAnswers.of([t, t], Side.TAIL, R)
    assert len(known) == len(expected)
    anchors = np.repeat(np.arange(E), R).astype(np.int32)
    relations = np.tile(np.arange(R), E).astype(np.int32)
    keys = known.keys(anchors, relations)
    rows, answers = known.rows(keys)
    got: dict[tuple[int, int], set[int]] = {}
    for row, answer in zip(rows.tolist(), answers.tolist(), strict=True):
        assert answer not in got.setdefault((int(anchors[row]), int(relations[row])), set())
        got[int(anchors[row]), int(relations[row])].add(answer)
    assert got == expected
