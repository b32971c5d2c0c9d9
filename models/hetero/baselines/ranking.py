"""Baselines of link ranking: how they score, how their settings are chosen, how they are measured.

Shapes: B sources, T targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from graphlearn.models.hetero.baselines.allowance import Allowance
from graphlearn.models.hetero.links import LinkQueries, RankedLinks
from graphlearn.types import DoubleArray, FloatArray, IdArray, Split

TUNED = 1000
"""Queries of the validation split that settings are chosen on, at most."""
BLOCK = 128
"""Queries between looks at the allowance."""
PILOT, LEAST = 32, 100
"""Queries that a method is timed on, and that it must have the time for."""
SAFETY = 0.8
"""The share of the time that is planned for, as queries differ."""


class LinkMethod(Protocol):
    """Scores targets."""

    name: str

    @property
    def settings(self) -> Sequence[Any]:
        """Those to choose from; without a validation split the first is taken."""
        ...

    def scores(self, sources: IdArray, settings: Sequence[Any]) -> Iterator[FloatArray]:
        """The scores of all targets with each of the settings. shape: [B] -> [B, T] each"""
        ...


class Popularity:
    """Ranks targets by the number of their links."""

    name = "degree"
    settings = (None,)

    def __init__(self, queries: LinkQueries) -> None:
        self.degree = np.log1p(queries.degree).astype(np.float32)

    def scores(self, sources: IdArray, settings: Sequence[None]) -> Iterator[FloatArray]:
        """The same for all sources."""
        for _ in settings:
            yield np.broadcast_to(self.degree, (len(sources), len(self.degree)))


def ties_by_degree(scores: FloatArray | DoubleArray, degree: IdArray) -> FloatArray:
    """The scores, with targets of (nearly) the same score in the order of their degree. shape: [B, T], [T]"""
    top = np.maximum(scores.max(axis=1, keepdims=True, initial=0), 1e-30)
    popular = np.log1p(degree) / max(1.0, float(np.log1p(degree.max(initial=0))))
    out: FloatArray = (scores / top + 1e-6 * popular).astype(np.float32)
    return out


def measure_all(
    methods: Sequence[LinkMethod], queries: LinkQueries, splits: Sequence[Split], allowance: Allowance
) -> Mapping[str, dict[Split, RankedLinks]]:
    """Choose the settings of each method on the validation split, then rank the queries of the splits, the last first.

    All methods rank the same queries of a split: as many as there is time for, drawn at random. A method that would be
    too slow for LEAST of them is left out.
    """
    tuning = allowance.part(0.5)
    settings = {}
    for i, method in enumerate(methods):
        settings[method.name] = _tuned(method, queries, tuning.part(1 / (len(methods) - i)))
    if math.isinf(allowance.left):
        chosen = {split: queries.measured(split) for split in splits}
        left = list(methods)
    else:
        left, chosen = _affordable(methods, settings, queries, splits, allowance)
    return {
        method.name: {
            split: _rank(method, settings[method.name], queries, edges, queries.measured(split))
            for split, edges in chosen.items()
        }
        for method in left
    }


def _tuned(method: LinkMethod, queries: LinkQueries, allowance: Allowance) -> Any:
    """The setting with the best MRR on the validation split."""
    edges = queries.measured(Split.VALID, TUNED) if len(method.settings) > 1 else np.zeros(0, np.int64)
    edges = np.random.default_rng(queries.seed).permutation(edges)
    done, sums = 0, np.zeros(len(method.settings))
    while done < len(edges) and allowance.left:
        block = edges[done : done + BLOCK]
        found = queries.rank_all(block, lambda sources: method.scores(sources, method.settings))
        sums += [(1 / ranked.ranks).sum() for ranked in found]
        done += len(block)
    if done < len(edges):
        allowance.cut(f"the settings of {method.name} were chosen on {done:,} of {len(edges):,} validation links")
    return method.settings[int(sums.argmax())]


def _affordable(
    methods: Sequence[LinkMethod],
    settings: Mapping[str, Any],
    queries: LinkQueries,
    splits: Sequence[Split],
    allowance: Allowance,
) -> tuple[list[LinkMethod], dict[Split, IdArray]]:
    """The methods that there is time for, and the queries of each split that they rank."""
    order = {
        split: np.random.default_rng([queries.seed, 9, split.code]).permutation(queries.measured(split))
        for split in reversed(splits)
    }
    seconds = dict[str, float]()
    for method in methods:
        pilot, before = np.sort(order[splits[-1]][:PILOT]), allowance.left
        if not before:
            break
        _rank(method, settings[method.name], queries, pilot, pilot)
        seconds[method.name] = max(before - allowance.left, 1e-6) / max(1, len(pilot))
    share, slowest = allowance.left * SAFETY, sorted(seconds, key=lambda name: -seconds[name])
    while slowest and share / sum(seconds[name] for name in slowest) < min(LEAST, len(order[splits[-1]])):
        slowest = slowest[1:]
    left = [method for method in methods if method.name in slowest]
    for method in methods:
        if method not in left:
            allowance.cut(f"{method.name} was left out")
    chosen = {}
    for split, edges in order.items():
        each = sum(seconds[method.name] for method in left)
        most = min(len(edges), int(share / each)) if left else 0
        share -= most * each
        if most < len(edges) and left:
            allowance.cut(f"baselines ranked {most:,} of {len(edges):,} {split} links")
        if most:
            chosen[split] = np.sort(edges[:most])
    return left, chosen


def _rank(method: LinkMethod, setting: Any, queries: LinkQueries, edges: IdArray, whole: IdArray) -> RankedLinks:
    """Ranks of the targets of some of the edges."""

    def scores(sources: IdArray) -> FloatArray:
        (found,) = method.scores(sources, [setting])
        return found

    return queries.rank(edges, scores, whole)
