"""Batches drawn on a device: here on the CPU, with the code that also runs on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases.kge import MODELS, graph, scorer

from graphlearn.models.kge.batches import Batch, Sampler
from graphlearn.models.kge.device_batches import DeviceBatch, DeviceSampler
from graphlearn.models.kge.engines.autograd import AutogradEngine
from graphlearn.types import Side

E, R = 40, 5
CPU = torch.device("cpu")

VARIANTS: list[dict[str, Any]] = [
    {},
    {"filter_negatives": True},
    {"filter_negatives": True, "negative_sampling": "independent", "negatives": 7},
    {"reciprocal": True, "filter_negatives": True},
    {"sides": "alternate", "degree_exponent": 0.75},
]


def sampler(**options: Any) -> DeviceSampler:
    options = {"reciprocal": False, **options}
    return DeviceSampler(graph(), E, R, scorer("complex", **options).options, CPU)


def on_host(batch: DeviceBatch, host: Sampler) -> Batch:
    """The same step in the format of the host's sampler."""
    arrays = [x.numpy() for x in (batch.anchors, batch.relations, batch.targets)]
    side = batch.side
    if host.options.reciprocal and (batch.relations >= R).any():
        side = Side.HEAD
    known = host.known.get(side)
    keys = known.keys(arrays[0], batch.plain_relations.numpy()) if known is not None else None
    return Batch(*arrays[:3], batch.side, batch.candidates.numpy(), keys, known)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_is_the_same_as_from_the_host(model: str, variant: dict[str, Any]) -> None:
    s = scorer(model, **({"reciprocal": False} | variant))
    device, host = DeviceSampler(graph(), E, R, s.options, CPU), Sampler(graph(), E, R, s.options)
    one, other = AutogradEngine(s, E, R, CPU), AutogradEngine(s, E, R, CPU)
    for batch in device.epoch(0):
        assert float(one.step(batch, 0.1)) == pytest.approx(float(other.step(on_host(batch, host), 0.1)), rel=1e-5)
    torch.testing.assert_close(one.entities.weights, other.entities.weights)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_triple_is_asked_for_once_per_side(variant: dict[str, Any]) -> None:
    train, s = graph(), sampler(**variant)
    batches = list(s.epoch(3))
    assert len(batches) == s.steps(3)
    expected = len(train) * (1 if variant.get("sides") == "alternate" else 2)
    assert sum(b.examples for b in batches) == expected
    asked = np.concatenate([np.stack([b.anchors, b.plain_relations, b.targets]) for b in batches], axis=1)
    assert np.isin(asked[1], np.arange(R)).all()
    assert len(np.unique(asked[0])) > 10


def test_a_step_can_be_repeated_without_the_earlier_ones() -> None:
    s = sampler()
    whole, rest = list(s.epoch(1)), list(s.epoch(1, 3))
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.anchors, other.anchors)
        assert torch.equal(one.candidates, other.candidates)
    again = next(iter(sampler(seed=5).epoch(1)))
    assert not torch.equal(whole[0].candidates, again.candidates)


def test_negatives_follow_the_degrees() -> None:
    train = graph()
    s = sampler(degree_exponent=1.0, negatives=500)
    drawn = torch.cat([b.candidates.flatten() for b in s.epoch(0)]).bincount(minlength=E).double()
    degree = np.bincount(train.heads, minlength=E) + np.bincount(train.tails, minlength=E)
    assert np.corrcoef(drawn.numpy(), np.maximum(degree, 1))[0, 1] > 0.95
