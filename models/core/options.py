"""Shared by the options of all families: the options of the training loop, and checks that name the option."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, Self

from graphlearn.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the training loop. A family's dataclass adds options and changes defaults.

    An object knows which options were given to it, even those given with their default value, so that what depends on
    other options replaces only the rest. An object made from all options (a copy, stored ones) is taken as it is.
    """

    # old name of an option -> its replacement, which the error for the old name gives
    renamed: ClassVar[Mapping[str, str]] = {}
    # options that are not part of a job's identity: another value neither retrains a model nor prevents resuming
    runtime: ClassVar[frozenset[str]] = frozenset({"threads", "checkpoint_seconds"})

    epochs: int = 50
    """Passes over the training data."""
    learning_rate: float = 0.01
    """Step size of the optimiser."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation split; 0 evaluates at the end only."""
    patience: int = 5
    """Stop after this many evaluations without an improvement on the validation split; 0 never stops early."""
    checkpoint_seconds: float = 60.0
    """Least seconds between checkpoints, from which an interrupted run continues. Large models have fewer: checkpoints
    take at most 3 % of the training time. 0 saves after every step, at any cost."""
    baselines: bool = True
    """Compare the model with simple baselines, trained on the same data and measured on the same splits."""
    baseline_share: float = 0.2
    """CPU time that the baselines may use, as a share of the training's, but at least 1 s; 0 sets no limit."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model is trained; auto uses a GPU if there is one."""
    threads: int = 0
    """CPU threads; 0 keeps the default of PyTorch."""

    _given: ClassVar[frozenset[str]] = frozenset()

    def __new__(cls, **given: Any) -> Self:
        self = super().__new__(cls)
        object.__setattr__(self, "_given", frozenset(given))
        return self

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """The options of a stored version, as they are; those it does not have get their defaults, others are ignored.

        Lists become tuples. Raises OptionError for a value out of range.
        """
        complete: dict[str, Any] = {}
        for field in fields(cls):
            value = field.default if field.default_factory is MISSING else field.default_factory()
            value = values.get(field.name, value)
            complete[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**complete)

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range. Subclasses call this before their own checks."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise OptionError(f"{field.name} must be a finite number, not {value}", key=field.name)
        self.check_at_least(1, "epochs")
        self.check_at_least(0, "evaluate_every", "patience", "checkpoint_seconds", "baseline_share", "seed", "threads")
        self.check_above(0, "learning_rate")
        if self.seed >= 1 << 64:
            raise OptionError(f"seed must be less than 2^64, not {self.seed}", key="seed")
        if not self.baselines:
            self.refuse(["baseline_share"], "with baselines = false", "leave it out")
        if not self.evaluate_every and self.patience:
            self.refuse(["patience"], "with evaluate_every = 0", "leave it out, or set evaluate_every")

    def check_at_least(self, bound: int, *names: str) -> None:
        """Raise OptionError for an option below the bound."""
        for name in names:
            if getattr(self, name) < bound:
                raise OptionError(f"{name} must be at least {bound}, not {getattr(self, name)}", key=name)

    def check_above(self, bound: int, *names: str) -> None:
        """Raise OptionError for an option at or below the bound."""
        for name in names:
            if getattr(self, name) <= bound:
                raise OptionError(f"{name} must be greater than {bound}, not {getattr(self, name)}", key=name)

    def check_fractions(self, *names: str) -> None:
        """Raise OptionError for an option outside [0, 1)."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must lie in [0, 1), not {getattr(self, name)}", key=name)

    def is_given(self, name: str) -> bool:
        """Whether an option was given, be it with its default value."""
        return name in self._given

    @property
    def _is_complete(self) -> bool:
        return len(self._given) == len(fields(self))

    def replace_default(self, name: str, value: object) -> None:
        """Set an option that was not given."""
        if not self.is_given(name):
            object.__setattr__(self, name, value)

    def refuse(self, names: Iterable[str], reason: str, help: str) -> None:
        """Raise OptionError for an option that was given, even with its default, but has no effect.

        `reason`: such as "with loss = 'bce'".
        """
        for name in () if self._is_complete else names:
            if self.is_given(name):
                raise OptionError(f"{name} has no effect {reason}", key=name, help=help)

    def replace_defaults(self, paper: Mapping[str, object], free: Collection[str] = ()) -> None:
        """For variant = 'paper': set the options that were not given to the paper's values.

        Raises OptionError for an option given with another value, unless it is in `free`.
        """
        for name, value in paper.items():
            self.replace_default(name, value)
            given = getattr(self, name)
            if given != value and name not in free and not self._is_complete:
                raise OptionError(
                    f"variant = 'paper' has {name} = {value!r}, not {given!r}",
                    key=name,
                    help=f"omit {name} or variant",
                )
