"""TYPE dhan in SQL: answers, errors, plan and resuming; its metrics are compared with SQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

import graphlearn
from graphlearn.cli import main
from graphlearn.errors import GraphLearnError, InputError, OptionError, ResourceError, UserError
from graphlearn.events import Event, Note, silent
from graphlearn.jobs import create, functions
from graphlearn.jobs.functions import Call
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.session import Session, connect
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.hetero.tables import read_hetero

SMALL = "hidden = 8, heads = 2, epochs = 4, hops = 1, evaluate_every = 2, baselines = false"
COMPARED = "baselines = true, baseline_share = 0"
SETUP = """
CREATE TABLE paper AS
SELECT 'paper ' || i AS paper, ['theory', 'systems', 'data'][1 + i % 3] AS area,
       CASE WHEN i % 7 = 0 THEN [] WHEN i % 2 = 0 THEN ['short', 'x' || i % 3] ELSE ['long'] END AS tags,
       [i % 3, 3 + i % 5, 8 + i * 7 % 11] AS words, sin(i) AS score,
       CASE i % 10 WHEN 0 THEN 'test' WHEN 1 THEN 'valid' WHEN 2 THEN 'test' WHEN 9 THEN NULL ELSE 'train' END AS split
FROM range(90) t(i);
CREATE TABLE author AS SELECT i AS author, [i % 3, i % 4] AS words FROM range(40) t(i);
CREATE TABLE writes AS
SELECT DISTINCT (i * 3 + (i * k) % 2 * 3 + i % 3) % 40 AS author, 'paper ' || (i % 90) AS paper
FROM range(90) t(i), range(3) u(k);
CREATE TABLE about AS SELECT 'paper ' || i AS paper, i % 3 + 3 * (i % 2) AS subject FROM range(90) t(i);
"""
PAPER = "paper AS (SELECT paper AS id, words, score, area, split FROM paper)"
AUTHOR = "author AS (SELECT author AS id, words FROM author)"
WRITES = "writes AS (SELECT author AS source, paper AS target FROM writes)"
SUBJECT = "subject AS (SELECT paper AS source, subject AS hub FROM about)"
ROLES = ", ".join([PAPER, AUTHOR, WRITES, SUBJECT])


def model(options: str = "target = 'area'", roles: str = ROLES, name: str = "m") -> str:
    """CREATE MODEL with small default options."""
    given = {part.partition("=")[0].strip() for part in options.split(", ")}
    rest = [part for part in SMALL.split(", ") if part.partition("=")[0].strip() not in given]
    return (
        f"CREATE OR REPLACE MODEL {name} TYPE dhan OPTIONS ({', '.join(filter(None, [options, *rest]))}) AS ({roles})"
    )


def rows(session: Session, sql: str) -> list[tuple[Any, ...]]:
    return session.sql(sql).fetchall()  # type: ignore[union-attr]


def columns(session: Session, call: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in rows(session, f"DESCRIBE FROM {call}")]


def request(session: Session, statement: str) -> ModelRequest:
    """The request that a statement is bound to."""
    return session._binder.model(parse(Source("<sql>", statement))[0]).request  # type: ignore[arg-type]


def planned(session: Session, statement: str, call: str, argument: str | None = None, **named: Any) -> list[Any]:
    """The columns of a call on a model that does not exist yet, as in the dry run of a job file."""
    bound = session._binder.model(parse(Source("<sql>", statement))[0])  # type: ignore[arg-type]
    shape = family("dhan").shape(bound.request, bound.columns)
    with session.workspace.cursor() as cursor:
        cursor.register(
            "answer", functions.planned(bound.request, shape, Call(call, argument, named, session._binder.cursor))
        )
        return [(name, kind) for name, kind, *_ in cursor.execute("DESCRIBE FROM answer").fetchall()]


LINKS = f"target = 'writes', candidates = 20, {COMPARED}"
MULTI = PAPER.replace("area,", "tags,")
MODELS = {
    "area": model(f"target = 'area', {COMPARED}", name="area"),
    "tags": model(f"target = 'paper.tags', {COMPARED}", ", ".join([MULTI, AUTHOR, WRITES, SUBJECT]), "tags"),
    "links": model(LINKS, ", ".join([PAPER.replace("area, split", "score AS s"), AUTHOR, WRITES, SUBJECT]), "links"),
    "free": model("", ROLES.replace("area,", "area AS label,"), "free"),
}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with connect(tmp_path / "w.duckdb", emit=silent) as opened:
        opened.connection.execute(SETUP)
        yield opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with connect(tmp_path_factory.mktemp("dhan") / "w.duckdb", emit=silent) as opened:
        opened.connection.execute(SETUP)
        for statement in MODELS.values():
            opened.sql(statement)
        yield opened


# answers


def test_every_node_gets_a_class(trained: Session) -> None:
    found = rows(trained, "FROM predict('area') ORDER BY id")
    assert [row[0] for row in found] == sorted(f"paper {i}" for i in range(90))
    assert {row[1] for row in found} <= {"theory", "systems", "data"}
    assert all(1 / 3 <= row[2] <= 1 and row[3] == 1 for row in found)


def test_k_classes_in_order(trained: Session) -> None:
    found = rows(trained, "FROM predict('area', (SELECT paper FROM paper LIMIT 5), k := 3) ORDER BY id, rank")
    assert len(found) == 15
    for i in range(0, 15, 3):
        three = found[i : i + 3]
        assert [row[3] for row in three] == [1, 2, 3]
        assert len({row[1] for row in three}) == 3
        assert sum(row[2] for row in three) == pytest.approx(1, abs=1e-5)
    best = rows(trained, "FROM predict('area', (SELECT paper AS id FROM paper LIMIT 5)) ORDER BY id")
    assert best == found[::3]


def test_unknown_nodes_are_returned_unchanged(trained: Session) -> None:
    heard: list[Event] = []
    trained._binder.warn = lambda text, _: heard.append(Note(message=text))
    try:
        asked = "(SELECT * FROM (VALUES ('paper 3'), ('nobody'), (NULL)) t(id))"
        found = rows(trained, f"FROM predict('area', {asked}) ORDER BY id NULLS LAST")
    finally:
        trained._binder.warn = lambda _, __: None
    assert [row[0] for row in found] == ["nobody", "paper 3", None]
    assert found[0][1:] == (None, None, None)
    assert "predict: area has never seen a key of 2 of 3 nodes (" in heard[0].message  # type: ignore[attr-defined]


def test_several_classes_per_node(trained: Session) -> None:
    likely = rows(trained, "SELECT id, label, probability, rank FROM predict('tags') ORDER BY id, rank")
    assert {row[0] for row in likely} == {f"paper {i}" for i in range(90)}
    assert all(row[3] == 1 or row[2] >= 0.5 for row in likely)
    assert rows(trained, "SELECT count(*) FROM predict('tags', k := 2)") == [(180,)]


def test_links_are_ranked(trained: Session) -> None:
    found = rows(trained, "FROM predict('links', (SELECT author AS source FROM author LIMIT 4), k := 6) ORDER BY 1, 4")
    assert len(found) == 24
    for i in range(0, 24, 6):
        scores = [row[2] for row in found[i : i + 6]]
        assert scores == sorted(scores, reverse=True)
    everything = rows(trained, "SELECT source, target FROM predict('links', k := 90, exclude_known := false)")
    assert len(everything) == 40 * 90
    new = set(rows(trained, "SELECT source, target FROM predict('links', k := 90)"))
    facts = set(rows(trained, "SELECT author, paper FROM writes"))
    held_out = new & facts  # of the random split, the validation and test links
    assert new | facts == set(everything)
    split = read_hetero(ArtifactStore(trained.workspace.folder).load("links").path).edges["writes"].split
    assert split is not None
    assert len(held_out) == int((split > 0).sum()) > 0
    pair = "(SELECT source, target FROM predict('links', (SELECT 3 AS source), k := 2))"
    by_rank = rows(trained, "SELECT target, score FROM predict('links', (SELECT 3 AS source), k := 2) ORDER BY target")
    by_pair = rows(trained, f"SELECT target, score FROM predict('links', {pair}) ORDER BY target")
    assert [t for t, _ in by_rank] == [t for t, _ in by_pair]
    np.testing.assert_allclose([s for _, s in by_rank], [s for _, s in by_pair], rtol=1e-4)


def test_embeddings_of_every_table(trained: Session) -> None:
    assert columns(trained, "embeddings('free')") == [("id", "VARCHAR"), ("embedding", "FLOAT[8]")]
    assert columns(trained, "embeddings('free', of := 'AUTHOR')") == [("id", "BIGINT"), ("embedding", "FLOAT[8]")]
    assert rows(trained, "SELECT count(DISTINCT id), min(len(embedding)) FROM embeddings('area')") == [(90, 8)]
    with pytest.raises(OptionError, match="the model has no node table autor"):
        trained.sql("FROM embeddings('area', of := 'autor')")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_f1_of_several_classes_is_that_of_the_predictions(trained: Session, split: str) -> None:
    counts = f"""
        WITH a AS (SELECT paper AS id, unnest(tags) AS class FROM paper WHERE split = '{split}'),
        p AS (SELECT predict.id, label AS class FROM predict('tags') JOIN paper ON id = paper
              WHERE split = '{split}' AND len(tags) > 0),
        n AS (SELECT class, count(*) FILTER (said AND is_one) AS hit, count(*) FILTER (said) AS said,
                     count(*) FILTER (is_one) AS is_one
              FROM (SELECT class, p.id IS NOT NULL AS said, a.id IS NOT NULL AS is_one
                    FROM a FULL JOIN p USING (id, class))
              GROUP BY class)
        SELECT 2 * sum(hit) / sum(said + is_one) FROM n"""
    stored = f"SELECT micro_f1 FROM evaluate('tags') WHERE method = 'dhan' AND split = '{split}' AND class IS NULL"
    assert rows(trained, counts)[0] == pytest.approx(rows(trained, stored)[0])


def test_an_explanation_adds_up(trained: Session) -> None:
    found = rows(trained, "FROM explain('area', (SELECT paper AS id FROM paper LIMIT 3), k := 2)")
    assert {row[0] for row in found} == {"paper 0", "paper 1", "paper 2"}
    decides = rows(trained, "SELECT verdict FROM models WHERE model = 'area'")[0][0]
    assert "the linear part decides" in decides
    assert {row[1] for row in found} == {"linear"}
    assert {row[2] for row in found} == {"features", "relation", "neighbour"}
    linked = set(rows(trained, "SELECT paper, author::VARCHAR FROM writes"))
    for node, _, kind, relation, side, table, neighbour, weight, contribution in found:
        assert contribution is not None
        assert weight is None if kind == "features" else 0 <= weight <= 1 + 1e-5
        if kind == "neighbour" and relation == "writes":
            assert (side, table) == ("source", "author")
            assert (node, neighbour) in linked
        if kind == "relation":
            assert neighbour is None
    shares = (
        "SELECT id, sum(weight) FROM explain('area', (SELECT paper FROM paper)) WHERE kind = 'relation' GROUP BY id"
    )
    assert all(share == pytest.approx(1, abs=1e-4) for _, share in rows(trained, shares))


CALLS: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("area", "predict", None, {}),
    ("area", "predict", "SELECT paper AS id FROM paper", {"k": 2}),
    ("tags", "predict", None, {}),
    ("links", "predict", None, {}),
    ("links", "predict", "SELECT author AS source, paper AS target FROM writes", {}),
    ("area", "embeddings", None, {}),
    ("free", "embeddings", None, {"of": "author"}),
    ("area", "explain", "SELECT paper AS id FROM paper", {}),
    ("links", "explain", "SELECT author AS id FROM author", {}),
    ("area", "evaluate", None, {}),
]


@pytest.mark.parametrize(("name", "function", "argument", "named"), CALLS)
def test_columns_are_known_before_training(
    trained: Session, name: str, function: str, argument: str | None, named: dict[str, Any]
) -> None:
    listed = [f"'{name}'", *([f"({argument})"] if argument else []), *(f"{k} := {v!r}" for k, v in named.items())]
    there = columns(trained, f"{function}({', '.join(listed)})")
    assert planned(trained, MODELS[name], function, argument, **named) == there


def test_planned_links_have_the_node_tables_of_the_query(session: Session) -> None:
    """Keys of both tables are whole numbers, so only `author AS source` distinguishes the tables."""
    roles = (
        "paper AS (SELECT i AS id, [i % 5] AS w FROM range(40) t(i)), "
        "author AS (SELECT i::INTEGER AS id, [i % 3] AS w FROM range(30) t(i)), "
        "writes AS (SELECT author AS source, paper AS target FROM (SELECT i % 30 AS author, i * 7 % 40 AS paper "
        "FROM range(120) t(i)))"
    )
    statement, asked = model("target = 'writes', epochs = 1", roles), "SELECT 1 AS author"
    before = planned(session, statement, "predict", asked)
    session.sql(statement)
    assert before == columns(session, f"predict('m', ({asked}))")
    assert before[:2] == [("source", "INTEGER"), ("target", "BIGINT")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("predict('free')", "the model has embeddings only, because it has no target"),
        ("predict('area', (SELECT 1 AS a, 2 AS b))", "the relation has no column id"),
        ("predict('links', (SELECT 1 AS a, 2 AS b))", "the relation has no column source"),
        ("predict('links', (SELECT 5 AS target))", "links are predicted from source to target"),
        ("explain('area')", "explain needs a second argument"),
        ("similar('area', 'x')", "a dhan model has no similar"),
        ("predict('area', k := 0)", "k must be at least 1"),
        ("predict('area', (SELECT 'a' AS author))", "has nodes of author, but the model answers for nodes of paper"),
        (
            "explain('links', (SELECT paper FROM paper))",
            "has nodes of paper, but the model answers for nodes of author",
        ),
    ],
)
def test_invalid_calls(trained: Session, call: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained.sql(f"FROM {call}")


@pytest.mark.parametrize(
    ("name", "have"), [("area", "predict(), embeddings(), explain(), evaluate()"), ("free", "embeddings(), explain()")]
)
def test_only_functions_that_the_model_answers_are_named(trained: Session, name: str, have: str) -> None:
    with pytest.raises(UserError, match="a dhan model has no similar") as caught:
        trained.sql(f"FROM similar('{name}', 'x')")
    assert str(caught.value.help).startswith(f"it has {have}")


def test_a_link_without_a_target_is_named(trained: Session) -> None:
    said: list[str] = []
    trained._binder.warn = lambda text, _: said.append(text)
    found = rows(trained, "SELECT score FROM predict('links', (SELECT 3 AS source, NULL::INTEGER AS target))")
    assert found == [(None,)]
    assert len(said) == 1
    assert "without a target: 1 of 1 link; their score is NULL; leave the column out" in said[0]


# the metrics


@pytest.mark.parametrize("split", ["valid", "test"])
def test_f1_equals_that_computed_in_sql(trained: Session, split: str) -> None:
    counts = f"""
        WITH p AS (FROM predict('area') JOIN paper ON id = paper WHERE split = '{split}'),
        c AS (SELECT unnest(['theory', 'systems', 'data']) AS class),
        n AS (SELECT class, count(*) FILTER (label = class AND area = class) AS hit,
                     count(*) FILTER (label = class) AS said, count(*) FILTER (area = class) AS is_one
              FROM c, p GROUP BY class)
        SELECT avg(2 * hit / (said + is_one)), 2 * sum(hit) / sum(said + is_one), (SELECT count(*) FROM p) FROM n"""
    by_sql = rows(trained, counts)[0]
    mine = f"FROM evaluate('area') WHERE method = 'dhan' AND split = '{split}' AND class IS"
    np.testing.assert_allclose(rows(trained, f"SELECT macro_f1, micro_f1, count {mine} NULL")[0], by_sql, rtol=1e-6)
    by_class = f"""
        WITH p AS (FROM predict('area') JOIN paper ON id = paper WHERE split = '{split}')
        SELECT area, avg((label = area)::INTEGER), count(*), count(*) < 30 FROM p GROUP BY ALL ORDER BY ALL"""
    assert rows(trained, f"SELECT class, recall, count, too_few {mine} NOT NULL ORDER BY ALL") == rows(
        trained, by_class
    )


def test_majority_equals_that_computed_in_sql(trained: Session) -> None:
    top = "(SELECT mode(area) FROM paper WHERE split = 'train')"
    by_sql = rows(trained, f"SELECT avg((area = {top})::INTEGER) FROM paper WHERE split = 'test'")[0][0]
    stored = rows(
        trained, "SELECT accuracy FROM evaluate('area') WHERE method = 'majority' AND split = 'test' AND class IS NULL"
    )[0][0]
    assert stored == pytest.approx(by_sql)


CLASSIFIERS = {"dhan", "dhan network", "dhan linear", "majority", "label propagation", "propagated features", "MLP"}


@pytest.mark.parametrize(
    ("name", "methods", "metrics"),
    [
        ("area", CLASSIFIERS, ("macro_f1", "macro_f1_low", "macro_f1_high", "micro_f1", "accuracy")),
        ("tags", CLASSIFIERS, ("macro_f1", "macro_f1_low", "macro_f1_high", "micro_f1", "accuracy")),
        (
            "links",
            {"dhan", "MLP dot product", "degree", "item neighbours", "random walk"},
            ("mrr", "mrr_low", "mrr_high", "ndcg_10", "hits_at_1", "hits_at_10", "auc"),
        ),
        ("free", {"dhan"}, ("nmi", "nmi_low", "nmi_high", "ari", "auc")),
    ],
)
def test_baselines_are_measured_like_the_model(
    trained: Session, name: str, methods: set[str], metrics: tuple[str, ...]
) -> None:
    whole = "WHERE class IS NULL" if methods == CLASSIFIERS else ""
    found = rows(
        trained, f"SELECT method, {', '.join(metrics)}, count, too_few, protocol FROM evaluate('{name}') {whole}"
    )
    assert {row[0] for row in found} == methods
    names = [column for column, _ in columns(trained, f"evaluate('{name}')")]
    extra = ["class", "precision", "recall", "f1"] if methods == CLASSIFIERS else []
    assert set(names) == {"method", "split", *metrics, *extra, "count", "too_few", "protocol"}
    for _, value, low, high, *others in found:
        assert None not in (value, *others)
        assert (low is None) == (high is None)
        assert low is None or low <= value <= high
        assert low is not None or value in (0, 0.5, 1)  # all nodes say the same: no interval
    described = [row[0] for row in rows(trained, f"DESCRIBE FROM evaluate('{name}')")]
    assert {"macro_f1", "mrr", "auc", "nmi"} & set(described) == {"macro_f1", "mrr", "auc", "nmi"} & set(metrics)
    shown = rows(trained, f"SELECT nodes, edges, {metrics[0]}, verdict FROM models WHERE model = '{name}'")[0]
    assert shown[0] == 130
    assert shown[2] is not None
    assert (shown[3] is None) == (name == "free")


def test_the_result_is_one_line(session: Session) -> None:
    result = session.sql(MODELS["area"])
    assert "macro-F1" in repr(result)
    assert "of dhan ties with the best baseline" in repr(result)
    assert "macro-F1" in result._repr_html_()  # type: ignore[union-attr]
    assert session.sql(MODELS["area"]).status == "unchanged"  # type: ignore[union-attr]


# the same graph in different forms


def test_equivalent_inputs_give_the_same_model(session: Session) -> None:
    ends = "writes AS (SELECT paper, author FROM writes)"
    cases = [ROLES, ROLES.replace(WRITES, ends)]
    found = []
    for roles in cases:
        session.sql(model(roles=roles))
        found.append(rows(session, "SELECT method, split, round(macro_f1, 3) FROM evaluate('m') ORDER BY ALL"))
    assert found[0] == found[1]


def test_the_order_of_rows_does_not_matter(session: Session) -> None:
    session.sql(model(name="a"))
    for table in ("paper", "author", "writes", "about"):
        session.connection.execute(f"CREATE OR REPLACE TABLE {table} AS FROM {table} ORDER BY hash({table})")
    session.sql(model(name="b"))
    assert rows(session, "FROM predict('a') ORDER BY ALL") == rows(session, "FROM predict('b') ORDER BY ALL")


STRANGE = {
    "UUID": "('00000000-0000-0000-0000-0000000000' || (10 + {}))::UUID",
    "DATE": "DATE '2024-01-01' + ({})::INTEGER",
    "HUGEINT": "({})::HUGEINT * 10000000000000000000000",
    "BLOB": "('k' || {})::BLOB",
    "STRUCT(a BIGINT, b VARCHAR)": "{{'a': {}, 'b': 'é'}}",
    "TIMESTAMP": "TIMESTAMP '2024-01-01 12:00:00' + to_hours({})",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_keys_are_returned_unchanged(session: Session, kind: str) -> None:
    key = STRANGE[kind]
    here, there = key.format("i"), key.format("(i * 7 % 30)")
    roles = (
        f"thing AS (SELECT {here} AS id, i % 5 AS x, {key.format('i % 3')} AS y FROM range(30) t(i)), "
        f"near AS (SELECT {here} AS source, {there} AS target FROM range(30) t(i))"
    )
    statement = model("target = 'y', epochs = 1", roles)
    session.sql(statement)
    assert columns(session, "predict('m')")[:2] == [("id", kind), ("label", kind)]
    assert planned(session, statement, "predict") == columns(session, "predict('m')")
    found = rows(
        session, f"SELECT count(*) FROM predict('m') JOIN (SELECT {here} AS id FROM range(30) t(i)) USING (id)"
    )
    assert found == [(30,)]
    some = f"(SELECT {here} AS id FROM range(2) t(i))"
    neighbours = f"SELECT count(neighbour) > 0 FROM explain('m', {some}) WHERE kind = 'neighbour'"
    assert rows(session, neighbours) == [(True,)]
    other = rows(session, f"FROM predict('m', (SELECT {key.format(77)} AS id))")
    assert other == [(*rows(session, f"SELECT {key.format(77)}")[0], None, None, None)]


def test_keys_that_are_times_use_the_time_zone_of_the_session(session: Session) -> None:
    stamp = "TIMESTAMPTZ '2024-01-01 12:00:00+00' + to_hours(i)"
    roles = (
        f"thing AS (SELECT {stamp} AS id, i % 5 AS x, i % 3 AS y FROM range(30) t(i)), "
        f"near AS (SELECT {stamp} AS source, {stamp.replace('(i)', '(i * 7 % 30)')} AS target FROM range(30) t(i))"
    )
    session.sql(model("target = 'y', epochs = 1", roles))
    found = {}
    for zone in ("UTC", "Asia/Tokyo"):

        def cursor(zone: str = zone) -> duckdb.DuckDBPyConnection:
            made = session.workspace.cursor()
            made.execute(f"SET SESSION TimeZone = '{zone}'")
            return made

        call = Call("predict", "SELECT TIMESTAMP '2024-01-01 12:00:00' AS id", {}, cursor)
        with cursor() as asking:
            asking.register("answer", functions.ModelReader(session.workspace.folder).open("m", call))
            found[zone] = asking.execute("SELECT label IS NOT NULL, epoch(id) FROM answer").fetchall()
    noon = 1704110400.0
    assert found == {"UTC": [(True, noon)], "Asia/Tokyo": [(False, noon)]}


# verdicts


def test_the_parts_of_the_model_and_what_decides_are_reported(trained: Session) -> None:
    """The linear part has all the weight here: the verdict credits it, not the model."""
    scores = dict(rows(trained, "SELECT method, macro_f1 FROM evaluate('area') WHERE split = 'test' AND class IS NULL"))
    verdict = rows(trained, "SELECT verdict FROM models WHERE model = 'area'")[0][0]
    assert verdict.startswith("the linear part of dhan ties with the best baseline, label propagation: macro-F1 ")
    alone = f"the network {scores['dhan network']:.4f}, the linear part {scores['dhan linear']:.4f}"
    assert verdict.endswith(f"its weight is 100 %, that of the network 0 % (macro-F1 alone: {alone})")
    assert scores["dhan"] == scores["dhan linear"] > scores["dhan network"]
    links = rows(trained, "SELECT verdict FROM models WHERE model = 'links'")[0][0]
    assert links.startswith("dhan ")
    assert "95 % interval of the gain" in links
    shown = CliRunner().invoke(main, ["show", "area", "--workspace", str(trained.workspace.database)]).output
    assert "macro-F1, 95 %" in shown
    assert "classes on the test split" in shown
    assert "(too few)" in shown


def test_baselines_are_left_out_or_limited(session: Session) -> None:
    heard: list[Event] = []
    session._emit = heard.append
    plan = session.sql("EXPLAIN " + model()).to_arrow_table().to_pylist()  # type: ignore[union-attr]
    assert "baselines" not in [row["operator"] for row in plan]
    session.sql(model())
    assert rows(session, "SELECT count(*) FROM evaluate('m') WHERE method NOT LIKE 'dhan%'") == [(0,)]
    assert not any("baseline" in e.message for e in heard if isinstance(e, Note))
    roles = ", ".join([PAPER.replace("area, split", "score AS s"), AUTHOR, WRITES])
    session.sql(model(f"{LINKS}, epochs = 1".replace("baseline_share = 0", "baseline_share = 1e-9"), roles))
    assert rows(session, "SELECT count(DISTINCT method) > 1 FROM evaluate('m')") == [(True,)]


# sizes


def test_a_plan_knows_every_relation(session: Session) -> None:
    table = session.sql("EXPLAIN " + model()).to_arrow_table().to_pylist()  # type: ignore[union-attr]
    plan = {row["operator"]: row for row in table}
    assert plan["scan"]["detail"] == "2 node tables, 1 edge table, 1 hub table"
    edges = rows(session, "SELECT count(*) FROM writes")[0][0]
    assert plan["encode writes"]["rows"] == edges
    assert plan["encode writes"]["detail"].startswith(f"author – paper: {edges} edges, ")
    assert "6 hubs: 90 edges (1,350 edges as pairs)" in plan["encode subject"]["detail"]
    assert plan["encode subject"]["flops"] > 0
    prepare = next(row for row in table if row["operator"] == "prepare")
    assert "knn relation of 10 neighbours per node" in prepare["detail"]


def test_a_metapath_is_counted_before_it_is_built(session: Session) -> None:
    path = "target = 'area', metapaths = {'psp': ['subject', 'subject']}"
    with pytest.raises(ResourceError) as caught:
        session.sql(model(path + ", edge_cap = 1000"))
    assert caught.value.message == "the metapath psp would have 1,350 edges, more than edge_cap = 1,000"
    assert "subject is a hub table" in str(caught.value.help)
    with pytest.raises(ResourceError) as caught:
        session.sql(model("target = 'area', metapaths = {'pap': ['-writes', 'writes']}, edge_cap = 10"))
    assert caught.value.help == "give it as a hub: pap AS (SELECT target AS source, source AS hub FROM …)"
    session.sql(model(path))
    counts = rows(session, "SELECT edges FROM models WHERE model = 'm'")[0][0]
    assert counts == rows(session, "SELECT count(*) FROM writes")[0][0] + 90 + 1350


def test_a_job_that_does_not_fit_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "memory_available", lambda: 600 << 20)
    with pytest.raises(
        ResourceError, match=r"needs about .* to train, and 600\.0 MB is free; what costs most is writes"
    ):
        session.sql(model())
    assert not (session.workspace.folder / "runs").exists()


def test_neighbours_can_be_sampled(session: Session) -> None:
    session.sql(model("target = 'area', fanout = [3, 2], batch_size = 16"))
    assert rows(session, "SELECT count(*) FROM predict('m')") == [(90,)]


# errors and counts


def test_notes_name_what_was_dropped(session: Session) -> None:
    heard: list[Event] = []
    session._emit = heard.append
    more = "SELECT author, paper FROM writes UNION ALL SELECT 999, 'paper 1' UNION ALL SELECT NULL, 'paper 1'"
    none = ROLES.replace("FROM writes", "FROM (SELECT author + 1000 AS author, paper FROM writes)")
    with pytest.raises(InputError) as all_lost:
        session.sql(model("target = 'area', unknown = 'drop'", none))
    assert all_lost.value.help == "no edge would remain: are these the keys of another table?"
    session.sql(model("target = 'area', unknown = 'drop'", ROLES.replace("FROM writes", f"FROM ({more})")))
    notes = [e.message for e in heard if isinstance(e, Note)]
    assert "writes: dropped 1 row with a NULL" in notes
    assert "writes: dropped 1 row with 1 unknown key" in notes


def test_nulls_in_lists_of_classes_are_counted(session: Session) -> None:
    heard: list[Event] = []
    session._emit = heard.append
    holes = MULTI.replace("tags,", "list_append(tags, CASE WHEN score > 0 THEN NULL ELSE 'x' END) AS tags,")
    session.sql(model("target = 'tags', epochs = 1", ", ".join([holes, AUTHOR, WRITES])))
    (expected,) = rows(session, "SELECT count(*) FROM paper WHERE score > 0")
    assert f"paper: ignored {expected[0]} NULLs in lists of classes" in [
        e.message for e in heard if isinstance(e, Note)
    ]


def test_a_role_with_the_name_of_the_made_relation_is_refused(session: Session) -> None:
    roles = ROLES.replace("subject AS (", '"Similar paper" AS (')
    with pytest.raises(InputError, match="is also the name of the relation that option knn") as caught:
        session.sql(model(roles=roles))
    assert caught.value.help == "rename the role, or set knn = 0"
    session.sql(model("target = 'area', knn = 0, epochs = 1", roles))
    session.sql(model("target = 'writes', candidates = 9, epochs = 1", roles.replace(", area, split", "")))


LATE = {
    "no train": (
        "SELECT * REPLACE (IF(split = 'train', NULL, split) AS split)",
        "no nodes of paper .* in the train split",
    ),
    "no test": (
        "SELECT * REPLACE (IF(split = 'test', 'valid', split) AS split)",
        "no nodes of paper .* in the test split",
    ),
    "one class": (
        "SELECT * REPLACE (IF(split = 'train', 'data', area) AS area)",
        "train split of paper has a single area",
    ),
}


@pytest.mark.parametrize("case", LATE)
def test_splits_are_checked(session: Session, case: str) -> None:
    query, message = LATE[case]
    session.connection.execute(f"CREATE OR REPLACE TABLE paper AS {query} FROM paper")
    with pytest.raises(InputError, match=message):
        session.sql(model())
    assert rows(session, "FROM models") == []


def test_a_random_split_is_stratified(session: Session) -> None:
    session.sql(model(roles=ROLES.replace(", split", "")))
    table = read_hetero(ArtifactStore(session.workspace.folder).load("m").path).nodes["paper"]
    assert table.labels is not None
    assert table.labels.ids is not None
    assert table.split is not None
    found = {
        (int(k), int(p)): int(((table.labels.ids == k) & (table.split == p)).sum()) for k in range(3) for p in range(3)
    }
    assert found == {(k, p): (18, 6, 6)[p] for k in range(3) for p in range(3)}


def test_options_of_the_job_change_it(session: Session) -> None:
    """text, embeddings, split and a relation of a table with several."""
    titled = "SELECT paper AS id, 'about ' || area || ' and so on' AS title, area FROM paper"
    session.sql(model(f"target = 'area', text = ['title'], {COMPARED}", f"paper AS ({titled}), {SUBJECT}"))
    mlp = "SELECT accuracy FROM evaluate('m') WHERE method = 'MLP' AND split = 'test' AND class IS NULL"
    assert rows(session, mlp) == [(1.0,)]
    bare = f"paper AS (SELECT paper AS id, area FROM paper), {SUBJECT}"
    session.sql(model(f"target = 'area', embeddings = ['paper'], split = [0.5, 0, 0.5], {COMPARED}", bare))
    assert rows(session, "SELECT DISTINCT split, count FROM evaluate('m') WHERE class IS NULL") == [("test", 45)]
    rated = "SELECT author, paper, ['good', 'bad'][1 + author % 2] AS relation, 1 AS time, 'train' AS split FROM writes"
    parts = "SELECT * REPLACE (['train', 'valid', 'test'][1 + author % 3] AS split) FROM rated"
    with_split = f"rates AS (WITH rated AS ({rated}) {parts})"
    roles = ", ".join([PAPER.replace("area, split", "score AS s"), AUTHOR, with_split])
    heard: list[Event] = []
    session._emit = heard.append
    session.sql(model("target = 'rates.good', candidates = 9", roles))
    expected = "SELECT count(*) FROM writes WHERE author % 2 = 0 AND author % 3 = 2"
    stored = rows(session, "SELECT count FROM evaluate('m') WHERE method = 'dhan' AND split = 'test'")
    assert stored == rows(session, expected)
    assert "rates: the model does not use the column time" in [e.message for e in heard if isinstance(e, Note)]
    with pytest.raises(OptionError, match=r"target = 'rates\.god' is not a relation of rates"):
        session.sql(model("target = 'rates.god'", roles))


# resume

CHILD = """
import sys
from graphlearn.session import connect
from graphlearn.events import CheckpointSaved
import os, signal

