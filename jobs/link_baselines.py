"""Baselines of link prediction on triples: popularity, and rules of length 1 and 2 (see `storage/triples/rules.py`).

Every model that ranks the ends of triples is compared with them, in the same protocol: filtered ranks among the same
candidates, ties at their mean rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from graphlearn.jobs.budget import Budget
from graphlearn.jobs.link_scores import Graph, Ints, Popularity, RuleScorer, RuleSettings
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.core.ranking import RankArray, filtered_ranks
from graphlearn.models.core.ranks import Ranks
from graphlearn.storage.triples.rules import mine_rules
from graphlearn.types import BoolArray, FloatArray, IdArray, Side, Triples

POPULARITY, RULES = "popularity", "rules"
MINING, TUNING = 0.4, 0.6
"""Shares of the budget that are spent after mining, and after choosing settings on validation triples."""
ROWS = 1e6
"""Rows of the join of paths, per CPU second that the mining may use."""
FIXED = 3e-6
"""CPU seconds per training triple that the mining uses whatever the size of its joins."""
LEAST = 0.2
"""CPU seconds of joins that the mining is worth."""
TUNED = 2000
"""Validation triples on which settings are compared, at most."""
QUERIES = 64
"""Queries that are scored at once, at most."""
BLOCK = 256
"""Triples that are ranked at once."""
SCORES = 1 << 27
"""Bytes for scores."""


@dataclass(frozen=True, kw_only=True)
class LinkTask:
    """Triples to learn from, and those to rank. `known`: the answers of each query that do not compete.

    `alive`: the entities that are candidates, None for all. shape: [E]
    """

    n_entities: int
    n_relations: int
    train: Triples
    valid: Triples
    test: Triples
    known: Mapping[Side, KnownAnswers]
    alive: BoolArray | None = None


@dataclass(frozen=True)
class LinkBaselines:
    """The ranks of each method on the same test triples, and which ones these are: rows of `LinkTask.test`."""

    rows: IdArray
    ranks: Mapping[str, Ranks]
    settings: RuleSettings = field(default_factory=RuleSettings)


class Scorer(Protocol):
    """A method that scores all candidates."""

    def scores(self, anchors: Ints, relations: Ints) -> FloatArray:
        """The scores of all candidates of queries with directed relations. shape: [B], [B] -> [B, E]"""


def link_baselines(
    task: LinkTask,
    budget: Budget,
    *,
    seed: int = 0,
    threads: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> LinkBaselines:
    """Rank test triples by popularity and by rules. `progress` gets the share of the work that is done.

    When the budget is short, rules are mined from samples, and fewer triples are ranked: a random part of them.
    """
    graph = Graph(task.train, task.n_entities, task.n_relations)
    popularity = Popularity(graph)
    methods: dict[str, Scorer] = {POPULARITY: popularity}
    settings = RuleSettings(groundings=RuleSettings.groundings if math.isfinite(budget.seconds) else 50_000)
    seconds = MINING * budget.seconds - FIXED * len(task.train)
    if seconds < LEAST:
        budget.cut("rules were not mined")
    else:
        try:
            rules = mine_rules(
                task.train,
                task.n_relations,
                rows=_rounded(ROWS * seconds),
                seed=seed,
                threads=threads,
                progress=lambda done: progress(MINING * done / 3),
            )
        except MemoryError:
            budget.cut("rules were not mined, as they do not fit in memory")
        else:
            for sentence in rules.cuts:
                budget.cut(sentence)
            if len(rules):
                scorer = tune(task, RuleScorer(graph, rules, popularity, settings), budget, seed)
                methods[RULES], settings = scorer, scorer.settings
    progress(TUNING)
    order = np.random.default_rng([seed, 5]).permutation(len(task.test))
    found: dict[str, list[Ranks]] = {name: [] for name in methods}
    done = 0
    while done < len(order) and (not done or budget.left > 0):
        rows = order[done : done + BLOCK]
        for name, method in methods.items():
            found[name].append(rank(method, task.test[rows], task))
        done += len(rows)
        progress(TUNING + (1 - TUNING) * done / len(order))
    if done < len(order):
        budget.cut(f"baselines ranked {done:,} of {len(order):,} test triples")
    return LinkBaselines(order[:done], {name: Ranks.concat(parts) for name, parts in found.items() if parts}, settings)


def tune(task: LinkTask, scorer: RuleScorer, budget: Budget, seed: int) -> RuleScorer:
    """The scorer with the best settings on validation triples, each changed in turn, as far as the budget allows."""
    valid = task.valid[np.random.default_rng([seed, 6]).permutation(len(task.valid))[:TUNED]]
    tries = list(_alternatives(scorer.settings))
    limit = (TUNING * budget.seconds - budget.spent) / (len(tries) + 1)  # CPU seconds for each
    if limit <= 0:
        budget.cut("the settings of rules were not tuned")
    if not len(valid) or limit <= 0:
        return scorer
    started, parts, count = budget.spent, [], 0
    while count < len(valid) and (not count or budget.spent - started < limit):
        parts.append(rank(scorer, valid[count : count + BLOCK], task))
        count += len(parts[-1])
    best = Ranks.concat(parts).metrics()["mrr"]
    for change in tries:
        if budget.spent > TUNING * budget.seconds:
            budget.cut("not all settings of rules were tried")
            break
        other = scorer.using(change(scorer.settings))
        score = rank(other, valid[:count], task).metrics()["mrr"]
        if score > best:
            scorer, best = other, score
    return scorer


def _alternatives(settings: RuleSettings) -> Iterator[Callable[[RuleSettings], RuleSettings]]:
    """Changes of one setting."""
    yield lambda s: replace(s, aggregation="noisy_or")
    yield lambda s: replace(s, popularity=False)
    for pessimism in (1.0, 20.0):
        yield lambda s, pessimism=pessimism: replace(s, pessimism=pessimism)  # type: ignore[misc]
    yield lambda s: replace(s, min_support=2 * settings.min_support + 1)


def rank(scorer: Scorer, triples: Triples, task: LinkTask) -> Ranks:
    """Filtered ranks of both ends of each triple; see `models.core.ranking`."""
    size = max(1, min(QUERIES, SCORES // (8 * task.n_entities)))
    found: dict[Side, tuple[RankArray, RankArray]] = {}
    for side in Side:
        tail = side is Side.TAIL
        anchors, targets = (triples.heads, triples.tails) if tail else (triples.tails, triples.heads)
        keys = task.known[side].keys(anchors, triples.relations)
        directed = triples.relations.astype(np.int64) + (0 if tail else task.n_relations)
        # each distinct query is scored once
        codes, query = np.unique(directed * task.n_entities + anchors, return_inverse=True)
        order = np.argsort(query, kind="stable")
        ranks, candidates = np.empty(len(triples)), np.empty(len(triples))
        for lo in range(0, len(codes), size):
            part = codes[lo : lo + size]
            rows = order[slice(*np.searchsorted(query[order], [lo, lo + len(part)]))]
            scores = scorer.scores(part % task.n_entities, part // task.n_entities)
            for at in range(0, len(rows), size):
                some = rows[at : at + size]
                ranks[some], candidates[some] = filtered_ranks(
                    scores[query[some] - lo], targets[some], task.known[side], keys[some], allowed=task.alive
                )
        found[side] = ranks, candidates
    (head, head_candidates), (tail_ranks, tail_candidates) = found[Side.HEAD], found[Side.TAIL]
    return Ranks(triples, head, tail_ranks, head_candidates, tail_candidates)


def _rounded(rows: float) -> float:
    """The next lower power of two, so that small differences in CPU time do not change what is mined."""
    return 2.0 ** math.floor(math.log2(rows)) if math.isfinite(rows) else rows
