"""Versions of a knowledge graph: ids and splits are stable. Compared with a Python oracle."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import ArtifactError, InputError
from graphlearn.events import Event, Note, silent
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.triples.base import TripleBase
from graphlearn.storage.triples.ingest import EncodedTriples, encode_triples
from graphlearn.storage.triples.snapshot import read_facts, read_snapshot
from graphlearn.types import Split

Fact = tuple[str, int, str]
Row = tuple[str | None, int | None, str | None, str]
HOLDOUT, SEED = (0.2, 0.3), 5
CODES = {"train": 0, "valid": 1, "test": 2}
NAMES = [Split.TRAIN, Split.VALID, Split.TEST]
WORD = (1 << 64) - 1


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2}) as connection:
        yield connection


# --- the oracle ---------------------------------------------------------------------------------------------------


def key_hash(key: Any) -> int:
    return int.from_bytes(hashlib.md5(str(key).encode()).digest()[8:], "little")


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def draw(fact: Fact) -> int:
    mixed = mix((mix(key_hash(fact[0]) ^ SEED) + key_hash(fact[1])) & WORD)
    chance = (mix((mixed + key_hash(fact[2])) & WORD) >> 11) * 2.0**-53
    return 1 if chance < HOLDOUT[0] else 2 if chance < sum(HOLDOUT) else 0


class Oracle:
    """A model over its versions, computed fact by fact."""

    def __init__(self) -> None:
        self.entities: list[str] = []
        self.relations: list[int] = []
        self.splits: dict[Fact, int] = {}
        self.trained: set[Fact] = set()

    def refresh(self, rows: list[Row], given: bool) -> tuple[dict[Fact, int], dict[str, int]] | None:
        """The split of every fact of a new version, and counts; None if nothing is left to train on."""
        best: dict[Fact, int] = {}
        for head, relation, tail, split in rows:
            if head is not None and relation is not None and tail is not None:
                fact = (head, relation, tail)
                best[fact] = min(CODES[split] if given else 0, best.get(fact, 9))
        now = {fact: self.splits.get(fact, code if given else draw(fact)) for fact, code in best.items()}
        moved = 0
        if not given:
            ends = {end for fact, code in now.items() if code == 0 for end in (fact[0], fact[2])}
            links = {fact[1] for fact, code in now.items() if code == 0}
            for fact, code in now.items():
                if fact not in self.splits and code and not ({fact[0], fact[2]} <= ends and fact[1] in links):
                    now[fact], moved = 0, moved + 1
        if 0 not in now.values():
            return None
        used, links = {end for fact in now for end in (fact[0], fact[2])}, {fact[1] for fact in now}
        kept = sum(now[fact] != code for fact, code in best.items() if fact in self.splits) if given else 0
        self.splits |= now
        self.entities += sorted(used - set(self.entities))
        self.relations += sorted(links - set(self.relations))
        self.trained |= {fact for fact, code in now.items() if code == 0}
        return now, {
            "entities": len(self.entities),
            "relations": len(self.relations),
            "moved_to_train": moved,
            "removed": len(self.splits) - len(now),
            "vanished_entities": len(self.entities) - len(used),
            "vanished_relations": len(self.relations) - len(links),
            "kept_split": kept,
        }


def register(cursor: duckdb.DuckDBPyConnection, rows: list[Row]) -> None:
    names = ("head", "relation", "tail", "split")
    types = (pa.string(), pa.int32(), pa.string(), pa.string())
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    arrays = [pa.array(list(column), type_) for column, type_ in zip(columns, types, strict=True)]
    cursor.register("given", pa.table(arrays, names))


def encode(cursor: duckdb.DuckDBPyConnection, base: TripleBase | None, split: bool) -> EncodedTriples:
    query = "FROM given" if split else "SELECT head, relation, tail FROM given"
    return encode_triples(cursor, query, holdout=HOLDOUT, seed=SEED, base=base, emit=silent)


def decode(folder: Path) -> dict[Fact, int]:
    """The present facts of a stored version with the users' keys, and their splits."""
    entities = Dictionary(folder / "entities.parquet").keys.to_pylist()
    relations = Dictionary(folder / "relations.parquet").keys.to_pylist()
    found = {}
    for split, t in read_snapshot(folder).items():
        rows = list(zip(t.relations.tolist(), t.heads.tolist(), t.tails.tolist(), strict=True))
        assert rows == sorted(set(rows))
        found |= {(entities[h], relations[r], entities[t]): NAMES.index(split) for r, h, t in rows}
    assert sum(map(len, read_snapshot(folder).values())) == len(found)
    return found


