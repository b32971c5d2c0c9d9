"""Reading a series tensor: blocks of time steps, and windows.

A series tensor is one float32 array of shape [T, N1, ..., NM] (a memory map will do), NaN = not observed. No function
here copies all of it. Shapes: T time steps, B windows, N = N1 x ... x NM series.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from graphlearn.types import BoolArray, FloatArray, IdArray

BLOCK_CELLS = 1 << 22


def blocks(values: FloatArray, stop: int | None = None, start: int = 0) -> Iterator[tuple[int, FloatArray]]:
    """Blocks (first step, cells) of whole time steps, each at most 4 million cells or one step."""
    stop = len(values) if stop is None else stop
    rows = max(1, BLOCK_CELLS // max(1, int(np.prod(values.shape[1:]))))
    for lo in range(start, stop, rows):
        yield lo, np.asarray(values[lo : min(lo + rows, stop)])


def observed_cells(block: FloatArray, observed: BoolArray | None, lo: int) -> BoolArray:
    """Cells of a block that are known and, if given, in the mask `observed` of the whole tensor."""
    seen: BoolArray = np.isfinite(block)
    return seen if observed is None else seen & observed[lo : lo + len(block)]


Cells = TypeVar("Cells", FloatArray, BoolArray)


def gather(values: Cells, starts: IdArray, length: int, offset: int = 0) -> Cells:
    """Steps start + offset .. + length - 1 of each start; steps outside the tensor are NaN (False in a mask).

    shape: [T, N...], [B] -> [B, length, N...]
    """
    steps = np.asarray(starts, np.int64)[:, None] + offset + np.arange(length)
    inside = (steps >= 0) & (steps < len(values))
    out = np.asarray(values[np.clip(steps, 0, max(0, len(values) - 1))])
    if not inside.all():
        out[~inside] = np.nan if out.dtype.kind == "f" else False
    return out
