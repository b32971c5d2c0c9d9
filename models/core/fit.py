"""Training in memory, for baselines, tests and benchmarks. Jobs train with checkpoints; see `jobs/loop.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from graphlearn.models.core.early_stop import EarlyStop
from graphlearn.models.core.options import Options


class Training(Protocol):
    """A model that is trained step by step."""

    @property
    def options(self) -> Options: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def step(self, epoch: int, step: int) -> float: ...
    def score(self) -> float: ...
    def weights(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


def train_epoch(training: Training, epoch: int) -> float:
    """Take all steps of an epoch; returns the mean loss, NaN without steps."""
    losses = [training.step(epoch, step) for step in range(training.steps_per_epoch)]
    return float(np.mean(losses)) if losses else math.nan


def fit(training: Training) -> int:
    """Train with early stopping, then load the best weights; returns the number of epochs run."""
    options = training.options
    stop, epoch = EarlyStop(options.patience), 0
    for epoch in range(options.epochs):
        train_epoch(training, epoch)
        last = epoch == options.epochs - 1
        every = options.evaluate_every
        if (last or (every and (epoch + 1) % every == 0)) and stop.update(training.score(), training):
            break
    training.load(stop.best)
    return epoch + 1
