"""Options of NET3, the network of tensor time series."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphlearn.errors import OptionError
from graphlearn.models.core.options import Options


@dataclass(frozen=True, kw_only=True)
class Net3Options(Options):
    """Options of the NET3 model and its training; those of its input belong to the job."""

    renamed: ClassVar[Mapping[str, str]] = {
        "highway": "linear_skip",
        "averaging": "ema",
        "published": "variant = 'paper'",
    }

    task: Literal["forecast", "recover"] = "forecast"
    """forecast: the steps after a window. recover: the missing cells within the series."""
    recovery: Literal["smooth", "causal"] = "smooth"
    """recover: smooth reads steps on both sides and the other cells of the step. causal reads earlier steps only."""
    window: int = 0
    """Time steps the model reads; recovery = 'smooth' reads that many on each side. 0: 5, or 1 when smooth."""
    horizon: int = 1
    """Steps ahead to forecast, each directly from the window."""
    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Fractions of the time steps for training, validation and test; validation may be 0."""
    hidden: float = 0.1
    """recover: share of the known cells held out, half for validation and half for the test."""
    variant: Literal["default", "paper"] = "default"
    """paper: the model as published: the network alone, soft orthonormality on U U^T, a head per series, plain Adam."""
    dim: int = 8
    """Channels per cell, after the graph convolution and in the hidden state."""
    core: float = 0.5
    """Size of the Tucker core: a mode of N entries becomes ceil(core * N), at most core_limit."""
    core_limit: int = 64
    """Largest size of a core mode."""
    orthonormal: Literal["hard", "soft"] = "hard"
    """hard: factors U have orthonormal columns by construction (QR). soft: a penalty of weight `orthonormality`."""
    orthonormality: float = 1e-3
    """Weight of the soft penalty."""
    reconstruction: float = 1e-3
    """Weight of the reconstruction error of the Tucker core."""
    head: Literal["series", "shared"] = "series"
    """Output weights: one set shared by all series, or that plus a correction per series."""
    linear_skip: Literal["series", "shared", "none"] = "series"
    """A linear AR model added to the network's output, initialised by ridge regression: one per series, or one shared
    by all."""
    ridge: float = 0.0
    """Strength of that ridge penalty, in observations; a series' coefficients shrink towards the shared ones. 0 selects
    it on the last eighth of the training steps."""
    season: float = 0.0
    """The seasonal means of each series are subtracted; a mean of n cells is weighted n / (n + season). 0 selects the
    value in the same way."""
    season_rank: int = -1
    """Rank to which the seasonal means of each cycle are reduced; 0 keeps full rank, -1 selects it in the same way."""
    calendar: bool = True
    """Use the cycles of the calendar: seasonal means, and embeddings of the phase."""
    identity: bool = True
    """Embeddings of the entries of each mode (Shao et al. 2022, STID)."""
    learnt_rank: int = 8
    """Rank of a learnt graph per mode, in addition to the given one (after Wu et al. 2019, Graph WaveNet); 0 learns
    none."""
    directions: Literal["both", "along"] = "both"
    """Whether a directed graph passes values along its edges only, or along and against them with separate weights."""
    loss: Literal["rmse", "mse", "mae"] = "mse"
    """Training loss, on z-scores."""
    batch_size: int = 32
    """Windows per optimiser step."""
    learning_rate: float = 0.003
    """Step size of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    dropout: float = 0.1
    """Dropout on the input of the output layer, while training."""
    ema: float = 0.98
    """Decay of the exponential moving average of the weights that forecasts use; 0 uses the last weights."""
    rank: int = 0
    """recover: rank of the low-rank completion that smooth recovery starts from; 0 selects it on held-out cells."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", tuple(self.split))
        if self.window == 0:
            smooth = self.task == "recover" and self.recovery == "smooth"
            object.__setattr__(self, "window", 1 if smooth else 5)
        super().__post_init__()
        self.check_at_least(1, "window", "horizon", "dim", "core_limit", "batch_size")
        self.check_at_least(
            0, "orthonormality", "reconstruction", "ridge", "season", "learnt_rank", "weight_decay", "rank"
        )
        self.check_at_least(-1, "season_rank")
        if not 0 < self.core <= 1:
            raise OptionError(f"core must lie in (0, 1], not {self.core}", key="core")
        self.check_fractions("dropout", "ema")
        if not 0 < self.hidden < 1:
            raise OptionError(f"hidden must lie in (0, 1), not {self.hidden}", key="hidden")
        if len(self.split) != 3 or not all(math.isfinite(s) and s >= 0 for s in self.split):
            raise OptionError(
                "split takes three fractions that are not negative: train, validation, test",
                key="split",
                help="for example split = [0.8, 0.1, 0.1]",
            )
        if self.split[0] <= 0 or abs(sum(self.split) - 1) > 1e-6:
            raise OptionError(
                f"split must add up to 1 with a positive first fraction, not {list(self.split)}",
                key="split",
                help="for example split = [0.8, 0.1, 0.1]",
            )
        if self.task == "recover":
            self.refuse(["horizon"], "with task = 'recover'", "leave it out, or use task = 'forecast'")
        else:
            for_recovery = ("recovery", "hidden", "rank")
            self.refuse(for_recovery, "with task = 'forecast'", "leave it out, or use task = 'recover'")
        if self.variant == "paper":
            self._use_paper()
        if self.orthonormal == "hard":
            self.refuse(["orthonormality"], "with orthonormal = 'hard'", "leave it out, or use orthonormal = 'soft'")
        if self.linear_skip == "none":
            self.refuse(["ridge"], "with linear_skip = 'none'", "leave it out")
        if not self.calendar:
            self.refuse(["season", "season_rank"], "with calendar = false", "leave it out")

    def _use_paper(self) -> None:
        if self.task == "recover" and self.recovery == "smooth":
            raise OptionError("variant = 'paper' recovers causally", key="recovery", help="use recovery = 'causal'")
        paper: dict[str, object] = {
            "orthonormal": "soft",
            "linear_skip": "none",
            "calendar": False,
            "identity": False,
            "learnt_rank": 0,
            "directions": "along",
            "dropout": 0.0,
            "weight_decay": 0.0,
            "ema": 0.0,
            "loss": "rmse",
            "learning_rate": 0.01,
            "core_limit": 1 << 30,
        }
        self.replace_defaults(paper, free=("learning_rate", "core_limit"))
