"""Training of series models in memory; a job adds checkpoints, events and tables.

    training = make_training(values, graphs, options, calendar)      (tasks.py)
    fit(training)                                                    (core/fit.py)
    training.evaluate(Split.TEST).rows()

`make_training` fits the scaler, seasonal means and ridge, and builds the model. A step depends on (seed, epoch, step)
and on `training.state()`, a flat dict of tensors: weights, their moving average, Adam's state. A training made from the
same values, graphs and options with `fitted=state` continues bit for bit without fitting again. `training.weights()` is
the part that predictions need, scaler included; `fitted` and `load` take either. `training.predict` takes window starts
for a forecast, time steps for a recovery, and returns the user's units. `graphs` maps the number of a mode to edges.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from graphlearn.models.core.adamw_ema import AdamWEma, copied
from graphlearn.models.core.device import choose_device
from graphlearn.models.net3.conformal import Conformal, floor_of
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.metrics import Metrics
from graphlearn.models.net3.options import Net3Options
from graphlearn.types import BoolArray, FloatArray, IdArray, Split


class SeriesTraining(ABC):
    """A model, its optimiser, and the items (windows, steps) it learns from. Can be pickled at any step."""

    values: FloatArray
    observed: BoolArray | None
    eval_target: Mapping[Split, BoolArray] | None
    calendar: Calendar
    options: Net3Options
    scaler: Scaler
    model: nn.Module
    items: IdArray

    def _begin(self, options: Net3Options, model: nn.Module, items: IdArray) -> None:
        self.options, self.device, self.items = options, choose_device(options.device), items
        self.model = model.to(self.device)
        self.mean = torch.from_numpy(self.scaler.mean).to(self.device)
        self.scale = torch.from_numpy(self.scaler.scale).to(self.device)
        self.optimiser = AdamWEma(
            self.model,
            decayed=[
                name
                for name, p in self.model.named_parameters()
                if not name.startswith("linear_skip") and "bias" not in name and p.ndim > 1
            ],
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            ema=options.ema,
        )
        self.chosen = torch.zeros(2, dtype=torch.float64)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; 0 without training items."""
        return math.ceil(len(self.items) / self.options.batch_size)

    def step(self, epoch: int, step: int) -> float:
        """One optimiser step; returns its loss. Raises TrainingDiverged when that is not finite."""
        options = self.options
        order = np.random.default_rng([options.seed, 3, epoch]).permutation(len(self.items))
        chosen = np.sort(self.items[order[step * options.batch_size : (step + 1) * options.batch_size]])
        generator = None
        if options.dropout:
            number = ((options.seed * 1_000_003 + epoch) * 1_000_003 + step) % (1 << 64)
            generator = torch.Generator(self.device).manual_seed(number)
        self.model.train()
        return self.optimiser.step(
            self.loss(chosen, generator), epoch, "lower learning_rate, or look for extreme values"
        )

    def using_mean(self) -> AbstractContextManager[None]:
        """Inside the context the model holds the weights that predict."""
        return self.optimiser.using_mean()

    def _fitted(self) -> dict[str, Tensor]:
        return {"scaler.mean": self.mean, "scaler.scale": self.scale, "chosen": self.chosen}

    def weights(self) -> dict[str, Tensor]:
        """What predictions need, as copies on the CPU."""
        return self.optimiser.weights() | copied(self._fitted())

    def state(self) -> dict[str, Tensor]:
        """All that changes while training, as copies on the CPU."""
        return self.optimiser.state() | copied(self._fitted())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `state()` or `weights()` of a training of the same shape and options."""
        self.optimiser.load(tensors)
        with torch.no_grad():
            self.mean.copy_(tensors["scaler.mean"])
            self.scale.copy_(tensors["scaler.scale"])
        self.scaler = Scaler(self.mean.cpu().numpy().copy(), self.scale.cpu().numpy().copy())

    def to_z(self, x: FloatArray) -> tuple[Tensor, Tensor]:
        """z-scores with 0 for missing cells, and the mask of known cells. shape: [..., N...] -> two of [..., N...]"""
        raw = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self.device)
        seen = torch.isfinite(raw)
        return torch.where(seen, (raw - self.mean) / self.scale, 0.0), seen

    def to_units(self, z: Tensor) -> FloatArray:
        """z-scores into the user's units."""
        out: FloatArray = (z * self.scale + self.mean).cpu().numpy()
        return out

    @abstractmethod
    def loss(self, items: IdArray, dropout: torch.Generator | None) -> Tensor:
        """The loss that a step minimises."""

    @abstractmethod
    def predict(self, items: IdArray) -> FloatArray:
        """In the user's units."""

    @abstractmethod
    def evaluate(self, split: Split, intervals: Conformal | None = None, block: int | None = None) -> Metrics:
        """Errors on the target cells of the split, in the user's units and z-scored.

        With `intervals`, predictions are at least their floor, and on the test split, the coverage is measured too.
        `block`: see `Metrics`.
        """

    @abstractmethod
    def windows(self, split: Split) -> int:
        """The number of windows (of a recovery, steps) on which a split is measured."""

    @cached_property
    def floor(self) -> FloatArray:
        """What no reading of a series is below; see `floor_of`. shape: [N1, ..., NM]"""
        return floor_of(self.values, self.fitted_until(), self.observed)

    def fitted_until(self) -> int | None:
        """The step before which everything is fitted; None for all steps."""
        return None

    def score(self) -> float:
        """What early stopping minimises: the z-scored RMSE of the validation split, NaN without a cell."""
        return self.evaluate(Split.VALID).total["z_rmse"]

    @abstractmethod
    def conformal(self) -> Conformal:
        """Intervals from the residuals of the validation split."""
