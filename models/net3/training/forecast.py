"""Training of forecasts, and of causal recovery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from graphlearn.errors import InputError
from graphlearn.models.net3.baselines.linear_ar import RIDGES, SEASON_RANKS, SEASONS, LinearAR, choose_shrinkage
from graphlearn.models.net3.baselines.seasonal import fit_profile
from graphlearn.models.net3.conformal import Conformal, conformal_of
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.models.net3.data.time_split import TimeSplit
from graphlearn.models.net3.metrics import Metrics
from graphlearn.models.net3.network.mode_products import Graph
from graphlearn.models.net3.network.model import Net3, masked_loss
from graphlearn.models.net3.options import Net3Options
from graphlearn.models.net3.training.training import SeriesTraining
from graphlearn.types import BoolArray, FloatArray, IdArray, Split


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
            seasons = (options.season,) if options.season else SEASONS
            ridges = (options.ridge,) if options.ridge or options.linear_skip == "none" else RIDGES
            ranks = SEASON_RANKS if options.season_rank < 0 else (options.season_rank,)
            self.season, self.season_rank, self.ridge = choose_shrinkage(
                values, W, H, calendar_used, seasons=seasons, ranks=ranks, ridges=ridges, stop=stop, observed=observed
            )
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
        coefficients = fitted.get("model.linear_skip.coefficients")
        model = Net3(
            self.values.shape[1:],
            graphs,
            options,
            periods=calendar.periods,
            profile=profile,
            coefficients=None if coefficients is None else coefficients.cpu().numpy(),
        )
        self._start(options, model)
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

    def evaluate(self, split: Split) -> Metrics:
        """Errors on the cells of the split, in the user's units and z-scored."""
        metrics = Metrics(self.scaler.scale, self.options.horizon)
        for predicted, actual, mask in self._targets(split):
            metrics.add(predicted, actual, mask)
        return metrics

    def _targets(self, split: Split) -> Iterator[tuple[FloatArray, FloatArray, BoolArray]]:
        W, H, size = self.options.window, self.options.horizon, max(1, self.options.batch_size)
        starts = self.starts(split)
        for lo in range(0, len(starts), size):
            chosen = starts[lo : lo + size]
            actual = gather(self.values, chosen, H, W)
            mask = np.isfinite(actual)
            if self.eval_target is not None:
                mask &= gather(self.eval_target[split], chosen, H, W)
            yield self.predict(chosen), actual, mask

    def conformal(self) -> Conformal:
        """Intervals from the residuals of the validation split; infinite without one."""
        return conformal_of(self._targets(Split.VALID), self.scaler, self.options.horizon)
