"""Options of NET3, the network of tensor time series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from graphlearn.errors import OptionError
from graphlearn.models.core.checks import (
    check_at_least,
    check_finite,
    check_fractions,
    check_positive_rate,
    take_published,
)


@dataclass(frozen=True, kw_only=True)
class Net3Options:
    """Options of NET3 that the model and its training know; where the series comes from is the job's."""

    task: Literal["forecast", "recover"] = "forecast"
    """forecast: the steps after a window. recover: the cells that are missing within the series."""
    recovery: Literal["smooth", "causal"] = "smooth"
    """recover: smooth sees both sides in time and the other cells of the step. causal sees earlier steps only."""
    window: int = 0
    """Time steps the model reads; recovery = 'smooth' reads so many before and after. 0 is 5, or 1 when smooth."""
    horizon: int = 1
    """Steps ahead that are forecast, each directly from the window."""
    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Fractions of time for train, validation and test, in this order (validation may be 0)."""
    hidden: float = 0.1
    """recover: share of the known cells that are held out to measure the model, half for validation, half for test."""
    published: bool = False
    """The form of the paper: the network alone, soft orthonormality on U U^T, one head per series, plain Adam."""
    dim: int = 8
    """Channels per cell after the graph convolution, and of the hidden state."""
    core: float = 0.5
    """Size of the Tucker core: a mode of N entries becomes ceil(core * N), at most core_limit."""
    core_limit: int = 64
    """Largest size of a core mode."""
    orthonormal: Literal["hard", "soft"] = "hard"
    """hard: factors U have orthonormal columns by construction (QR). soft: a penalty of weight `orthonormality`."""
    orthonormality: float = 1e-3
    """Weight of the soft penalty."""
    reconstruction: float = 1e-3
    """Weight of the norm of what the Tucker core loses."""
    head: Literal["series", "shared"] = "series"
    """Output weights: one set for all series, or that and a correction for each series."""
    highway: Literal["series", "shared", "none"] = "series"
    """A linear AR beside the network, started at its ridge solution: its own for each series, or one for all."""
    ridge: float = 0.0
    """Strength of that ridge, in observations; coefficients of a series shrink towards the shared ones. 0 chooses it on
    the last eighth of the train part."""
    season: float = 0.0
    """The seasonal mean of each series is taken off; a mean of n cells counts n / (n + season). 0 chooses likewise."""
    season_rank: int = -1
    """Rank to which the table of seasonal means of each cycle is reduced; 0 leaves it, -1 chooses likewise."""
    calendar: bool = True
    """Use the cycles of the calendar: seasonal means and embeddings of the phase."""
    identity: bool = True
    """Embeddings of the entries of each mode (Shao et al. 2022, STID)."""
    learnt_rank: int = 8
    """Rank of a learnt graph per mode beside the given one (after Wu et al. 2019, Graph WaveNet); 0 learns none."""
    directions: Literal["both", "along"] = "both"
    """A directed graph passes values along its edges, or both along and against them, with weights of their own."""
    loss: Literal["rmse", "mse", "mae"] = "mse"
    """What is minimised, on z-scores."""
    epochs: int = 50
    """Passes over the training windows."""
    batch_size: int = 32
    """Windows per optimiser step."""
    learning_rate: float = 0.003
    """Step size of Adam."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    dropout: float = 0.1
    """Dropout on what the output weights see, while training."""
    averaging: float = 0.98
    """Forecasts use an exponential mean of the weights over steps with this memory; 0 uses the last weights."""
    rank: int = 0
    """recover: rank of the low-rank completion that starts smooth recovery; 0 chooses it on held-out cells."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation part; 0 evaluates at the end only."""
    patience: int = 5
    """Stop after this many evaluations without a better validation RMSE; 0 never stops early."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, from which a killed run continues."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model lives; auto takes a GPU when there is one."""
    threads: int = 0
    """Threads on a CPU; 0 leaves them as they are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", tuple(self.split))
        if self.window == 0:
            smooth = self.task == "recover" and self.recovery == "smooth"
            object.__setattr__(self, "window", 1 if smooth else 5)
        check_finite(self)
        check_at_least(self, 1, "window", "horizon", "dim", "core_limit", "epochs", "batch_size")
        check_at_least(
            self, 0, "orthonormality", "reconstruction", "ridge", "season", "learnt_rank", "weight_decay", "rank"
        )
        check_at_least(self, 0, "evaluate_every", "patience", "checkpoint_seconds", "seed", "threads")
        check_at_least(self, -1, "season_rank")
        if not 0 < self.core <= 1:
            raise OptionError(f"core must lie in (0, 1], not {self.core}", key="core")
        check_positive_rate(self)
        check_fractions(self, "dropout", "averaging")
        if not 0 < self.hidden < 1:
            raise OptionError(f"hidden must lie in (0, 1), not {self.hidden}", key="hidden")
        if len(self.split) != 3 or not all(math.isfinite(s) and s >= 0 for s in self.split):
            raise OptionError(
                "split needs three fractions, none of them negative: train, validation, test",
                key="split",
                help="for example split = [0.8, 0.1, 0.1]",
            )
        if self.split[0] <= 0 or abs(sum(self.split) - 1) > 1e-6:
            raise OptionError(
                f"split must add up to 1 and begin with a train part, not {list(self.split)}",
                key="split",
                help="for example split = [0.8, 0.1, 0.1]",
            )
        if self.task == "recover" and self.horizon != 1:
            raise OptionError(
                "task = 'recover' fills cells, it has no horizon", key="horizon", help="leave it out, or forecast"
            )
        if self.task == "forecast":
            for name in ("recovery", "hidden", "rank"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise OptionError(
                        f"{name} is an option of task = 'recover'", key=name, help="leave it out, or recover"
                    )
        if self.published:
            self._as_published()

    def _as_published(self) -> None:
        """Defaults that are ours become the paper's; the ones of ours that were asked for are an error."""
        if self.task == "recover" and self.recovery == "smooth":
            raise OptionError("the published form recovers causally", key="recovery", help="use recovery = 'causal'")
        theirs: dict[str, object] = {
            "orthonormal": "soft",
            "highway": "none",
            "calendar": False,
            "identity": False,
            "learnt_rank": 0,
            "directions": "along",
            "dropout": 0.0,
            "weight_decay": 0.0,
            "averaging": 0.0,
            "loss": "rmse",
            "learning_rate": 0.01,
            "core_limit": 1 << 30,
        }
        take_published(self, theirs, free=("learning_rate", "core_limit"))
