"""Low-rank completion of a matrix with missing cells, by iterative SVD. Shapes: T time steps, P series."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphlearn.types import BoolArray, FloatArray


def low_rank(
    x: FloatArray, observed: BoolArray, rank: int, *, shrinkage: float = 0.0, rounds: int = 100, tolerance: float = 1e-4
) -> FloatArray:
    """Iterative SVD: fill missing cells with the best approximation of that rank, and repeat.

    Hard impute with `shrinkage` 0, else soft impute (Mazumder, Hastie, Tibshirani 2010): every singular value is
    reduced by `shrinkage` times the largest one of the data. Cells start at 0, so columns should be centred. Stops
    when the approximation changes by less than `tolerance` of its norm. shape: [T, P], [T, P] -> [T, P]
    """
    data = np.where(observed, x, 0).astype(np.float32)
    wide = data.shape[0] <= data.shape[1]
    if not wide:
        data, observed = np.ascontiguousarray(data.T), observed.T
    rank = max(1, min(rank, len(data)))
    filled, fit = data.copy(), np.zeros_like(data)
    cut = 0.0
    for _ in range(rounds):
        square, vectors = np.linalg.eigh(filled @ filled.T)
        if shrinkage and not cut:
            cut = shrinkage * float(np.sqrt(max(square[-1], 0)))
        top, basis = np.sqrt(np.maximum(square[-rank:], 0)), vectors[:, -rank:]
        keep = np.maximum(top - cut, 0) / np.maximum(top, 1e-12)
        last, fit = fit, (basis * keep) @ (basis.T @ filled)
        filled = np.where(observed, data, fit)
        if np.linalg.norm(fit - last) <= tolerance * max(float(np.linalg.norm(fit)), 1e-12):
            break
    return fit if wide else fit.T


def choose_rank(
    x: FloatArray,
    observed: BoolArray,
    ranks: Sequence[int],
    *,
    shrinkages: Sequence[float] = (0.0,),
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[int, float]:
    """The rank and shrinkage with the least squared error on a tenth of the observed cells, held out at random.

    `advance` is called after each fit.

    shape: [T, P], [T, P]
    """
    held = observed & (np.random.default_rng([seed, 2]).random(x.shape) < 0.1)
    best = (np.inf, ranks[0], shrinkages[0])
    for shrinkage in shrinkages:
        for rank in ranks:
            fit = low_rank(x, observed & ~held, rank, shrinkage=shrinkage, rounds=50, tolerance=1e-3)
            advance()
            best = min(best, (float(np.square(np.where(held, fit - np.where(held, x, 0), 0)).sum()), rank, shrinkage))
    return best[1], best[2]


def rank_choices(steps: int, series: int) -> Sequence[int]:
    """Ranks to try for the completion of a matrix [steps, series]."""
    most = max(1, min(steps, series) - 1)
    return sorted({min(most, r) for r in (2, 5, 10, 20, 30, 40)})
