"""Keys come back as they were asked, and unknown ones with a suggestion, in every table function."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import graphlearn
from graphlearn.events import Event, Note
from graphlearn.session import Session

KEYS = {
    "whole": "{}::BIGINT",
    "uuid": "('00000000-0000-0000-0000-0000000000' || (10 + {}))::UUID",
    "day": "TIMESTAMP '2024-01-01' + INTERVAL ({}) DAY",
    "word": "'Aspirin ' || {}",
}
UUID_5 = "00000000-0000-0000-0000-000000000015"
GRAPHS = ("uuid", "word")
"""The kinds of keys of which there are graph models too."""


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module")
def session(notes: list[str]) -> Iterator[Session]:
    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.message)

    with graphlearn.connect(emit=emit) as opened:
        for name, key in KEYS.items():
            triples = f"SELECT {key.format('i')} AS head, 'treats' AS relation, {key.format('(i * 7 % 50)')} AS tail"
            opened.sql(
                f"CREATE MODEL {name} TYPE distmult OPTIONS (dim = 4, epochs = 1) AS {triples} FROM range(50) t(i)"
            )
            nodes = f"node AS (SELECT {key.format('i')} AS id, i AS x, i % 2 AS class FROM range(50) t(i))"
            edges = f"edge AS (SELECT head AS source, tail AS target FROM ({triples} FROM range(50) t(i)))"
            for task, target in (("classes", "class"), ("links", "edge")) if name in GRAPHS else ():
                opened.sql(
                    f"CREATE MODEL {task}_{name} TYPE dhan OPTIONS (target = '{target}', hidden = 4, epochs = 1) "
                    f"AS ({nodes}, {edges})"
                )
        yield opened


def ask(session: Session, query: str) -> list[tuple[Any, ...]]:
    found = session.sql(query)
    assert found is not None
    rows: list[tuple[Any, ...]] = found.fetchall()  # type: ignore[union-attr]
    return rows


ASKED = [
    ("whole", "5::INTEGER", 5, True),
    ("whole", "'5'", "5", True),
    ("whole", "'five'", "five", False),
    ("whole", "5.7", Decimal("5.7"), False),
    ("whole", "[5]", [5], False),
    ("uuid", f"'{UUID_5}'", UUID_5, True),
    ("uuid", "5", 5, False),
    ("day", "DATE '2024-01-06'", date(2024, 1, 6), True),
    ("day", "'2024-01-06'", "2024-01-06", False),
]


@pytest.mark.parametrize(("model", "asked", "expected", "known"), ASKED)
def test_a_key_comes_back_as_it_was_asked(
    session: Session, model: str, asked: str, expected: object, known: bool
) -> None:
    question = f"(SELECT {asked} AS {{}})"
    calls = [
        (f"predict('{model}', (SELECT {asked} AS head, 'treats' AS relation), k := 1)", "head", "rank"),
        (f"similar('{model}', {question.format('key')}, k := 1)", "key", "rank"),
    ]
    if model in GRAPHS:
        calls += [
            (f"predict('classes_{model}', {question.format('id')})", "id", "rank"),
            (f"predict('links_{model}', {question.format('source')}, k := 1)", "source", "rank"),
            (f"predict('links_{model}', (SELECT {asked} AS source, {asked} AS target))", "target", "score"),
        ]
        shown = ask(session, f"SELECT DISTINCT id FROM explain('classes_{model}', {question.format('id')})")
        assert shown == ([(expected,)] if known else [])
    for call, key, answer in calls:
        assert ask(session, f"SELECT {key}, {answer} IS NOT NULL FROM {call}") == [(expected, known)], call


@pytest.mark.parametrize(
    ("model", "columns", "kinds", "head"),
    [
        ("whole", "5::INTEGER AS head, NULL::INTEGER AS tail", ("BIGINT", "BIGINT"), 5),
        ("whole", "'five' AS head, NULL AS tail", ("VARCHAR", "BIGINT"), "five"),
        ("whole", "5.7::DOUBLE AS head, NULL::DOUBLE AS tail", ("VARCHAR", "VARCHAR"), "5.7"),
        ("uuid", "'x' AS head, NULL::VARCHAR AS tail", ("VARCHAR", "VARCHAR"), "x"),
        ("uuid", f"'{UUID_5}'::UUID AS head, NULL AS tail", ("UUID", "UUID"), UUID(UUID_5)),
        ("day", "DATE '2024-01-06' AS head, NULL::DATE AS tail", ("TIMESTAMP", "TIMESTAMP"), datetime(2024, 1, 6)),
    ],
)
def test_a_column_that_is_filled_holds_keys_as_asked_and_answers(
    session: Session, model: str, columns: str, kinds: tuple[str, str], head: object
) -> None:
    call = f"predict('{model}', (SELECT {columns}, 'treats' AS relation), k := 1)"
    (row,) = ask(session, f"SELECT head, typeof(head), typeof(tail) FROM {call}")
    assert row == (head, *kinds)
    (answers,) = ask(session, f"SELECT count(tail) = count(rank) FROM {call}")
    assert answers == (True,)


def test_a_misspelt_key_is_suggested(session: Session, notes: list[str]) -> None:
    notes.clear()
    ask(session, "FROM predict('word', (SELECT 'aspirin 7' AS head, 'treat' AS relation))")
    assert notes[-1].endswith("; did you mean 'Aspirin 7' for 'aspirin 7', 'treats' for 'treat'?")
    ask(session, "FROM similar('word', 'Asprin 30')")
    assert notes[-1].endswith("'Asprin 30'); their neighbour is NULL; did you mean 'Aspirin 30'?")
    ask(session, "FROM predict('classes_word', (SELECT 'Aspirrin 3' AS id))")
    assert notes[-1].endswith("; did you mean 'Aspirin 3'?")
    ask(session, "FROM similar('word', 'ibuprofen')")
    assert notes[-1].endswith("their neighbour is NULL")
    assert ask(session, "FROM similar('word', NULL)") == [(None, None, None, None)]
    assert notes[-1] == "similar: word has never seen 1 of 1 keys (NULL); their neighbour is NULL"


def test_a_question_with_too_few_ends_raises_a_warning(session: Session, notes: list[str]) -> None:
    notes.clear()
    few = "SELECT NULL AS head, 'treats' AS relation, NULL AS tail UNION ALL SELECT 'Aspirin 1', NULL, 'Aspirin 2'"
    rows = ask(
        session, f"SELECT rank FROM predict('word', ({few} UNION ALL SELECT 'Aspirin 1', 'treats', NULL), k := 1)"
    )
    assert rows == [(None,), (None,), (1,)]
    assert notes == [
        "predict: 2 of 3 questions have no relation, or neither head nor tail; their rank and score are NULL"
    ]