ENTITIES = st.sampled_from("abcdefgh")
ROWS = st.tuples(
    st.one_of(ENTITIES, ENTITIES, ENTITIES, st.none()), st.integers(-2, 2), ENTITIES, st.sampled_from(list(CODES))
)
VERSIONS = st.lists(st.tuples(st.lists(ROWS, min_size=1, max_size=15), st.booleans()), min_size=2, max_size=5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VERSIONS, st.randoms(use_true_random=False))
def test_versions_keep_ids_and_splits(
    cursor: duckdb.DuckDBPyConnection,
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[tuple[list[Row], bool]],
    chance: random.Random,
) -> None:
    oracle, base = Oracle(), None
    for rows, split in versions:
        expected = oracle.refresh(rows, split)
        register(cursor, rows)
        if expected is None:
            with pytest.raises(InputError):
                encode(cursor, base, split)
            continue
        splits, counts = expected
        encoded = encode(cursor, base, split)
        folder = tmp_path_factory.mktemp("version")
        encoded.write(folder)
        assert decode(folder) == splits
        assert {name: encoded.report.to_json()[name] for name in counts} == counts
        assert Dictionary(folder / "entities.parquet").keys.to_pylist() == oracle.entities
        assert Dictionary(folder / "relations.parquet").keys.to_pylist() == oracle.relations
        assert not any(code and fact in oracle.trained for fact, code in decode(folder).items())
        used = {end for fact in splits for end in (fact[0], fact[2])}
        assert encoded.alive.tolist() == [key in used for key in oracle.entities]
        trained = {end for fact, code in splits.items() if code == 0 for end in (fact[0], fact[2])}
        assert encoded.report.unseen_entities == len(used - trained)

        chance.shuffle(rows)
        register(cursor, rows)
        again = encode(cursor, base, split)
        other = tmp_path_factory.mktemp("again")
        again.write(other)
        assert again.report == encoded.report
        for name in ("entities.parquet", "relations.parquet", "snapshot.parquet"):
            assert pq.read_table(other / name).equals(pq.read_table(folder / name))
        base = TripleBase.read(folder)


def stored(cursor: duckdb.DuckDBPyConnection, folder: Path, sql: str, base: TripleBase | None = None) -> EncodedTriples:
    encoded = encode_triples(cursor, sql, base=base, emit=silent)
    folder.mkdir()
    encoded.write(folder)
    return encoded


FACTS = (
    "FROM (VALUES ('a', 1, 'b', 'train'), ('b', 1, 'c', 'test'), ('c', 2, 'a', 'valid')) t(head, relation, tail, split)"
)


