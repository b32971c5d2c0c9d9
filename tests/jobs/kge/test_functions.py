"""predict, evaluate, embeddings and similar over a stored model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cases.jobs import request, workspace

from graphlearn.errors import ArtifactError, InputError, ModelNotFound, OptionError, UserError
from graphlearn.events import silent
from graphlearn.jobs import functions
from graphlearn.jobs.create import create_model
from graphlearn.jobs.functions import BATCH, ArrowSource, Call, ModelReader
from graphlearn.jobs.registry import family
from graphlearn.storage.workspace import Workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with workspace(tmp_path_factory.mktemp("inference")) as w:
        create_model(w, request(epochs=10, dim=16), emit=silent)
        create_model(
            w,
            request(
                name="numbers", sql="SELECT i % 50 AS head, 1.5 AS relation, i * 7 % 41 AS tail FROM range(400) t(i)"
            ),
            emit=silent,
        )
        yield w


def ask(w: Workspace, function: Any, model: str, argument: str | None = None, **named: Any) -> ArrowSource:
    return ModelReader(w.folder).open(model, Call(function, argument, named, w.cursor))


def rows(w: Workspace, source: ArrowSource, sql: str = "FROM answer") -> list[tuple[Any, ...]]:
    with w.cursor() as cursor:
        cursor.register("answer", source)
        return cursor.execute(sql).fetchall()


def test_predict_tails_heads_and_triples(trained: Workspace) -> None:
    question = """FROM (VALUES (1, 'p7', 'knows', NULL), (2, NULL, 'likes', 'p4'), (3, 'p7', 'knows', 'p1'),
                               (4, 'nobody', 'knows', NULL), (5, 'p7', 'unheard of', NULL), (6, NULL, 'knows', NULL))
                  q(nr, head, relation, tail)"""
    got = rows(trained, ask(trained, "predict", "m", question, k=3), "FROM answer ORDER BY nr, rank")
    by_question = {n: [r for r in got if r[0] == n] for n in range(1, 7)}
    assert [len(by_question[n]) for n in range(1, 7)] == [3, 3, 1, 1, 1, 1]
    assert [r[4] for r in by_question[1]] == [1, 2, 3]
    assert all(r[1:3] == ("p7", "knows") and r[3].startswith("p") for r in by_question[1])
    assert all(r[2:4] == ("likes", "p4") for r in by_question[2])
    scores = [r[5] for r in by_question[1]]
    assert scores == sorted(scores, reverse=True)
    assert by_question[3][0][4] is None
    assert by_question[3][0][5] is not None
    for n in (4, 5, 6):
        assert by_question[n][0][4:] == (None, None, None)
    assert by_question[4][0][1:4] == ("nobody", "knows", None)
    assert by_question[5][0][1:4] == ("p7", "unheard of", None)


def test_the_score_of_a_triple_is_its_score_as_an_answer(trained: Workspace) -> None:
    answers = rows(trained, ask(trained, "predict", "m", "SELECT 'p7' AS head, 'likes' AS relation", k=60))
    tail, score = answers[4][2], answers[4][4]
    given = rows(trained, ask(trained, "predict", "m", f"SELECT 'p7' AS head, 'likes' AS relation, '{tail}' AS tail"))
    assert given[0][4] == pytest.approx(score, rel=1e-4)


def test_known_and_exclude_known(trained: Workspace) -> None:
    question = "SELECT DISTINCT head, relation FROM triples"
    facts = set(rows(trained, ask(trained, "evaluate", "m"), "SELECT head, relation, tail FROM triples"))
    answers = "SELECT head, relation, tail, known FROM answer"
    everything = rows(trained, ask(trained, "predict", "m", question, k=100, exclude_known=False), answers)
    assert {r[:3] for r in everything if r[3]} == facts
    new = rows(trained, ask(trained, "predict", "m", question, k=100), answers)
    train = "SELECT head, relation, tail FROM triples WHERE split = 'train'"
    learnt = set(rows(trained, ask(trained, "evaluate", "m"), train))
    assert {r[:3] for r in new if r[3]} == facts - learnt, "held-out facts are answers"
    assert {r[:3] for r in new} == {r[:3] for r in everything} - learnt


def test_question_columns_are_kept_and_collisions_are_named(trained: Workspace) -> None:
    source = ask(trained, "predict", "m", "SELECT 7 AS id, 'p7' AS HEAD, 'knows' AS relation, [1, 2] AS list", k=1)
    assert source.schema.names == ["id", "head", "relation", "list", "tail", "rank", "score", "known"]
    assert rows(trained, source)[0][0:4] == (7, "p7", "knows", [1, 2])
    with pytest.raises(InputError, match='"rank" collides'):
        ask(trained, "predict", "m", "SELECT 1 AS rank, 'p7' AS head, 'knows' AS relation")


def test_many_questions_stream_in_batches_and_scan_twice(trained: Workspace) -> None:
    n = 3 * BATCH + 5
    source = ask(
        trained, "predict", "m", f"SELECT i, 'p' || i % 60 AS head, 'knows' AS relation FROM range({n}) t(i)", k=2
    )
    assert rows(trained, source, "SELECT count(*), count(DISTINCT i) FROM answer") == [(2 * n, n)]
    assert rows(trained, source, "SELECT count(*) FROM answer a JOIN answer b USING (i, rank)") == [(2 * n,)]


def test_keys_have_the_types_they_were_asked_with_and_answers_those_of_the_model(trained: Workspace) -> None:
    source = ask(trained, "predict", "numbers", "SELECT 3 AS head, 1.5 AS relation", k=2)
    types = rows(
        trained, source, "SELECT typeof(head), typeof(relation), typeof(tail), typeof(score) FROM answer LIMIT 1"
    )
    assert types == [("INTEGER", "DECIMAL(2,1)", "BIGINT", "FLOAT")]
    cast = ask(trained, "predict", "numbers", "SELECT '3' AS head, '1.5' AS relation", k=2)
    assert rows(trained, cast, "SELECT tail FROM answer") == rows(trained, source, "SELECT tail FROM answer")


def test_a_value_that_a_cast_would_round_is_not_a_key(trained: Workspace) -> None:
    source = ask(trained, "predict", "numbers", "SELECT 5.7 AS head, 1.5 AS relation", k=2)
    assert rows(trained, source, "SELECT tail, score FROM answer") == [(None, None)]
    assert rows(trained, ask(trained, "similar", "numbers", "SELECT 5.7"), "SELECT neighbour FROM answer") == [(None,)]
    assert len(rows(trained, ask(trained, "similar", "numbers", "SELECT 5.0", k=2))) == 2


def test_evaluate_stored_and_given(trained: Workspace) -> None:
    stored = rows(
        trained,
        ask(trained, "evaluate", "m"),
        "SELECT side, mrr, count FROM answer "
        "WHERE split = 'test' AND relation IS NULL AND method = 'complex' ORDER BY side",
    )
    assert [r[0] for r in stored] == ["both", "head", "tail"]
    assert stored[0][2] == stored[1][2] + stored[2][2]
    given = rows(
        trained,
        ask(trained, "evaluate", "m", "FROM triples WHERE split = 'test'"),
        "SELECT side, mrr, method, mrr_low <= mrr AND mrr <= mrr_high FROM answer WHERE relation IS NULL ORDER BY side",
    )
    assert {r[2:] for r in given} == {("complex", True)}
    assert [r[1] for r in given] == pytest.approx([r[1] for r in stored], rel=1e-6)
    partly = ask(trained, "evaluate", "m", "SELECT head, relation, tail FROM triples UNION ALL SELECT 'x', 'y', 'z'")
    assert (
        "1 of 1,201 triples left out: their keys are unknown"
        in rows(trained, partly, "SELECT protocol FROM answer")[0][0]
    )


def test_evaluate_on_unknown_keys_only(trained: Workspace) -> None:
    with pytest.raises(InputError, match="no triple"):
        ask(trained, "evaluate", "m", "SELECT 'x' AS head, 'y' AS relation, 'z' AS tail")
    with pytest.raises(InputError, match="has no rows"):
        list(ask(trained, "evaluate", "m", "FROM triples WHERE false").batches())


def test_embeddings_and_similar(trained: Workspace) -> None:
    vectors = rows(trained, ask(trained, "embeddings", "m"), "SELECT key, embedding, typeof(embedding) FROM answer")
    assert vectors[0][2] == "FLOAT[16]"
    table = {key: np.array(vector) for key, vector, _ in vectors}
    me = table["p7"] / np.linalg.norm(table["p7"])
    cosine = {k: float(v @ me / np.linalg.norm(v)) for k, v in table.items() if k != "p7"}
    best = sorted(cosine, key=lambda k: -cosine[k])[:4]
    got = rows(trained, ask(trained, "similar", "m", "SELECT 'p7' AS key", k=4))
    assert [r[1] for r in got] == best
    assert [r[3] for r in got] == pytest.approx([cosine[k] for k in best], rel=1e-4)
    assert rows(trained, ask(trained, "similar", "m", "SELECT 'nobody' AS key"))[0] == ("nobody", None, None, None)
    said: list[str] = []
    call = Call("similar", "SELECT 'knows' AS key", {}, trained.cursor, said.append)
    assert rows(trained, ModelReader(trained.folder).open("m", call)) == [("knows", None, None, None)]
    (sentence,) = said
    assert "'knows' in m is a relation, not an entity" in sentence
    relations = rows(trained, ask(trained, "embeddings", "m", of="relations"), "SELECT key FROM answer")
    assert relations == [("helps",), ("knows",), ("likes",)]


@pytest.mark.parametrize(
    ("function", "named", "message"),
    [
        ("predict", {"kk": 3}, 'no argument "kk"'),
        ("predict", {"k": 0}, "at least 1"),
        ("predict", {"k": True}, "whole number"),
        ("predict", {"exclude_known": 1}, "true or false"),
        ("embeddings", {"of": "heads"}, "'entities' or 'relations'"),
    ],
)
def test_wrong_named_arguments(trained: Workspace, function: Any, named: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ask(trained, function, "m", "FROM triples" if function == "predict" else None, **named)


def test_functions_of_other_families_are_refused(trained: Workspace) -> None:
    with pytest.raises(UserError, match=r"a complex model has no forecast\(\)") as caught:
        ask(trained, "forecast", "m")
    assert caught.value.help == "it has predict(), evaluate(), embeddings(), similar()"


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        ("predict", None, "needs a second argument"),
        ("predict", "SELECT 1 AS relation", '"head"'),
        ("predict", "SELECT 'p1' AS head", '"relation"'),
        ("evaluate", "SELECT 'p1' AS head, 'knows' AS relation", '"tail"'),
        ("embeddings", "FROM triples", "takes no relation"),
        ("similar", "FROM triples", "one column"),
    ],
)
def test_wrong_relations(trained: Workspace, function: Any, argument: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(trained, function, "m", argument)


def test_models_bind_to_the_right_columns_before_training(trained: Workspace) -> None:
    columns = {"head": "VARCHAR", "relation": "VARCHAR", "tail": "VARCHAR", "split": "VARCHAR"}
    cases: list[tuple[Any, str | None]] = [
        ("predict", "SELECT 'p7' AS head, 'knows' AS relation"),
        ("evaluate", None),
        ("embeddings", None),
        ("similar", "SELECT 'p7' AS key"),
    ]
    for function, argument in cases:
        asked = request(dim=16)
        shape = family(asked.family).shape(asked, {"triples": columns})
        planned = functions.planned(asked, shape, Call(function, argument, {}, trained.cursor))
        stored = ask(trained, function, "m", argument)
        assert rows(trained, planned, "DESCRIBE answer") == rows(trained, stored, "DESCRIBE answer")
        assert rows(trained, planned) == []


def test_versions_and_missing_models(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        create_model(w, request(), emit=silent)
        create_model(w, request(seed=2), emit=silent)
        one, two = (rows(w, ask(w, "embeddings", "m", version=v)) for v in (1, 2))
        assert one != two
        assert rows(w, ask(w, "embeddings", "m")) == two
        with pytest.raises(ModelNotFound, match="no version 3"):
            ask(w, "embeddings", "m", version=3)
        with pytest.raises(ModelNotFound, match='no model "mm"') as caught:
            ask(w, "embeddings", "mm")
        assert caught.value.help == "did you mean: m?"


def test_a_damaged_model_is_named_and_others_work(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        create_model(w, request(), emit=silent)
        create_model(w, request(name="other"), emit=silent)
        path = next((w.folder / "models" / "m").glob("*/weights.safetensors"))
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 255
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r'"m" version 1 cannot be used: weights\.safetensors'):
            ask(w, "embeddings", "m")
        assert rows(w, ask(w, "embeddings", "other"))


def test_an_arrow_source_computes_its_rows_at_every_scan() -> None:
    schema = pa.schema([("x", pa.int64())])
    scans: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        scans.append(1)
        yield pa.record_batch([pa.array([1, 2])], schema=schema)

    source = ArrowSource(schema, batches)
    assert pa.RecordBatchReader.from_stream(source).read_all().num_rows == 2
    assert pa.RecordBatchReader.from_stream(source).read_all().num_rows == 2
    assert len(scans) == 2
    assert pa.RecordBatchReader.from_stream(source.empty()).read_all().num_rows == 0


def test_keys_that_are_times_use_the_time_zone_of_the_session(tmp_path: Path) -> None:
    with workspace(tmp_path) as w:
        w.connection.execute(
            "CREATE TABLE shifts AS SELECT (start + to_hours(i))::VARCHAR AS head, 'then' AS relation, "
            "(start + to_hours(i + 1))::VARCHAR AS tail FROM range(50) t(i), (SELECT TIMESTAMP '2024-01-01' AS start)"
        )
        create_model(w, request(sql="FROM shifts"), emit=silent)

        def cursor(zone: str) -> Any:
            made = w.cursor()
            made.execute(f"SET SESSION TimeZone = '{zone}'")
            return made

        # a time with a zone is converted to text in the session's time zone, and only then is it one of the keys
        question = "SELECT (TIMESTAMPTZ '2024-01-01 05:00:00+00')::TIMESTAMP AS head, 'then' AS relation"
        for zone in ("UTC", "Asia/Tokyo"):
            call = Call("predict", question, {"k": 1}, lambda zone=zone: cursor(zone))
            asked = cursor(zone).execute(f"SELECT head FROM ({question})").fetchall()[0][0]
            found = rows(w, ModelReader(w.folder).open("m", call), "SELECT head, rank FROM answer")
            assert found == [(asked, 1)]
