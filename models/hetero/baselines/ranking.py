"""Baselines of link ranking: how they score, how their settings are chosen, how they are measured.

Shapes: B sources, T targets.
"""

from __future__ import annotations

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


def measure(
    method: LinkMethod, queries: LinkQueries, splits: Sequence[Split], allowance: Allowance
) -> dict[Split, RankedLinks]:
    """Choose the setting with the best MRR on the validation split, then rank the queries of the splits.

    The last split comes first; what does not fit into the allowance is left out.
    """
    half, setting = allowance.left / 2, method.settings[0]
    edges = queries.measured(Split.VALID, TUNED) if len(method.settings) > 1 else np.zeros(0, np.int64)
    edges = np.random.default_rng(queries.seed).permutation(edges)
    done, sums = 0, np.zeros(len(method.settings))
    while done < len(edges) and (not done or allowance.left >= half):
        block = edges[done : done + BLOCK]
        found = queries.rank_all(block, lambda sources: method.scores(sources, method.settings))
        sums += [(1 / ranked.ranks).sum() for ranked in found]
        done += len(block)
    if done:
        setting = method.settings[int(sums.argmax())]
    if done < len(edges):
        allowance.cut(f"the settings of {method.name} were chosen on {done:,} of {len(edges):,} validation links")
    out: dict[Split, RankedLinks] = {}
    for split in reversed(splits):
        ranked = _rank(method, setting, queries, queries.measured(split), allowance)
        if ranked is None:
            allowance.cut(f"{method.name} was not measured on the {split} split")
        else:
            out[split] = ranked
    return out


def _rank(
    method: LinkMethod, setting: Any, queries: LinkQueries, edges: IdArray, allowance: Allowance
) -> RankedLinks | None:
    """Ranks of the edges' targets; None when the allowance is used up before the end."""

    def scores(sources: IdArray) -> FloatArray:
        if not allowance.left:
            raise TimeoutError
        (found,) = method.scores(sources, [setting])
        return found

    try:
        return queries.rank(edges, scores)
    except TimeoutError:
        return None


def measure_all(
    methods: Sequence[LinkMethod], queries: LinkQueries, splits: Sequence[Split], allowance: Allowance
) -> Mapping[str, dict[Split, RankedLinks]]:
    """Measure several methods, each with an equal part of what is left for it and those after it."""
    return {
        method.name: measure(method, queries, splits, allowance.part(1 / (len(methods) - i)))
        for i, method in enumerate(methods)
    }
