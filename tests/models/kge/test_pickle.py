"""What a task sends to another process is unchanged by pickling: options, scorers, samplers, filters, embeddings."""

from __future__ import annotations

import pickle
from typing import TypeVar

import numpy as np
import pytest
import torch
from cases.kge import MODELS, graph, scorer

from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.batches import Sampler
from graphlearn.models.kge.device_batches import DeviceSampler
from graphlearn.models.kge.engines.make import make_engine
from graphlearn.types import Side

E, R = 40, 5
T = TypeVar("T")


def copied(value: T) -> T:
    out: T = pickle.loads(pickle.dumps(value))
    return out


@pytest.mark.parametrize(("model", "extra"), [*((m, {}) for m in MODELS), ("transe", {"norm": 2})])
def test_an_embedding(model: str, extra: dict[str, int]) -> None:
    s = scorer(model, **extra)
    engine = make_engine(s, E, R)
    one, other = engine.embedding, copied(engine.embedding)
    engine.close()
    assert copied(s.options) == s.options == other.scorer.options
    assert other.scorer.similarity is s.similarity
    test = graph(20, E, R, 1)
    known = {side: KnownAnswers.of([test], side, R) for side in Side}
    expected, got = one.rank(test, known, threads=1), other.rank(test, copied(known), threads=1)
    assert np.array_equal(got.head, expected.head)
    assert np.array_equal(got.tail, expected.tail)
    assert np.array_equal(
        one.score(test.heads, test.relations, test.tails), other.score(test.heads, test.relations, test.tails)
    )


@pytest.mark.parametrize("negatives", [0, 10])
def test_a_sampler(negatives: int) -> None:
    given = {"filter_negatives": True, "degree_exponent": 0.5} if negatives else {}
    options = scorer("complex", negatives=negatives, **given).options
    one = Sampler(graph(), E, R, options)
    for a, b in zip(one.epoch(2), copied(one).epoch(2), strict=True):
        assert np.array_equal(a.anchors, b.anchors)
        assert np.array_equal(a.candidates, b.candidates)
        assert a.keys is not None
        assert b.keys is not None
        assert np.array_equal(a.keys, b.keys)


def test_a_sampler_of_a_device() -> None:
    options = scorer("complex", filter_negatives=True, degree_exponent=0.5).options
    one = DeviceSampler(graph(), E, R, options, torch.device("cpu"))
    for a, b in zip(one.epoch(2), copied(one).epoch(2), strict=True):
        assert torch.equal(a.anchors, b.anchors)
        assert torch.equal(a.candidates, b.candidates)
        assert a.filter is not None
        assert b.filter is not None
        assert torch.equal(a.filter.pairs, b.filter.pairs)
