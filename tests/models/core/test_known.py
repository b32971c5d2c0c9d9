"""Known answers compared with a dictionary."""

from __future__ import annotations

import numpy as np
from cases.kge import graph
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.models.core.known import KnownAnswers
from graphlearn.types import Side

E, R = 12, 3


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_known_answers_equal_a_dictionary(seed: int) -> None:
    t = graph(50, E, R, seed)
    expected: dict[tuple[int, int], set[int]] = {}
    for h, r, x in zip(t.heads.tolist(), t.relations.tolist(), t.tails.tolist(), strict=True):
        expected.setdefault((h, r), set()).add(x)
    known = KnownAnswers.of([t, t], Side.TAIL, R)
    assert len(known) == len(expected)
    anchors = np.repeat(np.arange(E), R).astype(np.int32)
    relations = np.tile(np.arange(R), E).astype(np.int32)
    keys = known.keys(anchors, relations)
    rows, answers = known.rows(keys)
    got: dict[tuple[int, int], set[int]] = {}
    for row, answer in zip(rows.tolist(), answers.tolist(), strict=True):
        assert answer not in got.setdefault((int(anchors[row]), int(relations[row])), set())
        got[int(anchors[row]), int(relations[row])].add(answer)
    assert got == expected
