"""The update of touched rows: the compiled pass over rows against the tensor form, and what it must not touch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphlearn.models.kge.optimisers import Kind, RowOptimiser


@pytest.mark.parametrize("kind", ["adagrad", "row_adagrad", "row_adam"])
def test_the_compiled_update_is_the_tensor_update(kind: Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(30, 7, generator=generator)
    one, other = RowOptimiser(kind, table.clone()), RowOptimiser(kind, table.clone())
    for _ in range(4):
        ids = torch.randperm(30, generator=generator)[:9]
        gradient = torch.randn(9, 7, generator=generator)
        one.begin()
        other.begin()
        one.update(ids, gradient, 0.1)
        other.update_fused(ids.numpy(), np.arange(9), 0, 9, gradient.numpy().copy(), 0.1)
        torch.testing.assert_close(other.table, one.table, rtol=1e-5, atol=1e-6)
    for name, value in one.state.items():
        torch.testing.assert_close(other.state[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adagrad", "row_adagrad", "row_adam"])
def test_rows_that_a_step_does_not_touch_do_not_move(kind: Kind) -> None:
    table = torch.arange(12.0).view(4, 3)
    optimiser = RowOptimiser(kind, table)
    for _ in range(3):
        optimiser.begin()
        optimiser.update(torch.tensor([1]), torch.ones(1, 3), 0.1)
    assert torch.equal(table[[0, 2, 3]], torch.arange(12.0).view(4, 3)[[0, 2, 3]])
    assert (table[1] < torch.tensor([3.0, 4.0, 5.0])).all()
