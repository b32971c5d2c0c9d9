"""Options know which of them were given, even with their default value."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest

from graphlearn.errors import OptionError
from graphlearn.models.core.options import Options
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorers.rotate import RotatEOptions
from graphlearn.models.net3.options import Net3Options


def test_an_option_given_with_its_default_is_not_replaced() -> None:
    assert DhanOptions(variant="paper").heads == 1
    with pytest.raises(OptionError, match="variant = 'paper' has heads = 1, not 4") as caught:
        DhanOptions(variant="paper", heads=4)
    assert caught.value.key == "heads"
    assert RotatEOptions(loss="softmax").margin == 0
    with pytest.raises(OptionError, match="margin has no effect"):
        RotatEOptions(loss="softmax", margin=9.0)
    assert Net3Options(variant="paper").learning_rate == 0.01
    assert Net3Options(variant="paper", learning_rate=0.003).learning_rate == 0.003


@pytest.mark.parametrize("given", [{"hidden": 0.1}, {"rank": 0}, {"task": "recover", "horizon": 1}])
def test_an_option_without_effect_is_refused_even_with_its_default(given: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="has no effect with task = "):
        Net3Options(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (KgeOptions, {"negatives": 0, "degree_exponent": 0.0}),
        (KgeOptions, {"regularizer": "n3"}),
        (KgeOptions, {"margin": 0.0}),
        (KgeOptions, {"evaluate_every": 0, "patience": 3}),
        (KgeOptions, {"loss": "bce", "adversarial_temperature": 0.0}),
        (DhanOptions, {"batch_size": 1024}),
        (Net3Options, {"orthonormality": 1e-3}),
        (Net3Options, {"linear_skip": "none", "ridge": 0.0}),
        (Net3Options, {"calendar": False, "season": 0.0}),
        (Net3Options, {"calendar": False, "season_rank": -1}),
        (DhanOptions, {"hops": 0, "restart": 0.5}),
        (DhanOptions, {"variant": "paper", "restart": 0.5}),
        (DhanOptions, {"fanout": (5,), "linear": True}),
        (KgeOptions, {"baselines": False, "baseline_share": 0.2}),
    ],
)
def test_what_depends_on_an_option_that_is_off_is_refused(kind: type[Options], given: dict[str, object]) -> None:
    last = list(given)[-1]
    with pytest.raises(OptionError, match=f"{last} has no effect with(out)?") as caught:
        kind(**given)
    assert caught.value.key == last
    kind(**{name: value for name, value in given.items() if name != last})


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Options, {"evaluate_every": 0, "patience": 0}),
        (DhanOptions, {"fanout": (5,), "linear": False}),
    ],
)
def test_what_agrees_with_other_options_is_accepted(kind: type[Options], given: dict[str, object]) -> None:
    made = kind(**given)
    assert {name: getattr(made, name) for name in given} == given


@pytest.mark.parametrize(
    "options", [DhanOptions(variant="paper"), RotatEOptions(loss="bce"), Net3Options(variant="paper", core_limit=64)]
)
def test_copies_are_taken_as_they_are(options: DhanOptions | RotatEOptions | Net3Options) -> None:
    kind = type(options)
    assert replace(options) == options
    assert kind.stored(vars(options) | {"of_a_later_version": 1}) == options
    for copied in (copy.copy(options), pickle.loads(pickle.dumps(options))):
        assert copied == options
        assert copied.is_given("variant") == options.is_given("variant")


def test_stored_options_may_lack_those_of_later_versions() -> None:
    assert Net3Options.stored({"task": "forecast", "split": [0.6, 0.2, 0.2]}) == Net3Options(split=(0.6, 0.2, 0.2))
