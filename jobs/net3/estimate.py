"""What fitting, training and evaluating models of series will cost.

The constants were measured on the reference machine (`benchmarks/estimates.py`). Shapes: T time steps, n series, W
steps of a window.
"""

from __future__ import annotations

from graphlearn.jobs.dataflow import Estimate
from graphlearn.jobs.net3.options import Net3JobOptions
from graphlearn.jobs.train import expected_epochs
from graphlearn.storage.series.sizes import SeriesSizes

IMPORTS = 1.2
"""Seconds to import what torch's optimisers need, once per process."""
STEP = 4.5e-3
"""Seconds of an optimiser step, apart from its windows."""
CELL, CELL_RECOVER = 25e-9, 70e-9
"""Seconds per cell of a window and channel, apart from matrix products."""
SHARE = 0.35
"""Speed of matrix products of this size, as a share of that of large ones."""
FORWARD = 0.35
"""A prediction, as a share of an optimiser step."""
FIT, FIT_STEP = 1e-7, 1.2e-8
"""Seconds per cell to fit and measure seasonal means and linear AR, and in addition for each step ahead."""
BASELINE = 3e-6
"""Seconds per cell of all baselines together, which rarely need all that they may take."""
COMPLETION = 4500.0
"""Multiplications and additions to select the rank and complete the cells, per T n min(T, n)."""
CHOSEN = 512
"""The largest number of series that the seasonal means and the ridge are selected on."""


def window(series: SeriesSizes, options: Net3JobOptions) -> Estimate:
    """One window in an optimiser step."""
    n = series.cells // max(1, series.steps)
    recover = options.task == "recover"
    length = 2 * options.window + 1 if smooth(options) else options.window
    width = sum(min(options.core_limit, int(options.core * mode) + 1) for mode in series.modes.values())
    flops = 6.0 * length * n * options.dim * (2 * options.dim + 2 * width + 16)
    cells = (CELL_RECOVER if recover else CELL) * length * n * options.dim
    return Estimate(seconds=STEP / options.batch_size + cells, flops=flops, gemm=flops / SHARE)


def windows(steps: int, options: Net3JobOptions) -> tuple[int, int, int]:
    """The numbers of windows to train on, of the validation split, and of the test split."""
    if options.task == "recover":
        from graphlearn.models.net3.training.recover import FOLDS

        return steps * (FOLDS if smooth(options) else 1), steps, steps
    train, valid, test = (round(steps * part) for part in options.split)
    return max(0, train - options.window - options.horizon), valid, test


def smooth(options: Net3JobOptions) -> bool:
    """Whether a recovery reads both sides of a time step."""
    return options.task == "recover" and options.recovery == "smooth"


def training(series: SeriesSizes, options: Net3JobOptions) -> Estimate:
    """The whole training, with an evaluation after each epoch."""
    train, valid, _ = windows(series.steps, options)
    return window(series, options) * (expected_epochs(options) * (train + FORWARD * valid))


def evaluation(series: SeriesSizes, options: Net3JobOptions) -> Estimate:
    """The validation split twice, for metrics and for intervals, and the test split; after a recovery all cells."""
    _, valid, test = windows(series.steps, options)
    return window(series, options) * (FORWARD * (2 * valid + test + (series.steps if options.task == "recover" else 0)))


def preparation(series: SeriesSizes, options: Net3JobOptions) -> Estimate:
    """What is fitted in closed form before training."""
    n = series.cells // max(1, series.steps)
    if smooth(options):
        work = COMPLETION * series.cells * min(series.steps, n) * (0.3 if options.rank else 1)
        return Estimate(seconds=IMPORTS, gemm=work)
    seasons = (1 if options.season else 5) * (1 if options.season_rank >= 0 else 4)
    fits = seasons + (1 if options.ridge or options.linear_skip == "none" else 3)
    cells = series.steps * ((fits if fits > 2 else 0) * min(n, CHOSEN) + 2 * n)
    return Estimate(seconds=IMPORTS + cells * (FIT + FIT_STEP * options.horizon))


def baselines(series: SeriesSizes) -> Estimate:
    """Fitting and measuring the baselines."""
    return Estimate(seconds=BASELINE * series.cells)
