"""Filtered ranks compared with plain Python, and metrics computed by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.errors import TrainingDiverged
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.core.ranking import METRICS, filtered_ranks, ranking_metrics

NOTHING = KnownAnswers.group(*[np.empty(0, np.int64)] * 3, 1)
HITS = ("hits_at_1", "hits_at_3", "hits_at_10")


@given(seed=st.integers(0, 10_000), masks=st.sampled_from([0, 1, 9]), threads=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_ranks_equal_a_plain_loop(seed: int, masks: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    B, E = 9, 14
    scores = rng.integers(0, 5, (B, E)).astype(np.float32)
    targets, anchors = rng.integers(0, E, B), rng.integers(0, 4, B)
    known = KnownAnswers.group(rng.integers(0, 3, 12), 0, rng.integers(0, E, 12), 1)
    keys = known.keys(anchors, 0)
    allowed = rng.random((masks, E)) < 0.6 if masks else None
    with ThreadPoolExecutor(threads) as pool:
        ranks, candidates = filtered_ranks(scores, targets, known, keys, allowed=allowed, pool=pool, threads=threads)
    for i in range(B):
        facts = set(known.rows(keys[i : i + 1])[1].tolist())
        mask = np.ones(E, bool) if allowed is None else allowed[i % masks]
        others = [e for e in range(E) if e != targets[i] and e not in facts and mask[e]]
        own = scores[i, targets[i]]
        above, level = sum(scores[i, e] > own for e in others), sum(scores[i, e] == own for e in others)
        assert ranks[i] == 1 + above + level / 2
        assert candidates[i] == 1 + len(others)


def test_one_mask_for_all_queries_may_be_a_row() -> None:
    scores = np.array([[3, 2, 1], [3, 2, 1]], np.float32)
    ranks, candidates = filtered_ranks(
        scores, np.array([1, 2]), NOTHING, np.array([-1, -1]), allowed=np.array([False, True, True])
    )
    assert ranks.tolist() == [1, 2]
    assert candidates.tolist() == [2, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = np.array([[0, 1, bad]], np.float32)
    with pytest.raises(TrainingDiverged, match="not finite"):
        filtered_ranks(scores, np.array([0]), NOTHING, np.array([-1]))


def test_metrics_by_hand() -> None:
    got = ranking_metrics(np.array([1.0, 2.0, 4.0, 20.0]), np.full(4, 39.0), METRICS)
    assert got["mrr"] == pytest.approx((1 + 0.5 + 0.25 + 0.05) / 4)
    assert got["mr"] == 6.75
    assert got["amri"] == pytest.approx(1 - 5.75 / 19)
    assert [got[name] for name in HITS] == [0.25, 0.5, 0.75]
    assert got["ndcg_10"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(5)) / 4)
    assert got["auc"] == pytest.approx(1 - (0 + 1 + 3 + 19) / 38 / 4)


def test_metrics_of_ties() -> None:
    got = ranking_metrics(np.array([2.5, 2.0]), np.array([4.0, 3.0]), ("auc", "mrr"))
    assert got == {"auc": pytest.approx((1 - 1.5 / 3 + 0.5) / 2), "mrr": pytest.approx((1 / 2.5 + 1 / 2) / 2)}


def test_a_single_candidate_says_nothing() -> None:
    got = ranking_metrics(np.ones(2), np.ones(2), ("amri", "auc"))
    assert got == {"amri": 0.0, "auc": 1.0}


def test_metrics_without_a_query_are_nan() -> None:
    got = ranking_metrics(np.empty(0), np.empty(0), HITS)
    assert list(got) == list(HITS)
    assert np.isnan(list(got.values())).all()
