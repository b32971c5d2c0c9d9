"""Embedding tables, with rows that are read, updated by gradient steps, and appended during training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.core import row_updates
from graphlearn.types import FloatArray, IdArray

Optimizer: TypeAlias = Literal["adagrad", "row_adagrad", "row_adam"]
Initial: TypeAlias = Callable[[int, torch.Generator], Tensor]

BLOCK = 64
"""New rows are drawn in blocks of this size."""


class Table(Protocol):
    """Rows with ids 0 .. len - 1 and their optimiser state, wherever they are stored. shape: [rows, ...]"""

    def __len__(self) -> int: ...

    def gather(self, ids: Tensor) -> Tensor:
        """A copy of the rows. shape: [n] -> [n, ...]"""

    def push(self, ids: Tensor, gradients: Tensor, rate: float) -> None:
        """One optimiser step of rows `ids`, which are distinct. shape: [n], [n, ...]"""

    def grow(self, n: int) -> None:
        """Append rows until there are `n`; the others and their optimiser state stay as they are."""

    def state(self) -> dict[str, Tensor]:
        """The weights ("weights") and the optimiser state, by name."""


class LocalTable:
    """A table in the memory of one device.

    optimizer: adagrad has one accumulator per entry (Duchi et al. 2011), row_adagrad one per row, of the mean square of
    its gradients; row_adam is Adam (Kingma & Ba 2015) with one second moment per row. Rows that a step does not touch
    stay unchanged.

    `initial` creates new rows. Row i depends only on `seed` and i, however often the table has grown. With `parts` = 2,
    the table consists of two halves of equal length (relations and their inverses), each of which grows at its end.
    """

    def __init__(
        self,
        weights: Tensor,
        optimizer: Optimizer,
        initial: Initial | None = None,
        *,
        seed: tuple[int, ...] = (),
        parts: int = 1,
    ) -> None:
        self.weights, self.optimizer, self.initial, self.seed, self.parts = weights, optimizer, initial, seed, parts
        self.square = torch.zeros(weights.shape if optimizer == "adagrad" else weights.shape[:1], device=weights.device)
        self.mean = torch.zeros_like(weights) if optimizer == "row_adam" else None
        self.steps = torch.zeros(1, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def array(self) -> FloatArray:
        """The weights themselves, on a CPU. `grow` replaces this array."""
        out: FloatArray = self.weights.numpy()
        return out

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies: weights, square, steps, and mean for row_adam."""
        out = {"weights": self.weights, "square": self.square, "steps": self.steps}
        return out if self.mean is None else out | {"mean": self.mean}

    def gather(self, ids: Tensor) -> Tensor:
        """A copy of the rows. shape: [n] -> [n, ...]"""
        return self.weights[ids]

    def push(self, ids: Tensor | None, gradients: Tensor, rate: float) -> None:
        """One optimiser step of rows `ids`, which are distinct (None: all rows). shape: [n], [n, ...]"""
        self.begin()
        if gradients.device.type != "cpu" or gradients.dim() != 2:
            self._update(ids, gradients, rate)
            return
        every = np.arange(len(gradients))
        rows = every if ids is None else ids.numpy()
        self.update_rows(rows, every, 0, len(rows), gradients.contiguous().numpy(), rate)

    def begin(self) -> None:
        """Count a step. `push` calls this; before `update_rows`, call it once per step."""
        self.steps += 1

    def _corrections(self) -> tuple[float, float]:
        t = int(self.steps)
        return 1 - 0.9**t, 1 - 0.999**t

    def update_rows(self, ids: IdArray, rows: IdArray, lo: int, hi: int, g: FloatArray, rate: float) -> None:
        """Update rows of a matrix on a CPU in place: rows `rows[lo:hi]` of `g` are the gradients of `ids[rows[lo:hi]]`.

        Threads can share a step if their ids are disjoint.
        """
        table, square = self.array, self.square.numpy()
        if self.optimizer == "adagrad":
            row_updates.adagrad_entries(table, square, ids, rows, lo, hi, g, rate)
        elif self.optimizer == "row_adagrad":
            row_updates.adagrad_rows(table, square, ids, rows, lo, hi, g, rate)
        else:
            assert self.mean is not None
            row_updates.adam_rows(table, self.mean.numpy(), square, ids, rows, lo, hi, g, rate, *self._corrections())

    def _update(self, ids: Tensor | None, gradient: Tensor, rate: float) -> None:
        """The same update with tensors, for any device and number of dimensions."""
        rows = slice(None) if ids is None else ids
        touched = self.square[rows]
        if self.optimizer == "adagrad":
            touched = touched + gradient * gradient
            move = gradient / (touched.sqrt() + 1e-10)
        else:
            size = gradient.square().flatten(1).mean(dim=1)
            if self.optimizer == "row_adagrad":
                touched = touched + size
                move = gradient / _like(touched.sqrt() + 1e-10, gradient)
            else:
                assert self.mean is not None
                touched = 0.999 * touched + 0.001 * size
                mean = 0.9 * self.mean[rows] + 0.1 * gradient
                first, second = self._corrections()
                move = mean / first / _like((touched / second).sqrt() + 1e-8, gradient)
                self.mean[rows] = mean
        self.square[rows] = touched
        if ids is None:
            self.weights.sub_(move, alpha=rate)
        else:
            self.weights.index_add_(0, ids, move, alpha=-rate)

    def grow(self, n: int) -> None:
        """Append rows until there are `n`; the others and their optimiser state stay as they are."""
        old, new = len(self) // self.parts, n // self.parts
        assert new >= old
        assert n % self.parts == 0
        if new == old:
            return
        fresh = [self._fresh(part, old, new).to(self.weights) for part in range(self.parts)]
        self.weights = self._extended(self.weights, fresh)
        nothing = torch.zeros_like(fresh[0])
        state = nothing if self.optimizer == "adagrad" else nothing.new_zeros(new - old)
        self.square = self._extended(self.square, [state] * self.parts)
        if self.mean is not None:
            self.mean = self._extended(self.mean, [nothing] * self.parts)

    def _extended(self, tensor: Tensor, fresh: list[Tensor]) -> Tensor:
        return torch.cat([x for pair in zip(tensor.chunk(self.parts), fresh, strict=True) for x in pair])

    def _fresh(self, part: int, lo: int, hi: int) -> Tensor:
        """New rows lo .. hi - 1 of a part. Whole blocks are drawn, each from the seed and its number."""
        assert self.initial is not None
        first, last = lo // BLOCK, (hi - 1) // BLOCK
        drawn = []
        for block in range(first, last + 1):
            words = np.random.SeedSequence([*self.seed, part, block]).generate_state(1, np.uint64)
            drawn.append(self.initial(BLOCK, torch.Generator().manual_seed(int(words[0] >> 1))))
        return torch.cat(drawn)[lo - first * BLOCK : hi - first * BLOCK]


def _like(column: Tensor, gradient: Tensor) -> Tensor:
    return column.view(-1, *[1] * (gradient.dim() - 1))
