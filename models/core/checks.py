"""Checks that options of several models share."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from graphlearn.errors import OptionError


def check_finite(options: Any) -> None:
    """Raise OptionError for a float of the dataclass that is NaN or infinite."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"{field.name} must be a finite number, not {value}", key=field.name)


def check_at_least(options: Any, bound: int, *names: str) -> None:
    """Raise OptionError for an option below the bound."""
    for name in names:
        if getattr(options, name) < bound:
            raise OptionError(f"{name} must be at least {bound}, not {getattr(options, name)}", key=name)


def check_fractions(options: Any, *names: str) -> None:
    """Raise OptionError for an option outside [0, 1)."""
    for name in names:
        if not 0 <= getattr(options, name) < 1:
            raise OptionError(f"{name} must lie in [0, 1), not {getattr(options, name)}", key=name)


def check_positive_rate(options: Any) -> None:
    """Raise OptionError for a learning_rate of 0 or less."""
    if options.learning_rate <= 0:
        raise OptionError(f"learning_rate must be greater than 0, not {options.learning_rate}", key="learning_rate")


def take_published(options: Any, theirs: Mapping[str, object], free: Collection[str] = ()) -> None:
    """Options at a default of ours become the paper's. Raises OptionError for one asked for, unless it is `free`."""
    for name, value in theirs.items():
        given = getattr(options, name)
        if given == type(options).__dataclass_fields__[name].default:
            object.__setattr__(options, name, value)
        elif given != value and name not in free:
            raise OptionError(
                f"the published form has {name} = {value!r}, not {given!r}",
                key=name,
                help=f"leave {name} out, or leave published out",
            )
