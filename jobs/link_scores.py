"""Scores of candidates by popularity and by rules. A *directed* relation is a relation, or its id plus R: its inverse.

Shapes: B queries (an anchor and a directed relation, whose tails are asked for), E entities, R relations.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from graphlearn.storage.triples.rules import Rules
from graphlearn.types import FloatArray, Triples

Ints: TypeAlias = npt.NDArray[np.int64]


class Groups:
    """The values of each group of equal codes. shape: codes [G], ascending; group g is values[starts[g]:starts[g+1]]"""

    def __init__(self, codes: Ints, values: Ints) -> None:
        """Group values by code. shape: [n] each"""
        order = np.lexsort((values, codes))
        codes, self.values = codes[order], values[order]
        first = np.flatnonzero(_changes(codes))
        self.codes, self.starts = codes[first], np.append(first, len(codes))

    @property
    def sizes(self) -> Ints:
        """The number of values of each group. shape: [G]"""
        return np.diff(self.starts)

    def find(self, codes: Ints) -> Ints:
        """The group of each code, -1 if there is none. shape: [n] -> [n]"""
        if not len(self.codes):
            return np.full(len(codes), -1, np.int64)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, at, -1)

    def expand(self, groups: Ints) -> tuple[Ints, Ints]:
        """All values of some groups, as (position in `groups`, value)."""
        return expand(self.starts[groups], self.starts[groups + 1], self.values)


def expand(starts: Ints, ends: Ints, values: Ints | None = None) -> tuple[Ints, Ints]:
    """The numbers of each range (or `values` at them), as (range, number)."""
    counts = ends - starts
    rows = np.repeat(np.arange(len(counts)), counts)
    at = np.arange(len(rows)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return rows, at if values is None else values[at]


class Graph:
    """Training triples in both directions, without self-loops."""

    def __init__(self, train: Triples, n_entities: int, n_relations: int) -> None:
        self.E, self.R = n_entities, n_relations
        keep = train.heads != train.tails
        heads, relations, tails = (x[keep].astype(np.int64) for x in (train.heads, train.relations, train.tails))
        self.anchors = np.concatenate([heads, tails])
        self.relations = np.concatenate([relations, relations + n_relations])
        self.answers = np.concatenate([tails, heads])

    def inverse(self, directed: Ints) -> Ints:
        """The inverse of directed relations."""
        return (directed + self.R) % (2 * self.R)

    @cached_property
    def neighbours(self) -> Groups:
        """The answers of each (anchor, directed relation), coded as anchor * 2R + relation."""
        return Groups(self.anchors * (2 * self.R) + self.relations, self.answers)


class Popularity:
    """The score of a candidate is its frequency at that end of the relation, then its overall frequency.

    Only the order of scores means something: they are ranks of distinct frequencies.
    """

    def __init__(self, graph: Graph) -> None:
        counts = np.bincount(graph.answers, minlength=graph.E)
        _, overall = np.unique(counts, return_inverse=True)
        self.overall = overall.astype(np.float32)
        codes, frequency = np.unique(graph.relations * graph.E + graph.answers, return_counts=True)
        relations, self.entities = codes // graph.E, codes % graph.E
        self.bounds = np.searchsorted(relations, np.arange(2 * graph.R + 1))
        levels = dense(relations, frequency, overall[self.entities])
        self.levels = (levels + float(self.overall.max(initial=0))).astype(np.float32)

    def of(self, relation: int) -> FloatArray:
        """The scores of a directed relation. shape: [E]"""
        found = self.overall.copy()
        part = slice(*self.bounds[relation : relation + 2])
        found[self.entities[part]] = self.levels[part]
        return found

    def scores(self, anchors: Ints, relations: Ints) -> FloatArray:
        """The scores of all candidates. shape: [B], [B] -> [B, E]"""
        distinct, rows = np.unique(relations, return_inverse=True)
        found: FloatArray = np.stack([self.of(int(relation)) for relation in distinct])[rows]
        assert len(found) == len(anchors)
        return found


def dense(rows: Ints, *keys: npt.NDArray[np.generic]) -> Ints:
    """The rank of each item among the distinct keys of its row, from 1; keys that come first count most.

    shape: [n] each -> [n]
    """
    order = np.lexsort((*reversed(keys), rows))
    begins = _changes(rows[order])
    level = np.cumsum(np.logical_or.reduce([begins, *(_changes(key[order]) for key in keys)]))
    found = np.empty(len(rows), np.int64)
    found[order] = level - np.maximum.accumulate(np.where(begins, level, 0)) + 1
    return found


@dataclass(frozen=True)
class RuleSettings:
    """How rules score candidates.

    `aggregation`: maximum takes the confidence of the best rule that predicts a candidate, and breaks ties by the
    second and third best; noisy_or is 1 minus the product of (1 - confidence) of all rules. The confidence of a rule is
    support / (body + pessimism); where the support was counted on a sample, the pessimism grows by support / seen.
    `popularity` breaks the remaining ties and orders candidates without a rule. `groundings`: instances of rules that
    are followed per query and kind of rule, those of the strongest rules first.
    """

    aggregation: Literal["maximum", "noisy_or"] = "maximum"
    pessimism: float = 5.0
    min_support: int = 2
    popularity: bool = True
    groundings: int = 5000


class RuleScorer:
    """Scores by mined rules. Only the order of scores means something."""

    def __init__(self, graph: Graph, rules: Rules, popularity: Popularity, settings: RuleSettings) -> None:
        self.graph, self.rules, self.popularity, self.settings = graph, rules, popularity, settings
        R, E = graph.R, graph.E
        paths, constants = rules.paths, rules.constants
        kept_paths = paths.seen >= settings.min_support
        kept = constants.seen >= settings.min_support
        head, first, second = (x[kept_paths] for x in (paths.heads, paths.first, paths.second))
        single = second < 0
        # a path rule and its reverse, with which heads are asked for; then the constant rules
        first = np.concatenate([first, graph.inverse(np.where(single, first, second))])
        second = np.concatenate([second, np.where(single, -1, graph.inverse(paths.first[kept_paths]))])
        heads = np.concatenate([head, head + R, constants.heads[kept]])
        support, body, seen = (
            np.concatenate([a[kept_paths], a[kept_paths], b[kept]])
            for a, b in ((getattr(paths, name), getattr(constants, name)) for name in ("support", "body", "seen"))
        )
        confidence = np.minimum(support / (body + settings.pessimism * support / seen), 1 - 1e-9)
        # rules of a relation by descending confidence; `place`: in this order, `level`: equal for equal confidences
        order = np.lexsort((-confidence, heads))
        starts = np.searchsorted(heads[order], np.arange(2 * R))
        place = np.empty(len(heads), np.int64)
        place[order] = np.arange(len(heads)) - starts[heads[order]]
        self.offsets = starts
        self.levels = dense(heads, -confidence)[order]
        self.evidence = -np.log1p(-confidence[order])
        self.constants = np.concatenate([np.full(len(first), -1), constants.constants[kept]])[order]
        self.most = int(place.max(initial=0)) + 1

        n = len(first)
        by_head = np.lexsort((place[:n], heads[:n]))
        self.first, self.second, self.places = first[by_head], second[by_head], place[:n][by_head]
        self.path_bounds = np.searchsorted(heads[:n][by_head], np.arange(2 * R + 1))

        traits = constants.relations[kept] * (E + 1) + constants.values[kept] + 1
        self.traits, trait = np.unique(traits, return_inverse=True)
        T = self.T = max(1, len(self.traits))
        self.by_trait = Groups(heads[n:] * T + trait, place[n:])
        # the traits of each relation's rules, and of each entity, where some rule needs them
        self.asked = Groups(self.by_trait.codes // T, self.by_trait.codes % T)
        every = np.concatenate([graph.relations * (E + 1) + graph.answers + 1, graph.relations * (E + 1)])
        at = np.minimum(np.searchsorted(self.traits, every), T - 1)
        held = self.traits[at] == every if len(self.traits) else np.zeros(len(every), np.bool_)
        pairs = np.unique(np.tile(graph.anchors, 2)[held] * T + at[held])
        self.held, self.pairs = Groups(pairs // T, pairs % T), pairs

    def using(self, settings: RuleSettings) -> RuleScorer:
        """A scorer with other settings, which shares what does not depend on them."""
        if (settings.pessimism, settings.min_support) != (self.settings.pessimism, self.settings.min_support):
            return RuleScorer(self.graph, self.rules, self.popularity, settings)
        found = copy(self)
        found.settings = settings
        return found

    def scores(self, anchors: Ints, relations: Ints) -> FloatArray:
        """The scores of all candidates; 0 or their popularity if no rule predicts them. shape: [B], [B] -> [B, E]"""
        B, E = len(anchors), self.graph.E
        popular = self.settings.popularity
        out = self.popularity.scores(anchors, relations) if popular else np.zeros((B, E), np.float32)
        found = [self._paths(anchors, relations), self._constants(anchors, relations)]
        rows, places, answers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        keep = answers != anchors[rows]
        codes = np.sort((rows[keep] * E + answers[keep]) * self.most + places[keep])
        codes = codes[_changes(codes)]
        pairs, places = codes // self.most, codes % self.most
        starts = np.flatnonzero(_changes(pairs))
        rows, answers = pairs[starts] // E, pairs[starts] % E
        at = self.offsets[relations[pairs // E]] + places
        keys: list[npt.NDArray[np.generic]] = [out[rows, answers]]
        if self.settings.aggregation == "noisy_or":
            keys.insert(0, np.add.reduceat(self.evidence[at], starts) if len(starts) else np.empty(0))
        else:
            ends = np.append(starts[1:], len(pairs))
            worst = -(len(self.levels) + 1)
            for nth in reversed(range(3)):
                inside = starts + nth < ends
                level = -self.levels[at[np.where(inside, starts + nth, 0)]] if len(at) else np.empty(0, np.int64)
                keys.insert(0, np.where(inside, level, worst))
        out[rows, answers] = dense(rows, *keys) + out.max(initial=0)
        return out

    def _paths(self, anchors: Ints, relations: Ints) -> tuple[Ints, Ints, Ints]:
        """(row, place of the rule, answer) of the path rules that hold."""
        near, wide = self.graph.neighbours, 2 * self.graph.R
        rows, rule = expand(self.path_bounds[relations], self.path_bounds[relations + 1])
        rows, rule, group = _found(rows, rule, near.find(anchors[rows] * wide + self.first[rule]))
        rows, rule, group = self._strongest(rows, rule, group, near.sizes[group])
        item, middle = near.expand(group)
        rows, rule = rows[item], rule[item]
        single = self.second[rule] < 0
        ends = rows[single], self.places[rule[single]], middle[single]
        rows, rule, middle = rows[~single], rule[~single], middle[~single]
        rows, rule, group = _found(rows, rule, near.find(middle * wide + self.second[rule]))
        rows, rule, group = self._strongest(rows, rule, group, near.sizes[group])
        item, answers = near.expand(group)
        return (
            np.concatenate([ends[0], rows[item]]),
            np.concatenate([ends[1], self.places[rule[item]]]),
            np.concatenate([ends[2], answers]),
        )

    def _constants(self, anchors: Ints, relations: Ints) -> tuple[Ints, Ints, Ints]:
        """(row, place of the rule, answer) of the constant rules that hold."""
        held, asked = self.held.find(anchors), self.asked.find(relations)
        both = np.flatnonzero((held >= 0) & (asked >= 0))
        few = self.held.sizes[held[both]] <= self.asked.sizes[asked[both]]
        found: list[tuple[Ints, Ints]] = []
        # from the shorter list: traits of the anchor that rules ask for, or asked traits that the anchor has
        rows = both[few]
        item, trait = self.held.expand(held[rows])
        found.append((rows[item], trait))
        rows = both[~few]
        item, trait = self.asked.expand(asked[rows])
        code = anchors[rows[item]] * self.T + trait
        at = np.minimum(np.searchsorted(self.pairs, code), max(0, len(self.pairs) - 1))
        has = self.pairs[at] == code if len(self.pairs) else np.zeros(len(code), np.bool_)
        found.append((rows[item][has], trait[has]))
        rows, trait = (np.concatenate(parts) for parts in zip(*found, strict=True))
        group = self.by_trait.find(relations[rows] * self.T + trait)
        rows, group = rows[group >= 0], group[group >= 0]
        item, places = self.by_trait.expand(group)
        codes = np.sort(rows[item] * self.most + places)
        rows = codes // self.most
        kept = codes[_running(rows, np.ones(len(rows), np.int64)) <= self.settings.groundings]
        rows, places = kept // self.most, kept % self.most
        return rows, places, self.constants[self.offsets[relations[rows]] + places]

    def _strongest(self, rows: Ints, rule: Ints, group: Ints, sizes: Ints) -> tuple[Ints, Ints, Ints]:
        """The first items of each row, which are ordered by row and rule, with at most `groundings` together."""
        keep = _running(rows, sizes) <= self.settings.groundings
        return rows[keep], rule[keep], group[keep]


def _changes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Where a value differs from the one before; the first one does. shape: [n] -> [n]"""
    found = np.ones(len(values), np.bool_)
    found[1:] = values[1:] != values[:-1]
    return found


def _found(rows: Ints, rule: Ints, group: Ints) -> tuple[Ints, Ints, Ints]:
    keep = group >= 0
    return rows[keep], rule[keep], group[keep]


def _running(rows: Ints, sizes: Ints) -> Ints:
    """The sum of sizes within each row so far. shape: rows (ascending), sizes: [n] -> [n]"""
    total = np.cumsum(sizes)
    begins = np.flatnonzero(_changes(rows))
    before = (total - sizes)[begins]
    return total - np.repeat(before, np.diff(np.append(begins, len(rows))))
