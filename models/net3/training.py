"""Training of series models, without files: what a job builds checkpoints, events and tables on.

    training = make_training(values, graphs, options, calendar)
    stop = EarlyStop(options.patience)
    for epoch in range(options.epochs):
        for step in range(training.steps_per_epoch):
            training.step(epoch, step)
        if stop.update(training.evaluate("valid").total["z_rmse"], training):
            break
    training.load(stop.best)
    training.evaluate("test").rows()

Making a training fits scaler, seasonal means and ridge, and builds the model. A step depends on (seed, epoch, step) and
on `training.state()`, a flat dict of tensors: weights, their running mean, Adam's state. A new training made from the
same values, graphs and options with `fitted=state` goes on bit for bit, and does not fit again. `training.weights()` is
the part that predictions need, scaler included; `fitted` and `load` take either. `training.predict` takes window starts
for a forecast, time steps for a recovery, and answers in the user's units. `graphs` maps a mode's number to its edges.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.errors import InputError
from graphlearn.models.core.adamw_ema import Learner, copied
from graphlearn.models.core.device import choose_device
from graphlearn.models.net3.baselines import RIDGES, SEASON_RANKS, SEASONS, LinearAR, choose_shrinkage
from graphlearn.models.net3.mode_products import Graph
from graphlearn.models.net3.model import Net3, masked_loss
from graphlearn.models.net3.options import Net3Options
from graphlearn.models.net3.series import (
    Calendar,
    Conformal,
    Mask,
    Metrics,
    Part,
    Scaler,
    TimeSplit,
    fit_profile,
    gather,
)
from graphlearn.types import FloatArray, IdArray

if TYPE_CHECKING:
    from collections.abc import Iterator


class SeriesTraining(ABC):
    """A model, its optimiser and the items (windows, steps) it learns from."""

    values: FloatArray
    options: Net3Options
    scaler: Scaler
    model: nn.Module
    items: IdArray

    def _begin(self, options: Net3Options, model: nn.Module, items: IdArray) -> None:
        self.options, self.device, self.items = options, choose_device(options.device), items
        self.model = model.to(self.device)
        self.mean = torch.from_numpy(self.scaler.mean).to(self.device)
        self.scale = torch.from_numpy(self.scaler.scale).to(self.device)
        self.learner = Learner(
            self.model,
            decayed=[
                name
                for name, p in self.model.named_parameters()
                if not name.startswith("highway") and "bias" not in name and p.ndim > 1
            ],
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            averaging=options.averaging,
        )
        self.chosen = torch.zeros(2, dtype=torch.float64)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; 0 when there is nothing to learn from."""
        return math.ceil(len(self.items) / self.options.batch_size)

    def step(self, epoch: int, step: int) -> float:
        """One optimiser step; returns its loss. Raises TrainingDiverged when that is not finite."""
        options = self.options
        order = np.random.default_rng([options.seed, 3, epoch]).permutation(len(self.items))
        chosen = np.sort(self.items[order[step * options.batch_size : (step + 1) * options.batch_size]])
        generator = None
        if options.dropout:
            number = (options.seed * 1_000_003 + epoch) * 1_000_003 + step
            generator = torch.Generator(self.device).manual_seed(number)
        self.model.train()
        return self.learner.step(self.loss(chosen, generator), epoch, "lower learning_rate, or look for extreme values")

    def train_epoch(self, epoch: int) -> float:
        """All steps of an epoch; the mean of their losses (NaN without a step)."""
        losses = [self.step(epoch, step) for step in range(self.steps_per_epoch)]
        return float(np.mean(losses)) if losses else math.nan

    def using_mean(self) -> AbstractContextManager[None]:
        """The weights that predict are in the model."""
        return self.learner.using_mean()

    def _fitted(self) -> dict[str, Tensor]:
        return {"scaler.mean": self.mean, "scaler.scale": self.scale, "chosen": self.chosen}

    def weights(self) -> dict[str, Tensor]:
        """What predictions need, as copies on the CPU."""
        return self.learner.weights() | copied(self._fitted())

    def state(self) -> dict[str, Tensor]:
        """All that changes while training, as copies on the CPU."""
        return self.learner.state() | copied(self._fitted())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `state()` or `weights()` of a training of the same shape and options."""
        self.learner.load(tensors)
        with torch.no_grad():
            self.mean.copy_(tensors["scaler.mean"])
            self.scale.copy_(tensors["scaler.scale"])
        self.scaler = Scaler(self.mean.cpu().numpy().copy(), self.scale.cpu().numpy().copy())

    def to_z(self, x: FloatArray) -> tuple[Tensor, Tensor]:
        """z-scores with 0 for what is missing, and what is seen. shape: [..., N...] -> two of [..., N...]"""
        raw = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self.device)
        seen = torch.isfinite(raw)
        return torch.where(seen, (raw - self.mean) / self.scale, 0.0), seen

    def to_units(self, z: Tensor) -> FloatArray:
        """z-scores into the user's units."""
        out: FloatArray = (z * self.scale + self.mean).cpu().numpy()
        return out

    @abstractmethod
    def loss(self, items: IdArray, dropout: torch.Generator | None) -> Tensor:
        """What a step minimises."""

    @abstractmethod
    def predict(self, items: IdArray) -> FloatArray:
        """In the user's units."""

    @abstractmethod
    def evaluate(self, part: Part) -> Metrics:
        """Measured on the part's target cells."""

    @abstractmethod
    def conformal(self) -> Conformal:
        """Intervals from the residuals of the validation part."""


