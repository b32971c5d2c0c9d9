"""Optimisers that move only the rows a step touched, in place. State lives beside the table, on the same device."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from graphlearn.models.kge.kernels import table as table_kernels
from graphlearn.types import FloatArray, IdArray

Kind: TypeAlias = Literal["adagrad", "row_adagrad", "row_adam"]


class RowOptimiser:
    """The state of one table and its update rule.

    adagrad: an accumulator per entry (Duchi et al. 2011). row_adagrad: the mean square of a row's gradient, one number
    a row. row_adam: Adam (Kingma & Ba 2015) with one second moment a row; untouched rows do not move.
    """

    def __init__(self, kind: Kind, table: Tensor) -> None:
        self.kind, self.table = kind, table
        rows = table.shape[0]
        self.state: dict[str, Tensor] = {}
        if kind == "adagrad":
            self.state["square"] = torch.zeros_like(table)
        else:
            self.state["square"] = torch.zeros(rows, device=table.device)
        if kind == "row_adam":
            self.state["mean"] = torch.zeros_like(table)
        self.state["steps"] = torch.zeros(1, dtype=torch.int64)

    def begin(self) -> None:
        """Count a step; call once before the updates of a step."""
        self.state["steps"] += 1

    def _corrections(self) -> tuple[float, float]:
        t = int(self.state["steps"])
        return 1 - 0.9**t, 1 - 0.999**t

    def update(self, ids: Tensor | None, gradient: Tensor, rate: float) -> None:
        """Move rows `ids` (distinct; None is all rows) against their gradients. shape: [n], [n, ...]"""
        square = self.state["square"]
        if self.kind == "adagrad":
            touched = square if ids is None else square[ids]
            touched = touched + gradient * gradient
            move = gradient / (touched.sqrt() + 1e-10)
        else:
            touched = square if ids is None else square[ids]
            size = gradient.square().flatten(1).mean(dim=1)
            if self.kind == "row_adagrad":
                touched = touched + size
                move = gradient / _like(touched.sqrt() + 1e-10, gradient)
            else:
                touched = 0.999 * touched + 0.001 * size
                mean = self.state["mean"] if ids is None else self.state["mean"][ids]
                mean = 0.9 * mean + 0.1 * gradient
                first, second = self._corrections()
                move = mean / first / _like((touched / second).sqrt() + 1e-8, gradient)
                _store(self.state["mean"], ids, mean)
        _store(square, ids, touched)
        if ids is None:
            self.table.sub_(move, alpha=rate)
        else:
            self.table.index_add_(0, ids, move, alpha=-rate)

    def update_fused(self, ids: IdArray, rows: IdArray, lo: int, hi: int, g: FloatArray, rate: float) -> None:
        """The same on a CPU for `rows[lo:hi]`; row i of `g` is the gradient of the table row `ids[i]`."""
        table, square = self.table.numpy(), self.state["square"].numpy()
        if self.kind == "adagrad":
            table_kernels.adagrad_entries(table, square, ids, rows, lo, hi, g, rate)
        elif self.kind == "row_adagrad":
            table_kernels.adagrad_rows(table, square, ids, rows, lo, hi, g, rate)
        else:
            first, second = self._corrections()
            table_kernels.adam_rows(
                table, self.state["mean"].numpy(), square, ids, rows, lo, hi, g, rate, first, second
            )


def _like(column: Tensor, gradient: Tensor) -> Tensor:
    return column.view(-1, *[1] * (gradient.dim() - 1))


def _store(target: Tensor, ids: Tensor | None, value: Tensor) -> None:
    if ids is None:
        target.copy_(value)
    else:
        target.index_copy_(0, ids, value)
