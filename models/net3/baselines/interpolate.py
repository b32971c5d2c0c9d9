"""Linear interpolation in time. Shapes: T time steps, N = N1 x ... x NM series."""

from __future__ import annotations

import numpy as np

from graphlearn.models.net3.data.tensor import BLOCK_CELLS
from graphlearn.types import FloatArray


def interpolate(x: FloatArray) -> FloatArray:
    """The line between the known cells before and after each step; at both ends the nearest one, 0 without any.

    NaN is missing. shape: [T, N...] -> [T, N...]
    """
    T = len(x)
    flat, out = x.reshape(T, -1), np.zeros((T, int(np.prod(x.shape[1:]))), np.float32)
    steps = np.arange(T)[:, None]
    size = max(1, BLOCK_CELLS // max(1, T))
    for lo in range(0, flat.shape[1], size):
        part = np.asarray(flat[:, lo : lo + size])
        seen = np.isfinite(part)
        before = np.maximum.accumulate(np.where(seen, steps, -1), axis=0)
        after = np.minimum.accumulate(np.where(seen, steps, T)[::-1], axis=0)[::-1]
        first, last = (np.where(a < 0, b, a) for a, b in ((before, after), (np.where(after < T, after, -1), before)))
        none = ~seen.any(axis=0)
        first[:, none], last[:, none] = 0, 0
        columns = np.arange(part.shape[1])
        left, right = part[first, columns], part[last, columns]
        share = (steps - first) / np.maximum(last - first, 1)
        out[:, lo : lo + size] = np.where(none, 0, left + (right - left) * np.clip(share, 0, 1))
    return out.reshape(x.shape)