seen = 0
def emit(event):
    global seen
    if isinstance(event, CheckpointSaved):
        seen += 1
        if seen == 3:
            os.kill(os.getpid(), signal.SIGKILL)

with connect(sys.argv[1], emit=emit) as session:
    session.sql(sys.argv[2])
"""


@pytest.mark.parametrize("kind", ["area", pytest.param("links", marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_has_the_same_numbers(tmp_path: Path, kind: str) -> None:
    long = MODELS[kind].replace("epochs = 4", "epochs = 6").replace(" OPTIONS (", " OPTIONS (checkpoint_seconds = 0, ")
    answers = []
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "w.duckdb"
        with connect(path, emit=silent) as session:
            session.connection.execute(SETUP)
        if folder == "killed":
            done = subprocess.run([sys.executable, "-c", CHILD, str(path), long], check=False, env=dict(os.environ))
            assert done.returncode == -signal.SIGKILL
        with connect(path, emit=silent) as session:
            run = rows(session, "SELECT run FROM runs")[0][0] if folder == "killed" else None
            session.sql(long, resume=run)
            found = rows(session, f"FROM predict('{kind}', k := 2) ORDER BY ALL")
            answers.append((found, rows(session, f"SELECT * EXCLUDE (protocol) FROM evaluate('{kind}') ORDER BY ALL")))
    assert answers[0] == answers[1]


# other libraries


def test_networkx_has_every_edge_by_key(trained: Session) -> None:
    graph = graphlearn.to_networkx(trained, "area")
    edges = {(a, b) for a, b, name in graph.edges(keys=True) if name == "writes"}
    assert edges == {(("author", a), ("paper", p)) for a, p in rows(trained, "SELECT author, paper FROM writes")}
    assert {b for _, b, name in graph.edges(keys=True) if name == "subject"} == {("subject", i) for i in range(6)}
    assert graph.nodes["paper", "paper 4"]["label"] == "systems"
    assert graph.nodes["paper", "paper 4"]["split"] == "train"
    queries = {"paper": "SELECT paper AS id, area FROM paper", "about": "SELECT paper, subject AS hub FROM about"}
    again = graphlearn.to_networkx(trained, queries, target="area")
    assert again.nodes["paper", "paper 4"] == {"type": "paper", "label": "systems"}


@pytest.mark.parametrize(
    ("queries", "message"),
    [({}, "there are no queries"), ({"n": "FROM nowhere"}, "nowhere"), ({"n": "SELEC 1"}, "syntax")],
)
def test_failing_queries_give_one_clear_error(session: Session, queries: dict[str, str], message: str) -> None:
    with pytest.raises(GraphLearnError, match=message):
        graphlearn.to_networkx(session, queries)


@pytest.mark.parametrize(("name", "extra"), [("to_pyg", "pyg"), ("to_dgl", "dgl")])
def test_a_missing_library_gives_one_clear_error(
    trained: Session, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(GraphLearnError, match=rf"is not installed\n.*pip install 'graphlearn\[{extra}\]'"):
        getattr(graphlearn, name)(trained, "area")


def test_pyg_and_back(session: Session) -> None:
    pytest.importorskip("torch_geometric")
    session.sql(MODELS["area"].replace("MODEL area", "MODEL m"))
    data = graphlearn.to_pyg(session, "m")
    assert data["paper"].x.shape == (90, 20)
    assert data["paper"].y.bincount().tolist() == [30, 30, 30]
    assert data["paper"].train_mask.sum() == 54
    keys = data["paper"].ids
    a, p = data["author", "writes", "paper"].edge_index.tolist()
    assert {(x, keys[y]) for x, y in zip(a, p, strict=True)} == set(rows(session, "SELECT author, paper FROM writes"))
    assert data["subject"].num_nodes == 6
    roles = graphlearn.from_pyg(session, data, "pyg_")
    assert set(roles) == {"paper", "author", "subject", "writes", "paper_subject_subject"}
    body = ", ".join(f"{role} AS ({query})" for role, query in roles.items())
    session.sql(model(f"target = 'y', embeddings = ['subject'], {COMPARED}", body, "back"))
    mine, theirs = (
        rows(session, f"SELECT accuracy FROM evaluate('{n}') WHERE method = 'majority' ORDER BY ALL")
        for n in ("m", "back")
    )
    assert mine == theirs
    assert mine
