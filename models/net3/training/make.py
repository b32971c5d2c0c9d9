"""The training that belongs to a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from graphlearn.models.net3.baselines.linear_ar import fits_to_choose
from graphlearn.models.net3.baselines.low_rank import rank_choices
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.training.forecast import ForecastTraining, grid
from graphlearn.models.net3.training.recover import FOLDS, SHRINKAGES, SmoothRecovery, hold_out

if TYPE_CHECKING:
    from torch import Tensor

    from graphlearn.models.net3.network.mode_products import Graph
    from graphlearn.models.net3.options import Net3Options
    from graphlearn.models.net3.training.training import SeriesTraining
    from graphlearn.types import BoolArray, FloatArray, Split


def make_training(
    values: FloatArray,
    graphs: Mapping[int, Graph],
    options: Net3Options,
    calendar: Calendar | None = None,
    *,
    observed: BoolArray | None = None,
    eval_target: Mapping[Split, BoolArray] | None = None,
    fitted: Mapping[str, Tensor] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> SeriesTraining:
    """A new training, or one restored from `fitted`, the state or weights of such a training.

    values: [T, N1, ..., NM], NaN = not observed; a memory map will do. For a recovery, `observed` and `eval_target` are
    the cells to read and to measure; without them the share `options.hidden` of the known cells is held out. `advance`
    is called after each of `number_of_fits` fits. Raises InputError for a shape without a mode or without a step.
    """
    if options.task == "forecast":
        return ForecastTraining(values, graphs, options, calendar, observed=observed, fitted=fitted, advance=advance)
    if observed is None or eval_target is None:
        observed, eval_target = hold_out(values, options.hidden, options.seed)
    if options.recovery == "causal":
        return ForecastTraining(
            values,
            graphs,
            options,
            calendar,
            observed=observed,
            eval_target=eval_target,
            fitted=fitted,
            advance=advance,
        )
    return SmoothRecovery(values, graphs, options, calendar, observed, eval_target, fitted, advance)


def number_of_fits(options: Net3Options, shape: Sequence[int], calendar: Calendar) -> int:
    """The fits of a new training on a tensor of a shape [T, N1, ..., NM]."""
    steps, series = shape[0], math.prod(shape[1:])
    if options.task == "recover" and options.recovery == "smooth":
        chosen = 0 if options.rank else len(rank_choices(steps, series)) + 2 * len(SHRINKAGES)
        return chosen + FOLDS + 1
    if options.season and options.ridge and options.season_rank >= 0:
        return 1
    used = calendar if options.calendar else Calendar.none(0)
    return fits_to_choose(series, used, *grid(options)) + 1
