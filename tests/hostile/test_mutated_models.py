"""Random damage to stored models of every kind: an answer or an error of ours, and nothing else happens.

The seeds are fixed; to look for more: `pytest tests/hostile/test_mutated_models.py -m slow`, whose seed is printed.
"""

from __future__ import annotations

import random
import time
import warnings

import pytest
from cases.mutations import mutate
from cases.stored_models import MODELS, Bench

from graphlearn.errors import GraphLearnError

SECONDS = 60


def attack(bench: Bench, seed: int) -> str:
    """Change a model and use it; returns what was changed."""
    chance = random.Random(seed)
    bench.restore()
    model = chance.choice(sorted(MODELS))
    what = f"seed {seed}, {model}: {mutate(bench.version(model), chance)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refused = bench.refusals(model)
            listed = bench.listed()
        try:
            shown = bench.shown(model)
        except GraphLearnError as error:
            shown = str(error)
    except BaseException as error:
        error.add_note(what)
        raise
    assert all(name in listed for name in MODELS), what
    assert not {"\x1b", "\x9b", "\u202e"} & {*listed, *shown, *"".join(refused)}, what
    return what


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_model_is_refused_or_answers(bench: Bench, seed: int) -> None:
    attack(bench, seed)


@pytest.mark.slow
def test_many_damaged_models(bench: Bench) -> None:
    first = seed = random.randrange(1 << 30)
    print(f"seeds from {first}")
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        attack(bench, seed)
        seed += 1
    assert seed > first
