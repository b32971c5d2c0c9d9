"""Training of smooth recovery: filling missing cells within a series.

The known cells are divided into five folds at random. For each fold, a low-rank completion is made without it, and the
model learns to correct that completion on the fold. Predictions start from the completion of all known cells. Six
completions of the size of the tensor are kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from graphlearn.models.core.restored import check_restored
from graphlearn.models.net3.baselines.low_rank import choose_rank, low_rank, rank_choices
from graphlearn.models.net3.conformal import Conformal, static
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import blocks, gather
from graphlearn.models.net3.metrics import LEVELS, Metrics
from graphlearn.models.net3.network.mode_products import Graph
from graphlearn.models.net3.network.model import masked_loss
from graphlearn.models.net3.network.recover import Net3Smooth
from graphlearn.models.net3.options import Net3Options
from graphlearn.models.net3.training.training import SeriesTraining
from graphlearn.types import BoolArray, FloatArray, IdArray, Split

FOLDS = 5
SHRINKAGES = (0.0, 0.005, 0.01, 0.02, 0.04)


def hold_out(values: FloatArray, hidden: float, seed: int) -> tuple[BoolArray, dict[Split, BoolArray]]:
    """Cells that may be read, and those held out to measure a recovery: half for validation, half for the test.

    shape: [T, N...] -> observed [T, N...], by split [T, N...]; train = observed
    """
    observed, valid, test = (np.zeros(values.shape, bool) for _ in range(3))
    generator = np.random.default_rng([seed, 1])
    for lo, block in blocks(values):
        known, draw = np.isfinite(block), generator.random(block.shape, dtype=np.float32)
        steps = slice(lo, lo + len(block))
        valid[steps], test[steps] = known & (draw < hidden / 2), known & (draw >= hidden / 2) & (draw < hidden)
        observed[steps] = known & (draw >= hidden)
    return observed, {Split.TRAIN: observed, Split.VALID: valid, Split.TEST: test}


class SmoothRecovery(SeriesTraining):
    """Net3Smooth; an item is fold * T + time step. `predict` takes time steps.

    values: [T, N1, ..., NM]; observed: cells that may be read; eval_target: the cells to measure, by split.
    """

    def __init__(
        self,
        values: FloatArray,
        graphs: Mapping[int, Graph],
        options: Net3Options,
        calendar: Calendar | None,
        observed: BoolArray,
        eval_target: Mapping[Split, BoolArray],
        fitted: Mapping[str, Tensor] | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.values, self.observed, self.eval_target = values, observed, eval_target
        self.calendar = Calendar.none(len(values)) if calendar is None else calendar
        used = self.calendar if options.calendar else Calendar.none(len(values))
        T, shape = len(values), values.shape[1:]

        def make() -> Net3Smooth:
            return Net3Smooth(shape, graphs, options, periods=used.periods)

        if fitted is not None:
            check_restored(fitted, "model.", lambda: make().state_dict())
        self.scaler = Scaler.fit(values, None, observed)
        z = np.where(observed, self.scaler.transform(values), np.float32(0))
        draw = np.random.default_rng([options.seed, 4]).integers(0, FOLDS, values.shape, dtype=np.int8)
        self.fold = np.where(observed, draw, np.int8(-1))
        flat, seen = z.reshape(T, -1), observed.reshape(T, -1)
        rank, shrinkage = options.rank, 0.0
        if fitted is not None:
            rank, shrinkage = int(fitted["chosen"][0]), float(fitted["chosen"][1])
        elif not rank:
            rank, _ = choose_rank(flat, seen, rank_choices(*flat.shape), seed=options.seed, advance=advance)
            both = (rank, min(flat.shape))
            rank, shrinkage = choose_rank(flat, seen, both, shrinkages=SHRINKAGES, seed=options.seed, advance=advance)
        self.rank, self.shrinkage = rank, shrinkage
        parts = [seen & (self.fold.reshape(T, -1) != k) for k in range(FOLDS)] + [seen]
        found = []
        for part in parts:
            found.append(low_rank(flat, part, rank, shrinkage=shrinkage))
            advance()
        self.low = np.stack(found).reshape(FOLDS + 1, T, *shape)
        self.z = z
        self._begin(options, make(), np.arange(FOLDS * T))
        self.chosen = torch.tensor([rank, shrinkage], dtype=torch.float64)
        if fitted is not None:
            self.load(fitted)

    def _forward(self, folds: IdArray, steps: IdArray, dropout: torch.Generator | None) -> tuple[Tensor, Tensor]:
        w, T = self.options.window, len(self.values)
        around = steps[:, None] + np.arange(-w, w + 1)
        inside = (around >= 0) & (around < T)
        at = np.clip(around, 0, T - 1)
        low = self.low[folds[:, None], at]
        fold = self.fold[at]
        spread = (..., *(None,) * (fold.ndim - 2))
        seen = (fold >= 0) & (fold != folds[:, None][spread]) & inside[spread]
        low = np.where(inside[spread], low, np.float32(0))
        error = np.where(seen, self.z[at] - low, np.float32(0))
        parts = (low, error, seen, self.calendar.at(at))
        out: tuple[Tensor, Tensor] = self.model(*(torch.from_numpy(p).to(self.device) for p in parts), dropout)
        return out

    def loss(self, items: IdArray, dropout: torch.Generator | None) -> Tensor:
        """Error on the cells of the item's fold, and the penalties of the Tucker cores."""
        options, T = self.options, len(self.values)
        folds, steps = items // T, items % T
        predicted, lost = self._forward(folds, steps, dropout)
        mask = torch.from_numpy(self.fold[steps] == folds[(..., *(None,) * (self.fold.ndim - 1))]).to(self.device)
        actual = torch.from_numpy(self.z[steps]).to(self.device)
        assert isinstance(self.model, Net3Smooth)
        total = masked_loss(predicted, actual, mask, options.loss) + options.reconstruction * lost
        return total + options.orthonormality * self.model.penalty()

    def predict(self, items: IdArray) -> FloatArray:
        """Values of all cells at time steps, known or not. shape: [B] -> [B, 1, N1, ..., NM]"""
        steps = np.asarray(items, np.int64)
        with self.using_mean():
            return self.to_units(self._forward(np.full(len(steps), FOLDS), steps, None)[0][:, None])

    def completion(self, items: IdArray) -> FloatArray:
        """The low-rank completion that the model starts from, as `predict`."""
        return self.scaler.inverse(self.low[FOLDS][np.asarray(items, np.int64)][:, None])

    def _targets(self, split: Split) -> Iterator[tuple[FloatArray, FloatArray, BoolArray]]:
        size, targets = max(1, self.options.batch_size), self.eval_target
        assert targets is not None
        for lo in range(0, len(self.values), size):
            steps = np.arange(lo, min(lo + size, len(self.values)))
            yield self.predict(steps), gather(self.values, steps, 1), gather(targets[split], steps, 1)

    def windows(self, split: Split) -> int:
        """The number of steps on which a split is measured."""
        return len(self.values)

    def evaluate(self, split: Split, intervals: Conformal | None = None, block: int | None = None) -> Metrics:
        """See `SeriesTraining.evaluate`."""
        metrics = Metrics(self.scaler.scale, 1, block)
        for predicted, actual, mask in self._targets(split):
            bounds, clipped = None, predicted
            if intervals is not None:
                clipped = intervals.clip(predicted)
            if intervals is not None and intervals.spread is not None and split == Split.TEST:
                found = (intervals.interval(predicted, intervals.spread, self.scaler.scale, level) for level in LEVELS)
                bounds = dict(zip(LEVELS, found, strict=True))
            metrics.add(clipped, actual, mask, bounds)
        return metrics

    def conformal(self) -> Conformal:
        """Intervals from the residuals of the cells held out for validation."""
        return static(self._targets(Split.VALID), self.scaler, self.floor)
