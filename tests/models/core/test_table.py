"""Tables: the compiled update compared with the tensor form, rows that must not change, and growth."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from graphlearn.models.core.table import BLOCK, LocalTable, Optimizer

OPTIMIZERS = get_args(Optimizer)


def normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 7, generator=generator)


def table(optimizer: Optimizer, rows: int = 30, *, seed: int = 0, parts: int = 1) -> LocalTable:
    weights = normal(rows, torch.Generator().manual_seed(seed))
    return LocalTable(weights, optimizer, normal, seed=(seed, 0), parts=parts)


def copies(one: LocalTable) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.state().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("every", [False, True])
def test_the_compiled_update_is_the_tensor_update(optimizer: Optimizer, every: bool) -> None:
    """A three-dimensional table uses the tensor form; the numbers are the same."""
    generator = torch.Generator().manual_seed(1)
    matrix = table(optimizer)
    cube = LocalTable(matrix.weights.clone().view(30, 7, 1), optimizer)
    for _ in range(4):
        ids = None if every else torch.randperm(30, generator=generator)[:9]
        gradients = torch.randn(30 if ids is None else 9, 7, generator=generator)
        matrix.push(ids, gradients.clone(), 0.1)
        cube.push(ids, gradients.unsqueeze(2), 0.1)
    for name, value in matrix.state().items():
        torch.testing.assert_close(cube.state()[name].view(value.shape), value, rtol=1e-5, atol=1e-6)
    assert int(matrix.steps) == 4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_that_a_step_does_not_touch_do_not_move(optimizer: Optimizer) -> None:
    one = LocalTable(torch.arange(12.0).view(4, 3), optimizer)
    for _ in range(3):
        one.push(torch.tensor([1]), torch.ones(1, 3), 0.1)
    assert torch.equal(one.weights[[0, 2, 3]], torch.arange(12.0).view(4, 3)[[0, 2, 3]])
    assert (one.weights[1] < torch.tensor([3.0, 4.0, 5.0])).all()


def test_gather_copies() -> None:
    one = table("adagrad")
    rows = one.gather(torch.tensor([3, 3, 0]))
    rows.zero_()
    assert one.weights[3].abs().sum() > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_growth_leaves_rows_and_their_state_as_they_are(optimizer: Optimizer) -> None:
    one, still = table(optimizer), table(optimizer)
    for at in (one, still):
        at.push(torch.arange(0, 30, 2), torch.ones(15, 7), 0.1)
    before = copies(one)
    one.grow(100)
    assert len(one) == len(one.array) == 100
    for name, value in before.items():
        grown = one.state()[name]
        assert torch.equal(grown if name == "steps" else grown[:30], value)
        assert name in ("weights", "steps") or not grown[30:].any()
    ids, gradients = torch.tensor([4, 5, 64, 99]), torch.randn(4, 7, generator=torch.Generator().manual_seed(2))
    one.push(ids, gradients.clone(), 0.1)
    still.push(ids[:2], gradients[:2].clone(), 0.1)
    for name, value in still.state().items():
        grown = one.state()[name]
        assert torch.equal(grown if name == "steps" else grown[:30], value)
    assert not torch.equal(one.weights[64], table(optimizer, 100).weights[64])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_new_row_depends_on_the_seed_and_its_place_alone(parts: int) -> None:
    at_once, steps, other = table("row_adam", 6), table("row_adam", 6), table("row_adam", 6, seed=1)
    for one in (at_once, steps, other):
        one.parts = parts
    for n in (6, 8, 10, 2 * BLOCK, 6 * BLOCK):
        steps.grow(n)
    at_once.grow(6 * BLOCK)
    other.grow(6 * BLOCK)
    assert torch.equal(at_once.weights, steps.weights)
    old = torch.zeros(6 * BLOCK, dtype=torch.bool)
    for part in range(parts):
        old[part * (len(old) // parts) :][: 6 // parts] = True
    assert torch.equal(at_once.weights[old], table("row_adam", 6).weights)
    assert not torch.isclose(at_once.weights[~old], other.weights[~old]).any(dim=1).all()
    assert len(torch.unique(at_once.weights, dim=0)) == len(old)
    assert float(at_once.weights[~old].mean()) == pytest.approx(0, abs=0.1)
    assert float(at_once.weights[~old].std()) == pytest.approx(1, abs=0.1)


def test_rows_are_updated_in_the_grown_table() -> None:
    """`update_rows` changes rows of the new array, not of the one before `grow`."""
    one = table("row_adagrad")
    one.grow(40)
    before = one.weights.clone()
    every = np.arange(3)
    one.begin()
    one.update_rows(np.array([0, 35, 39]), every, 0, 3, np.ones((3, 7), np.float32), 0.1)
    moved = (one.weights != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [0, 35, 39]
