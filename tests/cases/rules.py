"""Rules by their definitions, in plain Python: an oracle for `storage/triples/rules.py` and `jobs/link_scores.py`.

A fact is (head, relation, tail) of integers; a directed relation is a relation, or its id plus R for the inverse.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import TypeAlias

import numpy as np
from hypothesis import strategies as st

from graphlearn.types import Triples

Fact: TypeAlias = tuple[int, int, int]
ENTITIES, RELATIONS = 7, 3


def triples(facts: set[Fact] | list[Fact]) -> Triples:
    """Facts as arrays, in order."""
    columns = np.array(sorted(facts), np.int32).reshape(-1, 3)
    return Triples(*(np.ascontiguousarray(columns[:, i]) for i in range(3)))


def graphs() -> st.SearchStrategy[set[Fact]]:
    """Small graphs, with self-loops."""
    entity, relation = st.integers(0, ENTITIES - 1), st.integers(0, RELATIONS - 1)
    return st.sets(st.tuples(entity, relation, entity), min_size=1, max_size=40)


def directed(facts: set[Fact]) -> dict[int, set[tuple[int, int]]]:
    """The pairs of each directed relation, without self-loops."""
    found: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for h, r, t in facts:
        if h != t:
            found[r].add((h, t))
            found[r + RELATIONS].add((t, h))
    return found


def path_body(pairs: dict[int, set[tuple[int, int]]], p: int, q: int) -> set[tuple[int, int]]:
    """The pairs (X, Y) for which p(X, Y), or p(X, Z) and q(Z, Y), holds."""
    if q < 0:
        return pairs[p]
    return {(x, y) for (x, z), (other, y) in product(pairs[p], pairs[q]) if z == other and x != y}


def path_rules(facts: set[Fact]) -> dict[tuple[int, int, int], tuple[int, int]]:
    """(r, p, q) -> (support, body) of the path rules with a positive support; q is -1 for length 1."""
    pairs = directed(facts)
    found = {}
    for r, p, q in product(range(RELATIONS), range(2 * RELATIONS), range(-1, 2 * RELATIONS)):
        if q >= 0 or p != r:
            body = path_body(pairs, p, q)
            support = len(body & pairs[r])
            if support:
                found[r, p, q] = support, len(body)
    return found


def constant_rules(facts: set[Fact], least: int) -> dict[tuple[int, int, int, int], tuple[int, int]]:
    """(r, c, p, d) -> (support, body) of the constant rules; d is -1 for any entity.

    `least`: of the support, and so of entities with p(X, d) and with r(X, c).
    """
    pairs = directed(facts)
    having: dict[tuple[int, int], set[int]] = defaultdict(set)
    for p, ends in pairs.items():
        for x, d in ends:
            having[p, d].add(x)
            having[p, -1].add(x)
    found = {}
    for (r, c), (p, d) in product(having, having):
        if c >= 0 and (r, c) != (p, d) and (d >= 0 or p != r):
            support = len(having[r, c] & having[p, d])
            if support >= least:
                found[r, c, p, d] = support, len(having[p, d])
    return found
