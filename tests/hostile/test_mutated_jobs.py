"""Small jobs of every family with random options and queries, most of them valid: they train or are refused clearly."""

from __future__ import annotations

import random
import time
import traceback
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from cases.stored_models import TABLES

from graphlearn.errors import GraphLearnError
from graphlearn.jobs.registry import family
from graphlearn.session import Session, connect

SECONDS = 75
JOBS: dict[str, dict[str, str]] = {
    "complex": {"triples": "SELECT head, relation, tail, split FROM triples"},
    "transe": {"triples": "SELECT head, relation, tail FROM triples"},
    "net3": {"series": "SELECT ts, site, value FROM readings", "site": "SELECT source, target FROM roads"},
    "dhan": {
        "paper": "SELECT id, words, x, area FROM paper",
        "author": "SELECT id, words FROM author",
        "writes": "SELECT author, paper FROM writes",
        "subject": "SELECT source, hub FROM about",
    },
}
TINY: dict[str, dict[str, str]] = {
    "complex": {"dim": "4", "negatives": "4"},
    "transe": {"dim": "4", "negatives": "4"},
    "net3": {"dim": "3", "core_limit": "3", "learnt_rank": "2", "window": "3", "horizon": "2"},
    "dhan": {"target": "'area'", "hidden": "8", "heads": "2", "hops": "1"},
}
KEPT = ("epochs", "threads", "device", "checkpoint_seconds")
"""Options that decide how long a job takes, or where it runs."""
NUMBERS = {
    int: ("0", "1", "2", "3", "4", "7", "20", "-1", str(2**63 - 1), str(2**70)),
    float: ("0.0", "1e-9", "0.1", "0.5", "0.9", "1.0", "2.5", "-0.1", "1e30", "'nan'::DOUBLE"),
}
TEXTS = ("'area'", "'writes'", "'words'", "'nothing'", "''", "'subject'", "'site'", "'ts'", "'1 hour'", "'2024-01-02'")
REST = ("NULL", "[]", "[1, 2]", "['a']", "{'a': 'b'}", "{'site': 'pearson'}", "true", "[0.5, 0.3, 0.2]", "[1, 0, 0]")
QUERIES = (
    "FROM ({sql}) LIMIT {n}",
    "FROM ({sql}) USING SAMPLE {n} ROWS (reservoir, 1)",
    "FROM ({sql}) WHERE false",
    "FROM ({sql}) UNION ALL FROM ({sql})",
    "SELECT * REPLACE ({column}::VARCHAR AS {column}) FROM ({sql})",
    "SELECT * REPLACE (NULL AS {column}) FROM ({sql})",
    "SELECT * REPLACE (CASE WHEN hash({column}) % 3 > 0 THEN {column} END AS {column}) FROM ({sql})",
    "SELECT * REPLACE (1 AS {column}) FROM ({sql})",
    "SELECT * REPLACE (hash({column}) AS {column}) FROM ({sql})",
    "SELECT * REPLACE ([{column}] AS {column}) FROM ({sql})",
    "SELECT * REPLACE (CASE WHEN hash({column}) % 9 > 0 THEN 1e30 ELSE 'nan'::DOUBLE END AS {column}) FROM ({sql})",
    "SELECT * EXCLUDE ({column}) FROM ({sql})",
    "SELECT *, {column} AS more FROM ({sql})",
    "SELECT * RENAME ({column} AS other) FROM ({sql})",
)


def values(hint: Any) -> tuple[str, ...]:
    """SQL for values of an option of this type, valid and not."""
    if get_origin(hint) is Literal:
        return tuple(f"'{name}'" for name in get_args(hint))
    if hint is bool:
        return "true", "false"
    return NUMBERS.get(hint) or (*TEXTS, *REST)


def job(chance: random.Random) -> str:
    """A CREATE MODEL with a few random options and, often, one changed query."""
    name = chance.choice(sorted(JOBS))
    kind = family(name).options_type
    hints = get_type_hints(kind)
    options = {"epochs": "1", "threads": "1", "baselines": "false", **TINY[name]}
    names = [field.name for field in fields(kind) if field.name not in KEPT]
    for option in chance.sample(names, chance.choice((0, 1, 1, 2, 3))):
        wrong = chance.random() < 0.1
        options[option] = chance.choice((*NUMBERS[int], *TEXTS, *REST) if wrong else values(hints[option]))
    inputs = dict(JOBS[name])
    if chance.random() < 0.6:
        role = chance.choice(sorted(inputs))
        column = chance.choice(inputs[role].removeprefix("SELECT ").partition(" FROM")[0].split(", "))
        text = chance.choice(QUERIES)
        inputs[role] = text.format(sql=inputs[role], column=column, n=chance.choice((1, 2, 5, 30)))
    listed = ", ".join(f"{option} = {value}" for option, value in options.items())
    given = ", ".join(f"{role} AS ({sql})" for role, sql in inputs.items())
    return f"CREATE OR REPLACE MODEL m TYPE {name} OPTIONS ({listed}) AS ({given})"


def outcome(session: Session, statement: str) -> str:
    """ "trained", or the error. Raises AssertionError for an error that is not ours or that says no way out."""
    found: Exception | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.sql(statement)
    except Exception as error:
        found = error
    if found is None:
        return "trained"
    assert isinstance(found, GraphLearnError), f"{''.join(traceback.format_exception(found))}\n{statement}"
    assert found.help or found.place is not None, f"no help: {found}\n{statement}"
    return str(found)


@pytest.mark.slow
def test_mutants_of_valid_jobs_train_or_are_refused(tmp_path: Path) -> None:
    first = seed = random.randrange(1 << 30)
    print(f"seeds from {first}")
    trained, until = 0, time.monotonic() + SECONDS
    with connect(tmp_path / "kg.duckdb", emit=lambda _: None) as session:
        session.connection.execute(TABLES)
        while time.monotonic() < until:
            trained += outcome(session, job(random.Random(seed))) == "trained"
            seed += 1
    assert trained >= (seed - first) // 10, "the mutants must be nearly valid"
