"""Popularity and rules rank as their definitions say; settings are chosen on validation, budgets are kept."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from cases.rules import ENTITIES, RELATIONS, Fact, constant_rules, directed, graphs, path_body, path_rules, triples
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.jobs import link_baselines as module
from graphlearn.jobs.budget import Budget
from graphlearn.jobs.link_baselines import POPULARITY, RULES, LinkTask, link_baselines, rank
from graphlearn.jobs.link_scores import Graph, Popularity, RuleScorer, RuleSettings, dense
from graphlearn.models.core.known import KnownAnswers
from graphlearn.storage.triples.rules import mine_rules
from graphlearn.types import BoolArray, FloatArray, Side, Triples

LEAST = 2


def inverse(relation: int) -> int:
    return (relation + RELATIONS) % (2 * RELATIONS)


def confidences(facts: set[Fact], anchor: int, relation: int, pessimism: float) -> dict[int, list[float]]:
    """For each candidate of a query, the confidences of the rules that predict it, the best first."""
    pairs = directed(facts)
    found: dict[int, list[float]] = {e: [] for e in range(ENTITIES)}
    for (r, p, q), (support, body) in path_rules(facts).items():
        if support >= LEAST or q < 0:
            holds = path_body(pairs, p, q)
            for y in range(ENTITIES):
                asked = (anchor, y) if relation < RELATIONS else (y, anchor)
                if relation % RELATIONS == r and asked in holds:
                    found[y].append(support / (body + pessimism))
    for (r, c, p, d), (support, body) in constant_rules(facts, LEAST).items():
        values = {y for x, y in pairs[p] if x == anchor}
        if r == relation and (d in values or (d < 0 and values)):
            found[c].append(support / (body + pessimism))
    found[anchor] = []
    return {e: sorted(values, reverse=True) for e, values in found.items()}


def popularity(facts: set[Fact], relation: int) -> list[tuple[int, int]]:
    """(frequency at that end of the relation, overall frequency) of each candidate."""
    pairs = directed(facts)
    here = Counter(y for _, y in pairs[relation])
    overall = Counter(y for ends in pairs.values() for _, y in ends)
    return [(here[e], overall[e]) for e in range(ENTITIES)]


def same_order(scores: FloatArray, keys: list[tuple[float, ...]]) -> None:
    """Assert that scores order candidates as their keys do, with the same ties."""
    _, level = np.unique(scores, return_inverse=True)
    distinct = sorted(set(keys))
    assert level.tolist() == [distinct.index(key) for key in keys]


@settings(max_examples=12, deadline=None)
@given(graphs(), st.integers(0, ENTITIES - 1), st.sampled_from([0.5, 5.0]))
def test_rules_order_candidates_as_brute_force_does(facts: set[Fact], anchor: int, pessimism: float) -> None:
    rules = mine_rules(
        triples(facts), RELATIONS, min_support=LEAST, min_constant_support=LEAST, min_confidence=0.0, threads=1
    )
    graph = Graph(triples(facts), ENTITIES, RELATIONS)
    popular = Popularity(graph)
    relations = np.arange(2 * RELATIONS)
    anchors = np.full(len(relations), anchor)
    scorer = RuleScorer(graph, rules, popular, RuleSettings(pessimism=pessimism, min_support=1))
    plain = scorer.using(RuleSettings(pessimism=pessimism, min_support=1, popularity=False))
    noisy = scorer.using(RuleSettings(pessimism=pessimism, min_support=1, popularity=False, aggregation="noisy_or"))
    for relation in relations.tolist():
        found = confidences(facts, anchor, relation, pessimism)
        best = [tuple(([round(c, 12) for c in found[e]] + [0.0] * 3)[:3]) for e in range(ENTITIES)]
        counts = popularity(facts, relation)
        same_order(popular.scores(anchors, relations)[relation], [tuple(map(float, c)) for c in counts])
        same_order(plain.scores(anchors, relations)[relation], best)
        both = [(*b, *map(float, c)) for b, c in zip(best, counts, strict=True)]
        same_order(scorer.scores(anchors, relations)[relation], both)
        joined = [(round(1 - math.prod(1 - c for c in found[e]), 9),) for e in range(ENTITIES)]
        levels = noisy.scores(anchors, relations)[relation]
        assert dense(np.zeros(ENTITIES, int), np.array([j for (j,) in joined])).tolist() == pytest.approx(
            (np.unique(levels, return_inverse=True)[1] + 1).tolist()
        )


class Fixed:
    """Scores that depend on the query and the candidate alone, with many ties."""

    def scores(self, anchors: np.ndarray, relations: np.ndarray) -> FloatArray:
        grid = 7 * anchors[:, None] + 3 * relations[:, None] + np.arange(ENTITIES) ** 2
        return (grid % 4).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(graphs(), st.integers(0, 2**ENTITIES - 1), st.integers(1, 5))
def test_ranks_are_filtered_with_ties_at_their_mean(facts: set[Fact], mask: int, block: int) -> None:
    alive: BoolArray = np.array([bool(mask >> e & 1) for e in range(ENTITIES)])
    task = a_task(facts, set(), set(), alive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "QUERIES", block)
        ranks = rank(Fixed(), task.train, task)
    scorer = Fixed()
    for side in Side:
        tail = side is Side.TAIL
        for i, (h, r, t) in enumerate(sorted(facts)):
            anchor, answer = (h, t) if tail else (t, h)
            scores = scorer.scores(np.array([anchor]), np.array([r if tail else inverse(r)]))[0]
            others = {t2 if tail else h2 for h2, r2, t2 in facts if r2 == r and (h2 if tail else t2) == anchor}
            rivals = [scores[e] for e in range(ENTITIES) if alive[e] and e != answer and e not in others]
            expected = 1 + sum(s > scores[answer] for s in rivals) + sum(s == scores[answer] for s in rivals) / 2
            assert (ranks.tail if tail else ranks.head)[i] == expected


def a_task(train: set[Fact], valid: set[Fact], test: set[Fact], alive: BoolArray | None = None) -> LinkTask:
    parts = [triples(train), triples(valid), triples(test)]
    size = 1 + max(int(max(p.heads.max(initial=0), p.tails.max(initial=0))) for p in parts)
    known = {side: KnownAnswers.of(parts, side, RELATIONS) for side in Side}
    return LinkTask(
        n_entities=max(size, ENTITIES),
        n_relations=RELATIONS,
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        known=known,
        alive=alive,
    )


def family(people: int = 240) -> LinkTask:
    """Relation 1 is the inverse of 0, and 2 follows from a path of both; a tenth of it is held out."""
    rng = np.random.default_rng(0)
    parent = {(i, 0, int(rng.integers(0, people))) for i in range(people)}
    child = {(t, 1, h) for h, _, t in parent}
    siblings = {(a, 2, b) for a, _, p in parent for b, _, q in parent if p == q and a != b}
    held = {fact for fact in child | siblings if rng.random() < 0.2}
    valid = {fact for fact in held if rng.random() < 0.3}
    return a_task((parent | child | siblings) - held, valid, held - valid)


def test_rules_find_what_follows_from_the_graph() -> None:
    task = family()
    found = link_baselines(task, Budget.unlimited(), threads=1)
    assert list(found.ranks) == [POPULARITY, RULES]
    assert sorted(found.rows.tolist()) == list(range(len(task.test)))
    mrr = {name: ranks.metrics()["mrr"] for name, ranks in found.ranks.items()}
    assert mrr[RULES] > 0.9
    assert mrr[POPULARITY] < 0.3
    again = link_baselines(task, Budget.unlimited(), threads=2)
    assert again.settings == found.settings
    for name, ranks in found.ranks.items():
        assert (again.ranks[name].head == ranks.head).all()
        assert (again.ranks[name].tail == ranks.tail).all()


def test_a_short_budget_ranks_fewer_triples_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    task = family()
    monkeypatch.setattr(module, "BLOCK", 8)
    budget = Budget(0.0, 1.0)
    monkeypatch.setattr(type(budget), "spent", property(lambda self: 100.0))  # it is all used up
    shares: list[float] = []
    found = link_baselines(task, budget, threads=1, progress=shares.append)
    assert len(found.rows) == 8
    assert all(len(ranks) == 8 for ranks in found.ranks.values())
    for name, ranks in found.ranks.items():
        assert (ranks.triples.heads == task.test[found.rows].heads).all(), name
    assert f"baselines ranked 8 of {len(task.test)} test triples" in budget.cuts
    assert shares == sorted(shares)
    assert "baselines may use 1 s" in budget.note()


def test_rules_are_left_out_when_mining_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIXED", 1.0)
    budget = Budget(10.0, 0.5)
    assert list(link_baselines(family(), budget, threads=1).ranks) == [POPULARITY]
    assert budget.cuts == ["rules were not mined"]


def test_rules_that_do_not_fit_in_memory_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "mine_rules", full)
    budget = Budget.unlimited()
    assert list(link_baselines(family(), budget).ranks) == [POPULARITY]
    assert budget.cuts == ["rules were not mined, as they do not fit in memory"]


def test_a_graph_without_rules_or_without_validation() -> None:
    lonely = a_task({(0, 0, 1), (2, 1, 3)}, set(), {(4, 0, 5)})
    assert list(link_baselines(lonely, Budget.unlimited(), threads=1).ranks) == [POPULARITY]
    task = family()
    untuned = LinkTask(**{**vars(task), "valid": Triples(*(np.empty(0, np.int32) for _ in range(3)))})
    assert link_baselines(untuned, Budget.unlimited(), threads=1).settings == RuleSettings(groundings=50_000)


def test_the_strongest_rules_are_followed_first() -> None:
    task = family()
    rules = mine_rules(task.train, RELATIONS, threads=1)
    graph = Graph(task.train, task.n_entities, RELATIONS)
    popular = Popularity(graph)
    few, all_of_them = (
        rank(RuleScorer(graph, rules, popular, RuleSettings(groundings=n)), task.test, task).metrics()["mrr"]
        for n in (5, 5000)
    )
    assert all_of_them >= few > 0.8
