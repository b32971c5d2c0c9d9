"""Rules mined in DuckDB are those of the definition; samples are unbiased, deterministic and within their bound."""

from __future__ import annotations

import numpy as np
import pytest
from cases.rules import RELATIONS, Fact, constant_rules, graphs, path_rules, triples
from hypothesis import given, settings

from graphlearn.storage.triples import rules as mining
from graphlearn.storage.triples.rules import Rules, mine_rules
from graphlearn.types import Triples


def as_paths(rules: Rules) -> dict[tuple[int, ...], tuple[float, float]]:
    p = rules.paths
    return {
        (int(r), int(a), int(b)): (s, n)
        for r, a, b, s, n in zip(p.heads, p.first, p.second, p.support, p.body, strict=True)
    }


def as_constants(rules: Rules) -> dict[tuple[int, ...], tuple[float, float]]:
    c = rules.constants
    keys = zip(c.heads, c.constants, c.relations, c.values, strict=True)
    return {tuple(map(int, key)): (s, n) for key, s, n in zip(keys, c.support, c.body, strict=True)}


@settings(max_examples=15, deadline=None)
@given(graphs())
def test_supports_and_bodies_are_exact(facts: set[Fact]) -> None:
    found = mine_rules(triples(facts), RELATIONS, min_support=1, min_constant_support=2, min_confidence=0.0, threads=1)
    assert found.cuts == ()
    assert as_paths(found) == path_rules(facts)
    assert as_constants(found) == constant_rules(facts, least=2)
    assert (found.paths.seen == found.paths.support).all()
    assert (found.constants.seen == found.constants.support).all()


@settings(max_examples=6, deadline=None)
@given(graphs())
def test_rules_below_the_thresholds_are_left_out(facts: set[Fact]) -> None:
    found = mine_rules(triples(facts), RELATIONS, min_support=2, min_constant_support=3, min_confidence=0.4, threads=1)
    # length 1 is counted in full, so that it has no minimum of support
    wanted = {k: v for k, v in path_rules(facts).items() if (v[0] >= 2 or k[2] < 0) and v[0] >= 0.4 * v[1]}
    assert as_paths(found) == wanted
    assert as_constants(found) == {k: v for k, v in constant_rules(facts, 3).items() if v[0] >= 0.4 * v[1]}


def hubs(seed: int = 0) -> Triples:
    """300 people who live in 3 cities, and whose friends mostly live in the same one."""
    rng = np.random.default_rng(seed)
    city = rng.integers(0, 3, 300)
    friends = [(i, int(rng.choice(np.flatnonzero(city == city[i]) if rng.random() < 0.9 else 300))) for i in range(300)]
    facts = [(i, 0, 300 + int(c)) for i, c in enumerate(city)] + [(a, 1, b) for a, b in friends] + [(0, 2, 1)]
    return triples(facts)


LIVES_IN, FRIEND = 0, 1
SAME_CITY = (FRIEND, LIVES_IN, LIVES_IN + RELATIONS)  # a city is a hub: 300 people make 30,000 pairs


def test_samples_are_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "STARTS", 8)
    train = hubs()
    exact = as_paths(mine_rules(train, RELATIONS, threads=1, min_confidence=0.0))
    support, body = exact[SAME_CITY]
    found = [mine_rules(train, RELATIONS, rows=4000, min_confidence=0.0, seed=s, threads=1) for s in range(8)]
    samples = [as_paths(rules)[SAME_CITY] for rules in found]
    assert len({n for _, n in samples}) > 3, "the body is sampled"
    assert np.mean([n for _, n in samples]) == pytest.approx(body, rel=0.15)
    found = [mine_rules(train, RELATIONS, rows=150, min_confidence=0.0, seed=s, threads=1) for s in range(8)]
    samples = [as_paths(rules)[0, 1, 0] for rules in found]
    assert "support was counted on" in " ".join(found[0].cuts)
    assert len({s for s, _ in samples}) > 3
    assert np.mean([s for s, _ in samples]) == pytest.approx(exact[0, 1, 0][0], rel=0.15)
    assert support < body


def test_a_sample_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "STARTS", 8)
    train = hubs()

    def mined(seed: int, threads: int) -> list[object]:
        rules = mine_rules(train, RELATIONS, rows=4000, min_confidence=0.0, seed=seed, threads=threads)
        return [sorted(as_paths(rules).items()), sorted(as_constants(rules).items()), rules.cuts]

    one = mined(1, 1)
    assert one == mined(1, 2)
    assert one != mined(2, 1)


def test_joins_are_divided_to_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def mined() -> list[object]:
        rules = mine_rules(hubs(), RELATIONS, threads=1)
        return [as_paths(rules), as_constants(rules), rules.cuts]

    at_once = mined()
    monkeypatch.setattr(mining, "CHUNK", 40_000)  # more than the paths through any body, less than all of them
    assert mined() == at_once
    monkeypatch.setattr(mining, "CHUNK", 4_000)
    assert mined()[2] == ("bodies of rules were counted on at most about 4,000 paths each",)


def test_too_little_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "MEMORY", 4 << 20)
    rng = np.random.default_rng(0)
    many = Triples(*(rng.integers(0, high, 60_000).astype(np.int32) for high in (900, 5, 900)))
    with pytest.raises(MemoryError):
        mine_rules(many, 5, threads=1)


def test_its_connection_reads_no_files(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = mining._Miner.count_support

    def spy(self: mining._Miner, least: int) -> None:
        for sql in (f"FROM '{tmp_path}/x.csv'", f"COPY (SELECT 1) TO '{tmp_path}/x.csv'"):
            with pytest.raises(mining.duckdb.Error, match="disabled by configuration"):
                self.connection.execute(sql)
            seen.append(sql)
        original(self, least)

    monkeypatch.setattr(mining._Miner, "count_support", spy)
    mine_rules(hubs(), RELATIONS, threads=1)
    assert len(seen) == 2