class ForecastTraining(SeriesTraining):
    """Net3 on windows; an item is a window start. Also causal recovery, whose windows end before the step they fill.

    values: [T, N1, ..., NM], NaN = not observed; a memory map will do. observed: cells that may be seen and learnt
    from; for a forecast without it, all known ones. eval_target: recover only, part -> cells that are measured. fitted:
    `state()` or `weights()` of such a training, which then need not be fitted anew. The seasonal
    shrinkage and rank and the ridge that were used are in `season`, `season_rank` and `ridge`.
    """

    def __init__(
        self,
        values: FloatArray,
        graphs: Mapping[int, Graph],
        options: Net3Options,
        calendar: Calendar | None = None,
        *,
        observed: Mask | None = None,
        eval_target: Mapping[Part, Mask] | None = None,
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
            ridges = (options.ridge,) if options.ridge or options.highway == "none" else RIDGES
            ranks = SEASON_RANKS if options.season_rank < 0 else (options.season_rank,)
            self.season, self.season_rank, self.ridge = choose_shrinkage(
                values, W, H, calendar_used, seasons=seasons, ranks=ranks, ridges=ridges, stop=stop, observed=observed
            )
        profile = fit_profile(values, self.scaler, calendar_used, self.season, stop, observed, self.season_rank)
        coefficients = None
        if options.highway != "none":
            coefficients = LinearAR.fit(
                values,
                self.scaler,
                W,
                H,
                ridge=self.ridge,
                shared=options.highway == "shared",
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
        self.steps = np.arange(-W, T - W) if options.task == "recover" else self.split.starts("train", W, H)
        self._begin(options, model, self.steps)
        self.chosen = torch.tensor([self.season, self.season_rank, self.ridge], dtype=torch.float64)

    def _restore(
        self, graphs: Mapping[int, Graph], options: Net3Options, calendar: Calendar, fitted: Mapping[str, Tensor]
    ) -> None:
        self.scaler = Scaler(fitted["scaler.mean"].cpu().numpy(), fitted["scaler.scale"].cpu().numpy())
        season, rank, ridge = fitted["chosen"].tolist()
        self.season, self.season_rank, self.ridge = season, int(rank), ridge
        profile = [fitted[f"model.profile_{c}"].cpu().numpy() for c in range(len(calendar.periods))]
        coefficients = fitted.get("model.highway.coefficients")
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
        """Forecasts for window starts; the window may reach beyond the values on both sides. shape: [B] -> [B, H, N...]

        Start T - window is the forecast of what follows the data.
        """
        with self.using_mean():
            return self.to_units(self._forward(items, None)[0])

    def forecast(self, starts: IdArray, steps: int) -> FloatArray:
        """`predict` for any number of steps: beyond the horizon, windows are filled with the forecasts made so far.

        shape: [B] -> [B, steps, N1, ..., NM]
        """
        starts = np.asarray(starts, np.int64)
        window, found = self._read(starts, self.options.window, 0), []
        for first in range(0, steps, self.options.horizon):
            with self.using_mean():
                found.append(self.to_units(self._forward(starts + first, None, window)[0]))
            window = np.concatenate([window, found[-1]], axis=1)[:, -self.options.window :]
        return np.concatenate(found, axis=1)[:, :steps]

    def starts(self, part: Part) -> IdArray:
        """Windows whose targets lie in the part; for recovery all of them."""
        if self.options.task == "recover":
            return self.steps
        return self.split.starts(part, self.options.window, self.options.horizon)

    def evaluate(self, part: Part) -> Metrics:
        """Metrics of the part's cells, in the user's units and z-scored."""
        metrics = Metrics(self.scaler.scale, self.options.horizon)
        for predicted, actual, mask in self._targets(part):
            metrics.add(predicted, actual, mask)
        return metrics

    def _targets(self, part: Part) -> Iterator[tuple[FloatArray, FloatArray, Mask]]:
        W, H, size = self.options.window, self.options.horizon, max(1, self.options.batch_size)
        starts = self.starts(part)
        for lo in range(0, len(starts), size):
            chosen = starts[lo : lo + size]
            actual = gather(self.values, chosen, H, W)
            mask = np.isfinite(actual)
            if self.eval_target is not None:
                mask &= gather(self.eval_target[part], chosen, H, W)
            yield self.predict(chosen), actual, mask

    def conformal(self) -> Conformal:
        """Intervals from the residuals of the validation part; without one there are none."""
        return conformal_of(self._targets("valid"), self.scaler, self.options.horizon)


def conformal_of(targets: Iterator[tuple[FloatArray, FloatArray, Mask]], scaler: Scaler, horizon: int) -> Conformal:
    """Conformal intervals from (predicted, actual, mask), each [B, H, N...] in the user's units."""
    found: list[list[FloatArray]] = [[] for _ in range(horizon)]
    for predicted, actual, mask in targets:
        residual = np.abs(predicted - actual) / scaler.scale
        for h in range(horizon):
            found[h].append(residual[:, h][mask[:, h]])
    return Conformal.fit([np.concatenate(f) if f else np.zeros(0, np.float32) for f in found])


class Weighted(Protocol):
    """Anything whose best weights are to be kept."""

    def weights(self) -> dict[str, Tensor]:
        """What predictions need."""
        ...


class EarlyStop:
    """Keeps the weights of the best evaluation; stops after `patience` in a row without a better one (0 never does)."""

    def __init__(self, patience: int) -> None:
        self.patience, self.best_score, self.since = patience, math.inf, 0
        self.best: dict[str, Tensor] = {}

    def update(self, score: float, training: Weighted) -> bool:
        """Count an evaluation (lower is better; NaN counts as worse). True: stop."""
        if not self.best or score < self.best_score:
            self.best_score = score if math.isfinite(score) else math.inf
            self.best, self.since = training.weights(), 0
        else:
            self.since += 1
        return 0 < self.patience <= self.since
