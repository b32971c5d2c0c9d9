"""Every model: its equation compared with a plain reference, and the agreement of its three access patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases.kge import MODELS, scorer

from graphlearn.models.kge.scorers.registry import SCORERS

E, R = 7, 3


def complex_(x: np.ndarray) -> np.ndarray:
    re, im = np.split(x, 2, axis=-1)
    return re + 1j * im


def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.split(x, 2, axis=-1)
    return a, b


REFERENCE: dict[str, Callable[..., Any]] = {
    "transe": lambda h, r, t, o, d: -np.linalg.norm(h + r - t, ord=o.norm),
    "distmult": lambda h, r, t, o, d: (h * r * t).sum(),
    "complex": lambda h, r, t, o, d: (complex_(h) * complex_(r) * complex_(t).conj()).sum().real,
    "rotate": lambda h, r, t, o, d: -np.abs(complex_(h) * np.exp(1j * r) - complex_(t)).sum(),
    "simple": lambda h, r, t, o, d: (
        0.5 * ((halves(h)[0] * halves(r)[0] * halves(t)[1]).sum() + (halves(t)[0] * halves(r)[1] * halves(h)[1]).sum())
    ),
    "cp": lambda h, r, t, o, d: (halves(h)[0] * r * halves(t)[1]).sum(),
    "rescal": lambda h, r, t, o, d: h @ r.reshape(o.dim, o.dim) @ t,
    "tucker": lambda h, r, t, o, d: np.einsum("k,kij,i,j->", r, d["core"], h, t),
}


def test_every_model_has_a_reference() -> None:
    assert set(REFERENCE) == set(SCORERS)


@pytest.mark.parametrize(("model", "extra"), [*((m, {}) for m in MODELS), ("transe", {"norm": 2})])
def test_equation_and_access_patterns(model: str, extra: dict[str, Any]) -> None:
    s = scorer(model, **extra)
    g = torch.Generator().manual_seed(1)
    entities, relations = s.initial_entities(E, g), s.initial_relations(R, g)
    dense = s.initial_dense(g)
    heads, rels = torch.tensor([0, 3, 5, 6]), torch.tensor([0, 1, 2, 0])
    tails_all = s.score(entities[heads], relations[rels], entities, "sp_", dense)
    heads_all = s.score(entities, relations[rels], entities[heads], "_po", dense)
    assert tails_all.shape == heads_all.shape == (4, E)
    numbers = {name: value.double().numpy() for name, value in dense.items()}
    e, r = entities.double().numpy(), relations.double().numpy()
    for i in range(4):
        for j in range(E):
            there = REFERENCE[model](e[heads[i]], r[rels[i]], e[j], s.options, numbers)
            back = REFERENCE[model](e[j], r[rels[i]], e[heads[i]], s.options, numbers)
            assert tails_all[i, j] == pytest.approx(there, rel=1e-4, abs=1e-4)
            assert heads_all[i, j] == pytest.approx(back, rel=1e-4, abs=1e-4)
    tails = torch.tensor([1, 2, 2, 4])
    rows = s.score(entities[heads], relations[rels], entities[tails], "spo", dense)
    torch.testing.assert_close(rows, tails_all[torch.arange(4), tails], rtol=1e-4, atol=1e-4)
