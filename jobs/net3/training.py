"""Training of NET3 in the loop of all families, and the baselines measured beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphlearn.events import Emit
from graphlearn.jobs.loop import Loop
from graphlearn.jobs.net3.metrics import metric_rows
from graphlearn.models.net3.baselines import LastValue, LinearAR, SeasonalNaive, choose_rank, low_rank
from graphlearn.models.net3.recover_training import SmoothRecovery, rank_choices
from graphlearn.models.net3.series import Calendar, Mask, Metrics, Part, Scaler, gather
from graphlearn.models.net3.training import ForecastTraining, SeriesTraining
from graphlearn.storage.series.axis import TimeAxis
from graphlearn.types import FloatArray, IdArray

if TYPE_CHECKING:
    from torch import Tensor

PARTS: tuple[Part, ...] = ("valid", "test")
BATCH = 64
"""Windows that a baseline forecasts at a time."""


class Net3Trainer(Loop):
    """Trains a series model; its score is minus the z-scored RMSE of the validation part."""

    unit = "windows"

    def __init__(self, training: SeriesTraining, folder: Path, run_id: str, emit: Emit) -> None:
        super().__init__(training.options, folder, run_id, emit)
        self.training = training

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return self.training.steps_per_epoch

    def train(self, epoch: int, first: int) -> Iterator[tuple[float | Tensor, int]]:
        size, items = self.training.options.batch_size, len(self.training.items)
        for step in range(first, self.training.steps_per_epoch):
            examples = min(size, items - step * size)
            yield self.training.step(epoch, step) * examples, examples

    def evaluate(self) -> tuple[float, dict[str, float], str] | None:
        total = self.training.evaluate("valid").total
        if not total["cells"] or not math.isfinite(total["z_rmse"]):
            return None
        metrics = {name: total[name] for name in ("rmse", "mae", "z_rmse") if math.isfinite(total[name])}
        return -total["z_rmse"], metrics, f"RMSE {total['rmse']:.4g}"

    def state(self) -> dict[str, Tensor]:
        return self.training.state()

    def weights(self) -> dict[str, Tensor]:
        return self.training.weights()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.training.load(tensors)


@contextmanager
def threads(wanted: int) -> Iterator[None]:
    """Torch works on so many threads while this is open; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    try:
        if wanted:
            torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


def make_calendar(axis: TimeAxis, train_end: int, ahead: int) -> Calendar:
    """The cycles of the calendar that the train part shows at least twice in every phase, to `ahead` steps beyond.

    A cycle that it shows less often (the days of the week in a week of data) could not be learnt, only remembered.
    """
    rows, periods = [], []
    for phase in axis.phases(0, len(axis) + ahead).values():
        seen = np.bincount(phase.values[:train_end], minlength=phase.period)
        if train_end and seen.min() >= 2:
            rows.append(phase.values)
            periods.append(phase.period)
    length = len(axis) + ahead
    return Calendar(np.array(rows, np.int64).reshape(len(rows), length), tuple(periods))


def season_lengths(axis: TimeAxis) -> list[int]:
    """Steps in a day, a week and a year, where they are whole numbers above 1."""
    if axis.freq.months:
        return [12 // axis.freq.months] if 12 % axis.freq.months == 0 and axis.freq.months < 12 else []
    if not axis.phases(0, 1):
        return []
    lengths = (axis.per_day, 7 * axis.per_day)
    return [n // axis.freq.ticks for n in lengths if n % axis.freq.ticks == 0 and n > axis.freq.ticks]


def measure_baselines(training: SeriesTraining, axis: TimeAxis) -> list[dict[str, Any]]:
    """Metric records of everything that needs no network, on the cells the model is measured on.

    last value; seasonal naive with the season that is best on the validation part; linear AR (ridge of 1 observation,
    each series its own); seasonal AR: what a forecast starts from, seasonal means and a ridge that shrinks towards the
    shared one; for a recovery iterative SVD. All see what the model may see, and nothing else.

    Call it before the first step of the training.
    """
    values, options, scaler = training.values, training.options, training.scaler
    observed: Mask | None = getattr(training, "observed", None)
    stop = training.split.train_end if isinstance(training, ForecastTraining) and options.task == "forecast" else None
    if observed is not None:
        values = np.where(observed, values, np.float32(np.nan))
    W, H = options.window, options.horizon
    fitted = LinearAR.fit(values, scaler, W, H, stop=stop)
    found = {
        "last value": _measured(training, LastValue(values, scaler, W, H).predict),
        "linear AR": _measured(training, fitted.predict),
    }
    seasonal = {n: _measured(training, SeasonalNaive(values, scaler, W, H, n).predict) for n in season_lengths(axis)}
    if seasonal:
        part: Part = "valid" if seasonal[next(iter(seasonal))]["valid"].total["cells"] else "test"
        best = min(seasonal, key=lambda n: seasonal[n][part].total["z_rmse"])
        found[f"seasonal naive ({best} steps)"] = seasonal[best]
    if options.task == "forecast" and options.highway != "none":
        found["seasonal AR"] = {part: training.evaluate(part) for part in PARTS}
    if options.task == "recover":
        found["iterative SVD"] = _measured(training, _completion(training, values, scaler))
    return [row for name, by_part in found.items() for part, m in by_part.items() for row in metric_rows(name, part, m)]


def _completion(training: SeriesTraining, values: FloatArray, scaler: Scaler) -> Callable[[IdArray], FloatArray]:
    if isinstance(training, SmoothRecovery):
        completion, W = training.completion, training.options.window
        return lambda starts: completion(np.asarray(starts) + W)
    W = training.options.window
    seen = np.isfinite(values).reshape(len(values), -1)
    z = np.where(seen, scaler.transform(values).reshape(seen.shape), np.float32(0))
    rank, shrinkage = choose_rank(z, seen, rank_choices(*z.shape), seed=training.options.seed)
    fit = scaler.inverse(low_rank(z, seen, rank, shrinkage=shrinkage).reshape(values.shape))
    return lambda starts: fit[np.asarray(starts) + W][:, None]


def _measured(training: SeriesTraining, predict: Callable[[IdArray], FloatArray]) -> dict[Part, Metrics]:
    """Metrics on the validation and the test part."""
    W, H = training.options.window, training.options.horizon
    targets = getattr(training, "eval_target", None)
    out: dict[Part, Metrics] = {}
    for part in PARTS:
        if training.options.task == "recover":
            starts: IdArray = np.arange(-W, len(training.values) - W)
        else:
            assert isinstance(training, ForecastTraining)
            starts = training.starts(part)
        metrics = Metrics(training.scaler.scale, H)
        for lo in range(0, len(starts), BATCH):
            chosen = starts[lo : lo + BATCH]
            actual = gather(training.values, chosen, H, W)
            mask = np.isfinite(actual)
            if targets is not None:
                mask &= gather(targets[part], chosen, H, W)
            metrics.add(predict(chosen), actual, mask)
        out[part] = metrics
    return out
