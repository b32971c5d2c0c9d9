"""What a model of a series is compared with: simple methods, each tuned on the validation split, after the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from graphlearn.events import Note, PhaseAdvanced, PhaseStarted
from graphlearn.jobs.budget import Budget
from graphlearn.jobs.dataflow import Data
from graphlearn.jobs.net3.calendar import season_lengths
from graphlearn.jobs.net3.metrics import BySplit
from graphlearn.jobs.net3.options import Net3JobOptions
from graphlearn.jobs.train import Baselines
from graphlearn.types import FloatArray, IdArray, Split

if TYPE_CHECKING:
    from graphlearn.jobs.execute import Context
    from graphlearn.models.net3.training.forecast import ForecastTraining
    from graphlearn.models.net3.training.training import SeriesTraining
    from graphlearn.storage.series.axis import TimeAxis

MEASURED = (Split.VALID, Split.TEST)
BATCH = 64
"""Windows that a baseline forecasts at a time."""
RIDGES = (1.0, 10.0, 100.0, 1000.0)
SEASONS = (1.0, 4.0, 16.0, 64.0)
FORECAST_METHODS = ("last value", "seasonal naive", "linear AR", "seasonal AR", "VAR")
RECOVERY_METHODS = (
    "last value", "seasonal naive", "linear AR", "linear interpolation", "seasonal means", "iterative SVD",
)  # fmt: skip
Predict: TypeAlias = Callable[[IdArray], FloatArray]
"""From window starts to values in the user's units. shape: [B] -> [B, H, N1, ..., NM]"""


@dataclass(frozen=True, kw_only=True)
class MeasureBaselines(Baselines):
    """The metrics of every baseline by split, on the cells that the model is measured on."""

    options: Net3JobOptions
    share: float

    def measure(self, data: Data, context: Context, budget: Budget) -> dict[str, BySplit]:
        from graphlearn.models.core.threads import threads

        run = BaselineRun(data["trained"], data["axis"], budget)
        methods = run.methods()
        dropped: list[str] = []
        if "seasonal naive" not in methods:
            dropped.append("seasonal naive (no cycle of the calendar is a whole number of steps)")
        context.emit(PhaseStarted(phase="baselines", total=len(methods), unit="methods"))
        found: dict[str, BySplit] = {}
        with threads(self.options.threads):
            for done, (name, method) in enumerate(methods.items(), 1):
                if found and not budget.left:
                    budget.cut(f"{name} was left out")
                else:
                    label, metrics = method()
                    if label == "VAR" and run.is_seasonal_ar and "seasonal AR" in found:
                        dropped.append("VAR (it is the same as the seasonal AR here)")
                    elif metrics[Split.VALID].total["cells"] or metrics[Split.TEST].total["cells"]:
                        found[label] = metrics
                context.emit(PhaseAdvanced(phase="baselines", done=done))
        if dropped:
            context.emit(Note(message=f"left out of the comparison: {'; '.join(dropped)}"))
        return found

    def describe(self, outputs: Data) -> str:
        total = {name: found[Split.TEST].total["z_rmse"] for name, found in outputs["baselines"].items()}
        best = sorted((name for name in total if np.isfinite(total[name])), key=lambda name: total[name])
        return ", ".join(f"{name}: RMSE (z) {total[name]:.4g}" for name in best)


def block_of(training: SeriesTraining, axis: TimeAxis, split: Split) -> int:
    """The windows of a split that are resampled together."""
    from graphlearn.models.net3.metrics import block_length

    options = training.options
    season = min(season_lengths(axis), default=1)
    return block_length(training.windows(split), options.window, options.horizon, season)


