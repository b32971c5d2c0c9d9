"""Training of NET3 in the loop of all families, and its baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphlearn.events import Emit
from graphlearn.jobs.loop import Loop
from graphlearn.jobs.net3.calendar import season_lengths
from graphlearn.jobs.net3.metrics import metric_rows
from graphlearn.models.core.threads import threads
from graphlearn.models.net3.baselines.linear_ar import LinearAR
from graphlearn.models.net3.baselines.low_rank import choose_rank, low_rank, rank_choices
from graphlearn.models.net3.baselines.naive import LastValue, SeasonalNaive
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.models.net3.metrics import Metrics
from graphlearn.models.net3.training.forecast import ForecastTraining
from graphlearn.models.net3.training.recover import SmoothRecovery
from graphlearn.models.net3.training.training import SeriesTraining
from graphlearn.storage.series.axis import TimeAxis
from graphlearn.types import FloatArray, IdArray, Split

if TYPE_CHECKING:
    from torch import Tensor

MEASURED = (Split.VALID, Split.TEST)
BATCH = 64
"""Windows that a baseline forecasts at a time."""


class Net3Loop(Loop):
    """Trains a model of series. Its score is minus the z-scored RMSE on the validation split."""

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
        total = self.training.evaluate(Split.VALID).total
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

    def trained(self) -> SeriesTraining:
        return self.training

    def threads(self) -> AbstractContextManager[None]:
        return threads(self.training.options.threads)


def measure_baselines(training: SeriesTraining, axis: TimeAxis) -> list[dict[str, Any]]:
    """Metric records of the baselines, on the cells that the model is measured on.

    last value; seasonal naive with the season that is best on the validation split; linear AR (ridge of 1 observation,
    fitted per series); seasonal AR: the seasonal means and shrunk ridge that a forecast starts from; for a recovery
    iterative SVD. They read the same cells as the model.

    Call it before the first step of the training.
    """
    values, options, scaler = training.values, training.options, training.scaler
    observed = training.observed
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
        split = Split.VALID if seasonal[next(iter(seasonal))][Split.VALID].total["cells"] else Split.TEST
        best = min(seasonal, key=lambda n: seasonal[n][split].total["z_rmse"])
        found[f"seasonal naive ({best} steps)"] = seasonal[best]
    if options.task == "forecast" and options.linear_skip != "none":
        found["seasonal AR"] = {split: training.evaluate(split) for split in MEASURED}
    if options.task == "recover":
        found["iterative SVD"] = _measured(training, _completion(training, values, scaler))
    return [
        row
        for name, found_by in found.items()
        for split, m in found_by.items()
        for row in metric_rows(name, str(split), m)
    ]


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


def _measured(training: SeriesTraining, predict: Callable[[IdArray], FloatArray]) -> dict[Split, Metrics]:
    """Metrics on the validation and the test split."""
    W, H = training.options.window, training.options.horizon
    targets = training.eval_target
    out: dict[Split, Metrics] = {}
    for split in MEASURED:
        if training.options.task == "recover":
            starts: IdArray = np.arange(-W, len(training.values) - W)
        else:
            assert isinstance(training, ForecastTraining)
            starts = training.starts(split)
        metrics = Metrics(training.scaler.scale, H)
        for lo in range(0, len(starts), BATCH):
            chosen = starts[lo : lo + BATCH]
            actual = gather(training.values, chosen, H, W)
            mask = np.isfinite(actual)
            if targets is not None:
                mask &= gather(targets[split], chosen, H, W)
            metrics.add(predict(chosen), actual, mask)
        out[split] = metrics
    return out
