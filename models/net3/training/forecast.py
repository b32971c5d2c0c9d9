"""Training of forecasts, and of causal recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graphlearn.errors import InputError
from graphlearn.models.core.restored import check_restored
from graphlearn.models.net3.baselines.linear_ar import RIDGES, SEASON_RANKS, SEASONS, LinearAR, choose_shrinkage
from graphlearn.models.net3.baselines.seasonal import fit_profile
from graphlearn.models.net3.conformal import MEMORY, Conformal, RecentErrors, static
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.models.net3.data.time_split import TimeSplit
from graphlearn.models.net3.metrics import LEVELS, Metrics
from graphlearn.models.net3.network.mode_products import Graph
from graphlearn.models.net3.network.model import Net3, masked_loss
from graphlearn.models.net3.options import Net3Options
from graphlearn.models.net3.training.training import SeriesTraining
from graphlearn.types import BoolArray, FloatArray, IdArray, Split


def grid(options: Net3Options) -> tuple[Sequence[float], Sequence[int], Sequence[float]]:
    """The seasonal shrinkages, ranks and ridge penalties among which the closed form is selected."""
    seasons = (options.season,) if options.season else SEASONS
    ranks = SEASON_RANKS if options.season_rank < 0 else (options.season_rank,)
    ridges = (options.ridge,) if options.ridge or options.linear_skip == "none" else RIDGES
    return seasons, ranks, ridges


class ForecastTraining(SeriesTraining):
    """Net3 on windows; an item is a window start. Also causal recovery, whose windows end before the step to fill.

    values: [T, N1, ..., NM], NaN = not observed; a memory map will do. observed: cells that may be read and learnt
    from, by default all known ones. eval_target: recovery only, the cells to measure by split. fitted: `state()` or
    `weights()` of such a training, so that nothing is fitted again. `season`, `season_rank` and `ridge` are the
    seasonal shrinkage and rank and the ridge in use.
    """

    def __init__(
        self,
        values: FloatArray,
        graphs: Mapping[int, Graph],
        options: Net3Options,
        calendar: Calendar | None = None,
        *,
        observed: BoolArray | None = None,
        eval_target: Mapping[Split, BoolArray] | None = None,
        fitted: Mapping[str, Tensor] | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        if values.ndim < 2 or 0 in values.shape:
            raise InputError(f"a series tensor has time steps and at least one mode, not the shape {values.shape}")
        self.values, self.observed, self.eval_target = values, observed, eval_target
        self.calendar = Calendar.none(len(values)) if calendar is None else calendar
        self.split = TimeSplit.of(len(values), options.split)
        W, H = options.window, options.horizon
        recover = options.task == "recover"
        stop = None if recover else self.split.train_end
        calendar_used = self.calendar if options.calendar else Calendar.none(len(values))
        if fitted is not None:
            self._restore(graphs, options, calendar_used, fitted)
            return
        self.scaler = Scaler.fit(values, stop, observed)
        self.season, self.season_rank, self.ridge = options.season, options.season_rank, options.ridge
        if not (self.season and self.ridge) or self.season_rank < 0:
            seasons, ranks, ridges = grid(options)
            self.season, self.season_rank, self.ridge = choose_shrinkage(
                values, W, H, calendar_used, seasons=seasons, ranks=ranks, ridges=ridges, stop=stop, observed=observed,
                advance=advance,
            )  # fmt: skip
        profile = fit_profile(values, self.scaler, calendar_used, self.season, stop, observed, self.season_rank)
        coefficients = None
        if options.linear_skip != "none":
            coefficients = LinearAR.fit(
                values,
                self.scaler,
                W,
                H,
                ridge=self.ridge,
                shared=options.linear_skip == "shared",
                towards_shared=True,
                stop=stop,
                calendar=calendar_used,
                profile=profile,
                observed=observed,
            ).coefficients
        model = Net3(
            values.shape[1:],
            graphs,
            options,
            periods=calendar_used.periods,
            profile=profile,
            coefficients=coefficients,
        )
        advance()
        self._start(options, model)

    def _start(self, options: Net3Options, model: Net3) -> None:
        W, H, T = options.window, options.horizon, len(self.values)
        self.steps = np.arange(-W, T - W) if options.task == "recover" else self.split.starts(Split.TRAIN, W, H)
        self._begin(options, model, self.steps)
        self.chosen = torch.tensor([self.season, self.season_rank, self.ridge], dtype=torch.float64)

    def _restore(
        self, graphs: Mapping[int, Graph], options: Net3Options, calendar: Calendar, fitted: Mapping[str, Tensor]
    ) -> None:
        self.scaler = Scaler(fitted["scaler.mean"].cpu().numpy(), fitted["scaler.scale"].cpu().numpy())
        season, rank, ridge = fitted["chosen"].tolist()
        self.season, self.season_rank, self.ridge = season, int(rank), ridge
        profile = [fitted[f"model.profile_{c}"].cpu().numpy() for c in range(len(calendar.periods))]
        coefficients = None if options.linear_skip == "none" else fitted["model.linear_skip.coefficients"]
        if coefficients is not None and coefficients.shape[-2:] != (options.window + 1, options.horizon):
            raise ValueError("the linear skip does not fit the window and the horizon")
        numbers = None if coefficients is None else coefficients.cpu().numpy()

        def make() -> Net3:
            shape = self.values.shape[1:]
            return Net3(shape, graphs, options, periods=calendar.periods, profile=profile, coefficients=numbers)

        check_restored(fitted, "model.", lambda: make().state_dict())
        self._start(options, make())
        self.load(fitted)

    def _read(self, starts: IdArray, length: int, offset: int) -> FloatArray:
        x = gather(self.values, starts, length, offset)
        if self.observed is not None:
            x = np.where(gather(self.observed, starts, length, offset), x, np.float32(np.nan))
        return x

    def _forward(
        self, starts: IdArray, dropout: torch.Generator | None, windows: FloatArray | None = None
    ) -> tuple[Tensor, Tensor]:
        W, H = self.options.window, self.options.horizon
        z, seen = self.to_z(self._read(starts, W, 0) if windows is None else windows)
        phases = self.calendar.at(np.asarray(starts)[:, None] + np.arange(W + H))
        out: tuple[Tensor, Tensor] = self.model(z, seen, torch.from_numpy(phases).to(self.device), dropout)
        return out

    def loss(self, items: IdArray, dropout: torch.Generator | None) -> Tensor:
        """Error on the targets, and the penalties of the Tucker core."""
        options = self.options
        predicted, lost = self._forward(items, dropout)
        actual, seen = self.to_z(self._read(items, options.horizon, options.window))
        assert isinstance(self.model, Net3)
        total = masked_loss(predicted, actual, seen, options.loss) + options.reconstruction * lost
        return total + options.orthonormality * self.model.trnn.penalty()

    def predict(self, items: IdArray) -> FloatArray:
        """Forecasts for window starts; a window may extend past either end of the values. shape: [B] -> [B, H, N...]

        The start T - window forecasts the steps after the data.
        """
        with self.using_mean():
            return self.to_units(self._forward(items, None)[0])

    def forecast(self, starts: IdArray, steps: int) -> FloatArray:
        """`predict` for any number of steps: past the horizon, windows are filled with earlier forecasts.

        shape: [B] -> [B, steps, N1, ..., NM]
        """
        starts = np.asarray(starts, np.int64)
        window, found = self._read(starts, self.options.window, 0), []
        for first in range(0, steps, self.options.horizon):
            with self.using_mean():
                found.append(self.to_units(self._forward(starts + first, None, window)[0]))
            window = np.concatenate([window, found[-1]], axis=1)[:, -self.options.window :]
        return np.concatenate(found, axis=1)[:, :steps]

    def starts(self, split: Split) -> IdArray:
        """Windows whose targets lie in the split; for recovery, all windows."""
        if self.options.task == "recover":
            return self.steps
        return self.split.starts(split, self.options.window, self.options.horizon)

    def windows(self, split: Split) -> int:
        """The number of windows on which a split is measured."""
        return len(self.starts(split))

    def fitted_until(self) -> int | None:
        return None if self.options.task == "recover" else self.split.train_end

    def evaluate(self, split: Split, intervals: Conformal | None = None, block: int | None = None) -> Metrics:
        """See `SeriesTraining.evaluate`."""
        metrics = Metrics(self.scaler.scale, self.options.horizon, block)
        recent = None
        for starts, predicted, actual, mask in self._targets(split):
            bounds, clipped = None, predicted
            if intervals is not None:
                clipped = intervals.clip(predicted)
            if intervals is not None and split == Split.TEST:
                spread = intervals.spread
                if spread is None:
                    recent = recent or self.recent_errors(int(starts[0]))
                    spread = recent.add(starts, self._residuals(predicted, actual, mask))
                bounds = {level: intervals.interval(predicted, spread, self.scaler.scale, level) for level in LEVELS}
            metrics.add(clipped, actual, mask, bounds)
        return metrics

    def _targets(self, split: Split) -> Iterator[tuple[IdArray, FloatArray, FloatArray, BoolArray]]:
        """The windows of a split in batches: starts, forecasts, readings, and which of them are measured."""
        W, H, size = self.options.window, self.options.horizon, max(1, self.options.batch_size)
        starts = self.starts(split)
        for lo in range(0, len(starts), size):
            chosen = starts[lo : lo + size]
            actual = gather(self.values, chosen, H, W)
            mask = np.isfinite(actual)
            if self.eval_target is not None:
                mask &= gather(self.eval_target[split], chosen, H, W)
            yield chosen, self.predict(chosen), actual, mask

    def _residuals(self, predicted: FloatArray, actual: FloatArray, mask: BoolArray) -> FloatArray:
        """|residuals| in z-scores, NaN where not measured. shape: [B, H, N...] each"""
        return np.where(mask, np.abs(predicted - actual) / self.scaler.scale, np.float32(np.nan))

    def recent_errors(self, start: int) -> RecentErrors:
        """The errors that are known at the origin of a window start, from the windows before it."""
        W, H, recent = self.options.window, self.options.horizon, RecentErrors()
        first = max(0, start - MEMORY - H)
        for lo in range(first, start, max(1, self.options.batch_size)):
            chosen = np.arange(lo, min(start, lo + max(1, self.options.batch_size)))
            actual = gather(self.values, chosen, H, W)
            recent.add(chosen, self._residuals(self.predict(chosen), actual, np.isfinite(actual)))
        return recent

    def rolling(self, first: int, stop: int) -> Iterator[tuple[IdArray, FloatArray, FloatArray]]:
        """The window starts from `first` to `stop` in batches: starts, forecasts, spread at their origins.

        shape: [B], [B, H, N1, ..., NM], [B, H, N1, ..., NM]
        """
        W, H, size = self.options.window, self.options.horizon, max(1, self.options.batch_size)
        recent = self.recent_errors(first)
        for lo in range(first, stop, size):
            chosen = np.arange(lo, min(stop, lo + size))
            predicted, actual = self.predict(chosen), gather(self.values, chosen, H, W)
            yield chosen, predicted, recent.add(chosen, self._residuals(predicted, actual, np.isfinite(actual)))

    def spreads(self, starts: IdArray) -> FloatArray:
        """The spread at the origins of window starts, ascending. shape: [B] -> [B, H, N1, ..., NM]"""
        batches = self.rolling(int(starts[0]), int(starts[-1]) + 1)
        return np.concatenate([spread[np.isin(chosen, starts)] for chosen, _, spread in batches])

    def conformal(self) -> Conformal:
        """Intervals from the residuals of the validation split; infinite without one."""
        targets = self._targets(Split.VALID)
        if self.options.task == "recover":
            return static((batch[1:] for batch in targets), self.scaler, self.floor)
        scores: list[list[FloatArray]] = [[] for _ in range(self.options.horizon)]
        recent = None
        for starts, predicted, actual, mask in targets:
            recent = recent or self.recent_errors(int(starts[0]))
            residuals = self._residuals(predicted, actual, mask)
            scored = residuals / recent.add(starts, residuals)
            for h, found in enumerate(scores):
                found.append(scored[:, h][mask[:, h]])
        return Conformal.fit([np.concatenate(f) if f else np.zeros(0, np.float32) for f in scores], floor=self.floor)