class BaselineRun:
    """The baselines of one training. They read the same cells as the model, and their forecasts have the same floor."""

    def __init__(self, training: SeriesTraining, axis: TimeAxis, budget: Budget) -> None:
        self.training, self.axis, self.budget = training, axis, budget
        self.options, self.scaler = training.options, training.scaler
        self.recover = self.options.task == "recover"
        self.values = training.values
        if training.observed is not None:
            self.values = np.where(training.observed, self.values, np.float32(np.nan))
        self.stop = None if self.recover else training.fitted_until()
        self.is_seasonal_ar = False
        """Whether `var` found nothing to add to the seasonal AR."""

    def methods(self) -> Mapping[str, Callable[[], tuple[str, BySplit]]]:
        """What measures each method and returns its label, the fastest first."""
        known = {
            "last value": self.last_value,
            "seasonal naive": self.seasonal_naive,
            "linear AR": self.linear_ar,
            "linear interpolation": self.interpolation,
            "seasonal means": self.seasonal_means,
            "iterative SVD": self.completion,
            "seasonal AR": self.seasonal_ar,
            "VAR": self.var,
        }
        names = RECOVERY_METHODS if self.recover else FORECAST_METHODS
        return {name: known[name] for name in names if name != "seasonal naive" or season_lengths(self.axis)}

    def last_value(self) -> tuple[str, BySplit]:
        from graphlearn.models.net3.baselines.naive import LastValue

        W, H = self.options.window, self.options.horizon
        return "last value", self.measured(LastValue(self.values, self.scaler, W, H).predict)

    def seasonal_naive(self) -> tuple[str, BySplit]:
        """With the season that is best on the validation split."""
        from graphlearn.models.net3.baselines.naive import SeasonalNaive

        W, H = self.options.window, self.options.horizon

        def tried(n: float) -> Predict:
            return SeasonalNaive(self.values, self.scaler, W, H, int(n)).predict

        n, metrics = self.best(season_lengths(self.axis), tried, "seasons of the seasonal naive")
        return f"seasonal naive ({n} steps)", metrics

    def linear_ar(self) -> tuple[str, BySplit]:
        """One ridge regression per series on its window."""
        from graphlearn.models.net3.baselines.linear_ar import LinearAR

        W, H = self.options.window, self.options.horizon

        def tried(ridge: float) -> Predict:
            return LinearAR.fit(self.values, self.scaler, W, H, ridge=ridge, stop=self.stop).predict

        return "linear AR", self.best(RIDGES, tried, "ridge penalties of the linear AR")[1]

    def seasonal_ar(self) -> tuple[str, BySplit]:
        """Seasonal means and shrunk ridge: what the network starts from, with its head at 0."""
        return "seasonal AR", self.measured(self.start.predict)

    @cached_property
    def start(self) -> ForecastTraining:
        """The smallest network that forecasts as the trained one did before its first step."""
        from graphlearn.models.net3.options import Net3Options
        from graphlearn.models.net3.training.forecast import ForecastTraining

        training, own = self.training, self.options
        assert isinstance(training, ForecastTraining)
        options = Net3Options(
            window=own.window, horizon=own.horizon, split=own.split, season=own.season, season_rank=own.season_rank,
            ridge=own.ridge, dim=1, core_limit=1, learnt_rank=0, identity=False, head="shared", device=own.device,
            batch_size=own.batch_size, seed=own.seed,
        )  # fmt: skip
        if own.calendar and own.linear_skip != "none":  # then both have been selected already
            season, rank, ridge = training.season, training.season_rank, training.ridge
            options = replace(options, season=season, season_rank=rank, ridge=ridge)
        return ForecastTraining(training.values, {}, options, training.calendar)

    def var(self) -> tuple[str, BySplit]:
        """A linear AR on the lags of all series; see `VAR`."""
        from graphlearn.models.net3.baselines.linear_ar import LinearAR
        from graphlearn.models.net3.baselines.seasonal import fit_profile
        from graphlearn.models.net3.baselines.var import VAR

        start, options = self.start, self.options
        calendar, split = start.calendar, start.split
        profile = fit_profile(self.values, self.scaler, calendar, start.season, self.stop, None, start.season_rank)
        base = LinearAR.fit(
            self.values, self.scaler, options.window, options.horizon, ridge=start.ridge, towards_shared=True,
            stop=self.stop, calendar=calendar, profile=profile,
        )  # fmt: skip
        fitted = VAR.fit(base, split.train_end, split.valid_end, lambda: self.budget.left)
        if fitted.read < 1:
            self.budget.cut(f"the VAR was fitted on the last {fitted.read:.0%} of the training windows")
        self.is_seasonal_ar = not fitted.coefficients.any()
        return "VAR", self.measured(fitted.predict)

    def interpolation(self) -> tuple[str, BySplit]:
        """The line between the known cells before and after, of the values or of what seasonal means leave."""
        from graphlearn.models.net3.baselines.interpolate import interpolate

        z = self.scaler.transform(self.values)

        def tried(shrinkage: float) -> Predict:
            season = self.season(shrinkage) if shrinkage < np.inf else np.float32(0)
            return self.at_step(interpolate(z - season) + season)

        return "linear interpolation", self.best((np.inf, *self.shrinkages()), tried, "linear interpolations")[1]

    def seasonal_means(self) -> tuple[str, BySplit]:
        """The mean of each series and phase of the calendar."""

        def tried(shrinkage: float) -> Predict:
            return self.at_step(self.season(shrinkage))

        return "seasonal means", self.best(self.shrinkages(), tried, "seasonal means")[1]

    def shrinkages(self) -> Sequence[float]:
        return SEASONS if self.training.calendar.periods else SEASONS[:1]

    def season(self, shrinkage: float) -> FloatArray:
        """The seasonal means of every step, in z-scores; 0, the mean, without a calendar. shape: [T, N1, ..., NM]"""
        from graphlearn.models.net3.baselines.seasonal import fit_profile, profile_at

        calendar, steps = self.training.calendar, np.arange(len(self.values))
        profile = fit_profile(self.values, self.scaler, calendar, shrinkage)
        return np.zeros(self.values.shape, np.float32) + profile_at(profile, calendar.at(steps))

    def completion(self) -> tuple[str, BySplit]:
        """Low-rank completion: that which the model starts from, if it does."""
        from graphlearn.models.net3.baselines.low_rank import choose_rank, low_rank, rank_choices
        from graphlearn.models.net3.training.recover import SmoothRecovery

        training, W = self.training, self.options.window
        if isinstance(training, SmoothRecovery):
            completion = training.completion
            return "iterative SVD", self.measured(lambda starts: completion(np.asarray(starts) + W))
        seen = np.isfinite(self.values).reshape(len(self.values), -1)
        z = np.where(seen, self.scaler.transform(self.values).reshape(seen.shape), np.float32(0))
        rank, shrinkage = choose_rank(z, seen, rank_choices(*z.shape), seed=self.options.seed)
        fit = low_rank(z, seen, rank, shrinkage=shrinkage).reshape(self.values.shape)
        return "iterative SVD", self.measured(self.at_step(fit))

    def at_step(self, z: FloatArray) -> Predict:
        """Look up the value of the step after a window. shape: z: [T, N1, ..., NM], z-scores"""
        W, scaler = self.options.window, self.scaler
        return lambda starts: scaler.inverse(z[np.asarray(starts) + W])[:, None]

    def best(self, grid: Sequence[float], tried: Callable[[float], Predict], what: str) -> tuple[float, BySplit]:
        """The value with the least z-scored RMSE on the validation split; without one, the first value."""
        found: list[tuple[float, float, BySplit]] = []
        for value in grid:
            if found and not self.budget.left:
                self.budget.cut(f"{len(found)} of {len(grid)} {what} were tried")
                break
            metrics = self.measured(tried(value))
            found.append((metrics[Split.VALID].total["z_rmse"], value, metrics))
            if not metrics[Split.VALID].total["cells"]:
                break
        return min(found, key=lambda part: part[0])[1:]

    def measured(self, predict: Predict) -> BySplit:
        """Metrics on the validation and the test split."""
        from graphlearn.models.net3.data.tensor import gather
        from graphlearn.models.net3.metrics import Metrics
        from graphlearn.models.net3.training.forecast import ForecastTraining

        training, W, H = self.training, self.options.window, self.options.horizon
        out: dict[Split, Metrics] = {}
        for split in MEASURED:
            if self.recover:
                starts: IdArray = np.arange(-W, len(training.values) - W)
            else:
                assert isinstance(training, ForecastTraining)
                starts = training.starts(split)
            metrics = Metrics(self.scaler.scale, H, block_of(training, self.axis, split))
            for lo in range(0, len(starts), BATCH):
                chosen = starts[lo : lo + BATCH]
                actual = gather(training.values, chosen, H, W)
                mask = np.isfinite(actual)
                if training.eval_target is not None:
                    mask &= gather(training.eval_target[split], chosen, H, W)
                metrics.add(np.maximum(predict(chosen), training.floor), actual, mask)
            out[split] = metrics
        return out
