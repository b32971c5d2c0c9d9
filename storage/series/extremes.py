"""Values that are probably no readings: codes for a missing one (-9999), and single absurd ones (1e30)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphlearn.types import FloatArray

CODES = (-99999.0, -32768.0, -9999.0, -9999.9, -999.0, -999.9, 999.0, 999.9, 9999.0, 9999.9, 32767.0, 99999.0)
"""Values that often stand for a missing reading."""
FAR_CODE, FAR_REPEATED, FAR_ONCE = 1.0, 10.0, 1000.0
"""How far a code, a repeated value and a single value must be from the rest, in ranges of the rest."""
ROUNDS = 3
"""Extremes per end of a series that are looked for."""
_CELLS = 1 << 22


def find_extremes(values: FloatArray) -> dict[float, int]:
    """The suspicious values and how often each occurs, the most frequent first.

    A value is suspicious if it is the least or the greatest of a series, and its distance from the next one is a
    multiple of the range of the others, which is smaller for known codes than for other values. shape: [T, series]
    """
    found: dict[float, int] = {}
    width = max(1, _CELLS // max(1, len(values)))
    for lo in range(0, values.shape[1], width):
        part = np.array(values[:, lo : lo + width])
        for _ in range(ROUNDS):
            rows = list(_round(part))
            for value, count in rows:
                found[value] = found.get(value, 0) + count
            if not rows:
                break
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _round(part: FloatArray) -> Iterator[tuple[float, int]]:
    """Yield the least and greatest values of series that are far from the others, and make them NaN in `part`."""
    for sign in (1, -1):
        signed = sign * part
        top = np.fmax.reduce(signed, axis=0)
        at_top = signed == top
        rest = np.where(at_top, np.float32(np.nan), signed)
        following = np.fmax.reduce(rest, axis=0)
        # the range of the others leaves out one value at the other end, which may be suspicious as well
        least = np.fmin.reduce(rest, axis=0)
        inner = np.fmin.reduce(np.where(rest == least, np.float32(np.nan), rest), axis=0)
        count = at_top.sum(axis=0)
        with np.errstate(invalid="ignore", over="ignore"):
            gap, spread = top - following, following - inner
        code = np.isin(sign * top, np.array(CODES, np.float32))
        far = np.where(code, FAR_CODE, np.where(count > 1, FAR_REPEATED, FAR_ONCE))
        wrong = (spread > 0) & (gap > far * spread)
        for n in np.flatnonzero(wrong):
            yield float(sign * top[n]), int(count[n])
            part[at_top[:, n], n] = np.nan
