"""Hand-derived gradients compared with autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graphlearn.models.kge.losses import (
    MASKED,
    BinaryCrossEntropy,
    Logistic,
    Loss,
    Margin,
    OneVsAllBinary,
    OneVsAllSoftmax,
    Softmax,
)

LOSSES: list[Loss] = [
    Softmax(),
    Softmax(2.5),
    Logistic(0.0, 0.0),
    Logistic(3.0, 1.0),
    Margin(1.0),
    BinaryCrossEntropy(0.0),
    BinaryCrossEntropy(2.0),
]


def test_every_loss_is_tested() -> None:
    assert {type(loss) for loss in LOSSES} == set(Loss.__subclasses__())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: f"{type(x).__name__}{vars(x)}")
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 30.0]))
@settings(max_examples=25, deadline=None)
def test_gradient_equals_autograd(loss: Loss, seed: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    positive = torch.randn(5, generator=g) * scale
    negative = torch.randn(5, 7, generator=g) * scale
    negative[0, 0] = negative[3, 4] = MASKED
    exact_positive, exact_negative = positive.double().requires_grad_(), negative.double().requires_grad_()
    value = loss.value(exact_positive, exact_negative)
    value.backward()  # type: ignore[no-untyped-call]
    got, d_positive, d_negative = loss.gradient(positive, negative.clone())
    assert exact_positive.grad is not None
    assert exact_negative.grad is not None
    assert got == pytest.approx(value.item(), rel=1e-4, abs=1e-5)
    torch.testing.assert_close(d_positive, exact_positive.grad.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(d_negative, exact_negative.grad.float(), rtol=1e-4, atol=1e-5)


def test_grouped_softmax_is_the_sum_over_triples() -> None:
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, answers = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([1, 4, 0, 2, 3, 5])
    value = F.cross_entropy(scores[rows], answers, reduction="sum")
    value.backward()  # type: ignore[no-untyped-call]
    counts = torch.bincount(rows).float()
    loss, gradient = OneVsAllSoftmax().gradient(scores.detach().clone(), rows, answers, counts)
    assert loss == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(gradient, scores.grad)


def test_grouped_binary_cross_entropy() -> None:
    scores = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, answers = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 4])
    labels = torch.zeros(2, 5)
    labels[rows, answers] = 1
    value = F.binary_cross_entropy_with_logits(scores + 1.5, labels, reduction="sum")
    value.backward()  # type: ignore[no-untyped-call]
    counts = torch.bincount(rows).float()
    loss, gradient = OneVsAllBinary(1.5).gradient(scores.detach().clone(), rows, answers, counts)
    assert loss == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(gradient, scores.grad)
