"""Fit of the linear model of DHAN: logistic regression on averaged features.

The weights of channels, the distance over which features are averaged and the weight decay are selected on the
validation split: starting from equal weights, one channel's weight at a time is scaled up or down while that helps.

Shapes: n rows, D features of all types, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphlearn.models.dhan.linear.model import (
    LinearModel,
    Mix,
    averaged_rows,
    cost,
    features_of,
    sketched,
)
from graphlearn.models.dhan.network.batch import Batch
from graphlearn.models.hetero.regression import STEPS, regress

RESTARTS = (0.05, 0.1, 0.2, 0.5)
DECAYS = (3e-5, 3e-4, 3e-3)
UNMEASURED = ((0.1,), (3e-4,))
"""Both without a validation split."""
FACTOR = 4.0
SKETCH = 512
"""Columns of the random projection used while searching the weights of channels."""
SEARCH = 50_000_000_000
"""Multiplications over edges that the search for the weights of channels may take."""
TRIES, GAIN = 60, 1e-3
"""Largest number of weights that the search tries, and the least improvement of the score by a move."""

AFFORDABLE = 20_000_000_000
"""Multiplications over edges that a fit may take; larger graphs have no linear model."""
ROOM = 2**28
"""Largest number of entries of the averaged rows, or of the sketch."""
DENSE = 20
"""Multiplications in matrix products that take as long as one over edges."""


def effort(batch: Batch, width: int, rows: int, classes: int, decays: int) -> int:
    """Cost of averaging that many columns and of the regression on them, in multiplications over edges."""
    inner = min(rows, width)
    products = rows * width * rows if rows < width else 0
    regression = products + decays * 2 * STEPS * rows * inner * classes
    return cost(batch, width) + len(RESTARTS) * regression // DENSE


def affordable(batch: Batch, rows: int, classes: int) -> bool:
    """Whether a linear model can be fitted to that many training and validation rows."""
    width = features_of(batch)
    small = rows * width * len(RESTARTS) <= ROOM
    return small and effort(batch, width, rows, classes, len(DECAYS)) <= AFFORDABLE


@dataclass(frozen=True)
class Fit:
    """Weights [D, C], bias [C] and the settings they belong to. score: on the validation split, lower is better."""

    weights: Tensor
    bias: Tensor
    mix: Mix
    restart: float
    score: float


def fit_linear(
    linear: LinearModel,
    batch: Batch,
    actual: Tensor,
    train: Tensor,
    valid: Tensor,
    single: bool,
    measure: Callable[[Tensor], float],
) -> None:
    """Fit the model; `measure` scores logits of the validation split, lower is better.

    actual: [N, C]; train, valid: rows. The same graph gives the same weights.
    """
    rows = torch.cat([train, valid])
    known, width = actual[train], features_of(batch)
    restarts, decays = (RESTARTS, DECAYS) if len(valid) else UNMEASURED

    def attempt(mix: Mix, decays: tuple[float, ...], sketch: Mapping[str, Tensor]) -> Fit:
        best: Fit | None = None
        for restart, x in averaged_rows(batch, mix, linear.target, rows, restarts, sketch).items():
            for weights, bias in regress(x[: len(train)], known, single, decays):
                score = measure(x[len(train) :] @ weights + bias) if len(valid) else 0.0
                if best is None or score < best.score:
                    best = Fit(weights, bias, mix, restart, score)
        assert best is not None
        return best

    mix: Mix = {t: torch.zeros_like(logits) for t, logits in linear.mix.items()}
    nodes = sum(len(c.nodes) for c in batch.columns.values())
    if width and len(valid) and nodes * min(width, SKETCH) <= ROOM:
        sketch = sketched(batch, mix, SKETCH) if width > SKETCH else {}
        each = effort(batch, min(width, SKETCH), len(rows), actual.shape[1], 1)
        mix = _search(mix, min(TRIES, SEARCH // max(1, each)), lambda mix: attempt(mix, DECAYS[1:2], sketch).score)
    best = attempt(mix, decays, {})
    linear.take(best.weights, best.bias, best.mix, best.restart)


def _search(mix: Mix, tries: int, score: Callable[[Mix], float]) -> Mix:
    """The weights of channels with the lowest score, by moves of one logit that lower it."""
    places = [(t, r) for t, logits in mix.items() if len(logits) > 1 for r in range(len(logits))]
    best, moved = score(mix), True
    while moved:
        moved = False
        for (t, r), move in itertools.product(places, (math.log(FACTOR), -math.log(FACTOR))):
            if tries <= 0:
                return mix
            tries -= 1
            other = {u: logits.clone() for u, logits in mix.items()}
            other[t][r] += move
            found = score(other)
            if found < best - GAIN:
                best, mix, moved = found, other, True
    return mix
