"""The training that belongs to a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graphlearn.models.net3.training.forecast import ForecastTraining
from graphlearn.models.net3.training.recover import SmoothRecovery, hold_out

if TYPE_CHECKING:
    from torch import Tensor

    from graphlearn.models.net3.data.calendar import Calendar
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
) -> SeriesTraining:
    """A new training, or one restored from `fitted`, the state or weights of such a training.

    values: [T, N1, ..., NM], NaN = not observed; a memory map will do. For a recovery, `observed` and `eval_target` are
    the cells to read and to measure; without them the share `options.hidden` of the known cells is held out. Raises
    InputError for a shape without a mode or without a step.
    """
    if options.task == "forecast":
        return ForecastTraining(values, graphs, options, calendar, observed=observed, fitted=fitted)
    if observed is None or eval_target is None:
        observed, eval_target = hold_out(values, options.hidden, options.seed)
    if options.recovery == "causal":
        return ForecastTraining(
            values, graphs, options, calendar, observed=observed, eval_target=eval_target, fitted=fitted
        )
    return SmoothRecovery(values, graphs, options, calendar, observed, eval_target, fitted)