def test_a_fact_that_returns_gets_its_split_back(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    stored(cursor, tmp_path / "1", FACTS)
    second = stored(cursor, tmp_path / "2", f"{FACTS} WHERE head = 'a'", TripleBase.read(tmp_path / "1"))
    assert second.alive.tolist() == [True, True, False]
    facts, codes, present = read_facts(tmp_path / "2")
    assert (len(facts), codes.tolist(), present.tolist()) == (3, [0, 1, 2], [True, False, False])
    third = encode_triples(
        cursor,
        "SELECT head, relation, tail, 'train' AS split " + FACTS,
        base=TripleBase.read(tmp_path / "2"),
        emit=silent,
    )
    assert {split: len(triples) for split, triples in third.splits.items()} == dict.fromkeys(Split, 1)
    assert (third.report.kept_split, third.report.removed) == (2, 0)


def test_changes_are_reported(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    stored(cursor, tmp_path / "1", FACTS)
    events: list[Event] = []
    found = encode_triples(
        cursor,
        "SELECT head, relation, tail, 'train' AS split " + FACTS + " WHERE relation = 1",
        base=TripleBase.read(tmp_path / "1"),
        emit=events.append,
    )
    notes = [event.message for event in events if isinstance(event, Note)]
    assert notes == found.report.lines()[2:] == [
        "1 entity in valid or test only: ranked, but never trained",
        "1 fact of earlier versions no longer in the input",
        "1 relation no longer in any fact: kept",
        "kept 1 fact in the split of an earlier version although the split column now differs",
    ]  # fmt: skip


def test_rows_with_nulls_do_not_disturb_known_facts(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    stored(cursor, tmp_path / "1", FACTS)
    rows = f"SELECT * {FACTS} UNION ALL SELECT NULL, 1, 'z', 'train'"
    found = stored(cursor, tmp_path / "2", rows, TripleBase.read(tmp_path / "1"))
    assert (found.report.null_rows, found.report.train, found.report.removed, found.n_entities) == (1, 1, 0, 3)


def test_nothing_left_to_train_on(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    stored(cursor, tmp_path / "1", FACTS)
    with pytest.raises(InputError, match="all remaining facts were held out"):
        encode_triples(
            cursor,
            f"SELECT head, relation, tail {FACTS} WHERE split <> 'train'",
            base=TripleBase.read(tmp_path / "1"),
            emit=silent,
        )


@pytest.mark.parametrize(
    ("old", "new", "widened"),
    [
        ("INTEGER", "BIGINT", "BIGINT"), ("BIGINT", "SMALLINT", "BIGINT"), ("HUGEINT", "TINYINT", "HUGEINT"),
        ("ENUM('1', '2', '3')", "VARCHAR", "VARCHAR"), ("VARCHAR", "ENUM('1', '2', '3')", "VARCHAR"),
        ("BIGINT", "UBIGINT", "HUGEINT"),
        ("DECIMAL(4,1)", "DECIMAL(9,3)", "DECIMAL(9,3)"), ("FLOAT", "DOUBLE", "DOUBLE"),
    ],
)  # fmt: skip
def test_a_wider_type_of_the_same_kind_widens(
    cursor: duckdb.DuckDBPyConnection, tmp_path: Path, old: str, new: str, widened: str
) -> None:
    columns = "SELECT h::VARCHAR::{0} AS head, r::VARCHAR::{0} AS relation, t::VARCHAR::{0} AS tail"
    rows = columns + " FROM (VALUES {1}) t(h, r, t)"
    stored(cursor, tmp_path / "1", rows.format(old, "(2, 3, 3)"))
    facts = rows.format(new, "(2, 3, 3), (1, 3, 2), (1, 1, 1)")
    found = stored(cursor, tmp_path / "2", facts, TripleBase.read(tmp_path / "1"))
    assert (found.entity_type, found.relation_type) == (widened, widened)
    keys = Dictionary(tmp_path / "2" / "entities.parquet").sql
    assert cursor.execute(f"SELECT key::DOUBLE FROM {keys} ORDER BY id").fetchall() == [(2,), (3,), (1,)]
    assert found.report.removed == 0


@pytest.mark.parametrize(
    ("old", "new"), [("INTEGER", "VARCHAR"), ("VARCHAR", "INTEGER"), ("DATE", "TIMESTAMP"), ("INTEGER[]", "BIGINT[]")]
)
def test_another_kind_of_key_is_refused(cursor: duckdb.DuckDBPyConnection, tmp_path: Path, old: str, new: str) -> None:
    value = {"DATE": "'2020-01-01'", "TIMESTAMP": "'2020-01-01'", "INTEGER[]": "[1]", "BIGINT[]": "[1]"}
    sql = "SELECT {1}::{0} AS head, 'r' AS relation, {1}::{0} AS tail"
    stored(cursor, tmp_path / "1", sql.format(old, value.get(old, "'1'")))
    with pytest.raises(InputError) as caught:
        encode_triples(
            cursor, sql.format(new, value.get(new, "'1'")), base=TripleBase.read(tmp_path / "1"), emit=silent
        )
    assert caught.value.message == f"the keys of head and tail are {old} in the model, but {new} in the query"
    assert caught.value.help == f"cast them to {old} in the query, or start over with CREATE OR REPLACE MODEL"


def test_a_base_with_ids_outside_its_dictionaries_is_damaged(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    stored(cursor, tmp_path / "1", FACTS)
    table = pq.read_table(tmp_path / "1" / "snapshot.parquet")
    heads = pa.array(np.array([0, 7, 1], np.int32))
    pq.write_table(table.set_column(0, "head", heads), tmp_path / "1" / "snapshot.parquet")
    with pytest.raises(ArtifactError, match="head holds ids that are not between 0 and 2"):
        TripleBase.read(tmp_path / "1")
