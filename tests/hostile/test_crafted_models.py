"""Models from somebody who wants more than to be read: each is refused in one line that names it, and does nothing.

Every case is a stored model that was changed and sealed again, so that its digests are right. The others in the
workspace stay listed and usable.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases.stored_models import (
    MODELS,
    QUESTIONS,
    Bench,
    edit_json,
    edit_table,
    edit_tensors,
    reseal,
    run,
)

from graphlearn.errors import GraphLearnError, JobError, UserError
from graphlearn.session import connect
from graphlearn.storage import artifacts, stored
from graphlearn.storage.artifacts import FORMAT_VERSION, ArtifactStore
from graphlearn.storage.files import LONGEST_JSON

INJECTION = "INTEGER) FROM range(1); COPY (SELECT 1) TO 'stolen.csv'; SELECT NULL::INTEGER AS (key"
ESCAPES = "\x1b[2J\x9b31m\u202e[bold red]"


def key_type(name: str) -> Callable[[Path], object]:
    """The type of a dictionary's keys, as its Parquet metadata claims."""

    def craft(version: Path) -> None:
        path = version / ("mode_0.parquet" if (version / "series.json").exists() else "entities.parquet")
        edit_table(path, lambda table: table.replace_schema_metadata({b"graphlearn_key_type": name.encode()}))

    return craft


def manifest(**changes: Any) -> Callable[[Path], object]:
    return lambda version: edit_json(version / "manifest.json", lambda value: value.update(changes))


def options(**changes: Any) -> Callable[[Path], object]:
    return lambda version: edit_json(version / "manifest.json", lambda value: value["options"].update(changes))


def axis(**changes: Any) -> Callable[[Path], object]:
    return lambda version: edit_json(version / "series.json", lambda value: value["axis"].update(changes))


def series(**changes: Any) -> Callable[[Path], object]:
    return lambda version: edit_json(version / "series.json", lambda value: value.update(changes))


def graph(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda version: edit_json(version / "graph.json", change)


def column(file: str, name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], object]:
    """Change the values of a column of a Parquet file."""

    def edit(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        return table.set_column(at, name, pa.array(change(table.column(at).to_pylist()), table.field(at).type))

    return lambda version: edit_table(version / file, edit)


def tensors(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda version: edit_tensors(version / file, change)


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return tensors("weights.safetensors", change)


def wide(size: int, **sizes: int) -> Callable[[Path], object]:
    """Options of this size, for which one of the tensors vouches. `sizes`: the other dimensions of that tensor."""

    def craft(version: Path) -> None:
        shape = (size, *sizes.values())
        weights(lambda t: t.update({"model.encoder.zz": np.zeros(shape, np.float32)}))(version)
        name = "dim" if version.parent.name == "ahead" else "hidden"
        options(**{name: size})(version)

    return craft


def link(name: str, to: str) -> Callable[[Path], object]:
    """A symbolic link in place of a file."""

    def craft(version: Path) -> None:
        (version / name).unlink(missing_ok=True)
        (version / name).symlink_to(to)

    return craft


def header(size: int) -> Callable[[Path], object]:
    """A safetensors file whose header is as long as this, for real."""

    def craft(version: Path) -> None:
        text = json.dumps({"__metadata__": {"x": "y" * size}}).encode()
        (version / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)

    return craft


def footer(version: Path) -> None:
    """A Parquet file that claims a footer of 4 GB."""
    path = version / "snapshot.parquet"
    path.write_bytes(path.read_bytes()[:-8] + b"\xff\xff\xff\xff" + b"PAR1")


def rows(version: Path) -> None:
    """A Parquet file of a few kilobytes with more rows than memory holds."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 0::INTEGER AS head, 0::INTEGER AS relation, 0::INTEGER AS tail, 0::UTINYINT AS split, "
            f"true AS present FROM range(2_000_000)) TO '{version / 'snapshot.parquet'}' (FORMAT parquet)"
        )


def repeated(file: str, name: str, rows: int) -> Callable[[Path], object]:
    """The same long text in every row of a column, which the file holds once."""

    def edit(table: pa.Table) -> pa.Table:
        table = table.take(pa.array(np.arange(rows) % len(table)))
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * (1 << 20)]))
        return table.set_column(table.column_names.index(name), name, texts)

    return lambda version: edit_table(version / file, edit)


def differences(version: Path) -> None:
    """Keys of which the file holds only how each differs from the one before."""
    path = version / "entities.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, use_dictionary=False, column_encoding={"id": "PLAIN", "key": "DELTA_BYTE_ARRAY"})


def lists(file: str, name: str) -> Callable[[Path], object]:
    """A column of lists in place of another, or next to the others. All lists but one are empty."""

    def edit(table: pa.Table) -> pa.Table:
        column = pa.array([[0] * 10_000] + [[]] * (len(table) - 1), pa.large_list(pa.int8()))
        if name not in table.column_names:
            return table.append_column(name, column)
        return table.set_column(table.column_names.index(name), name, column)

    return lambda version: edit_table(version / file, edit)


# model, what was done to it -> the start of the line that refuses it
CRAFTED: dict[tuple[str, str], tuple[Callable[[Path], object], str]] = {
    # SQL
    ("graph", "type of keys"): (key_type(INJECTION), "the dictionary <version>/entities.parquet is missing or damaged: "
        "the type of its keys is not a DuckDB type that keys can have"),
    ("ahead", "type of keys"): (key_type("VARCHAR; DROP TABLE roads"), "the dictionary <version>/mode_0.parquet is "
        "missing or damaged: the type of its keys is not a DuckDB type that keys can have"),
    ("graph", "type of no keys"): (key_type("MAP(INTEGER, INTEGER)"), "the dictionary <version>/entities.parquet is "
        "missing or damaged: the type of its keys is not a DuckDB type that keys can have"),
    ("ahead", "type of times"): (axis(type="DATE); COPY (SELECT 1) TO 'stolen.csv'; --"), "the series "
        "<version>/series.json is missing or damaged: the axis has a type that times do not have"),
    ("ahead", "start"): (axis(start="0); COPY (SELECT 1) TO 'stolen.csv'; --"), "the series <version>/series.json is "
        "missing or damaged: the numbers of the axis are not whole numbers"),
    ("ahead", "zone"): (axis(zone="UTC'; COPY (SELECT 1) TO 'stolen.csv'; --"), "the series <version>/series.json is "
        "missing or damaged: the axis has no valid time zone"),
    ("ahead", "unknown zone"): (axis(zone="Nowhere/Land"), "the series <version>/series.json is missing or damaged: "
        "Cannot locate"),
    ("ahead", "no step"): (axis(freq={"months": 0, "ticks": 0}), "the series <version>/series.json is missing or "
        "damaged: the axis has no steps"),
    # paths
    ("graph", "link in place of a file"): (link("weights.safetensors", "/etc/passwd"),
        'model "graph" version 1 cannot be used: weights.safetensors is neither a regular file nor a folder'),
    ("graph", "link next to the files"): (link("more", "/"),
        'model "graph" version 1 cannot be used: more is neither a regular file nor a folder'),
    ("graph", "pipe"): (lambda version: os.mkfifo(version / "pipe"),
        'model "graph" version 1 cannot be used: pipe is neither a regular file nor a folder'),
    ("links", "hub elsewhere"): (graph(lambda value: value["edges"][1].update(hubs="0/../../../x")),
        "the graph <version>/graph.json is missing or damaged: a hub table has no number"),
    ("ahead", "graph elsewhere"): (manifest(graphs=["/../../x"]), "the manifest of ahead lists no valid graphs"),
    ("ahead", "graphs without end"): (manifest(graphs={"0": 1}), "the manifest of ahead lists no valid graphs"),
    # sizes
    ("graph", "long header"): (header(17 << 20),
        "the file <version>/weights.safetensors is missing or damaged: its header has "),
    ("graph", "long footer"): (footer,
        "the snapshot <version>/snapshot.parquet is missing or damaged: its footer has 4,294,967,295 bytes"),
    ("graph", "embeddings of another width"): (options(dim=10**9), "the file <version>/weights.safetensors is missing "
        "or damaged: the embeddings of entities do not fit the options and keys of the model"),
    ("classes", "states of another width"): (options(hidden=10**8),
        "the tensors in <version>/weights.safetensors do not fit the options of the model"),
    ("ahead", "states of another width"): (options(dim=10**8),
        "the tensors in <version>/weights.safetensors do not fit the options of the model"),
    ("classes", "an empty tensor as wide as that"): (wide(16_000, rows=0),
        "the tensors in <version>/weights.safetensors do not fit the options of the model"),
    ("links", "an empty tensor as wide as that"): (wide(16_000, rows=0),
        "the tensors in <version>/weights.safetensors do not fit the options of the model"),
    ("ahead", "an empty tensor as wide as that"): (wide(60_000, rows=0),
        "the tensors in <version>/weights.safetensors do not fit the options of the model"),
    ("classes", "a tensor as wide as that"): (wide(100_000), "the file <version>/weights.safetensors is missing or "
        "damaged: the tensor model.encoder.input.0.bias is float32[8], and the options of the model ask for "
        "float32[100000]"),
    ("links", "a tensor as wide as that"): (wide(100_000), "the file <version>/weights.safetensors is missing or "
        "damaged: the tensor model.encoder.input.0.bias is float32[8], and the options of the model ask for "
        "float32[100000]"),
    ("ahead", "a tensor as wide as that"): (wide(100_000), "the file <version>/weights.safetensors is missing or "
        "damaged: the tensor model.embeddings.entries.0 is float32[4, 3], and the options of the model ask for "
        "float32[4, 100000]"),
    ("ahead", "a tensor more"): (weights(lambda t: t.update({"model.zz": t["chosen"]})), "the file "
        "<version>/weights.safetensors is missing or damaged: the tensor model.zz is float64[3], and the options of "
        "the model ask for no tensor of that name"),
    ("graph", "a tensor more"): (weights(lambda t: t.update(zz=np.zeros(1, np.float32))), "the file "
        "<version>/weights.safetensors is missing or damaged: the tensor zz is float32[1], and the options of the "
        "model ask for no tensor of that name"),
    ("classes", "tensors of another module"): (weights(lambda t: t.update({"zz.a": np.zeros(1, np.float32)})),
        "there is an unexpected tensor in <version>/weights.safetensors: zz.a"),
    ("ahead", "tensors of another type"): (weights(lambda t: t.update({"model.tgcn.bias": t["model.tgcn.bias"].astype(
        np.float64)})), "the file <version>/weights.safetensors is missing or damaged: the tensor model.tgcn.bias is "
        "float64[3], and the options of the model ask for float32[3]"),
    ("ahead", "many steps ahead"): (options(horizon=10**12), "the tensors in <version>/weights.safetensors do not "
        "fit the options of the model"),
    ("graph", "one long key"): (repeated("entities.parquet", "key", 60), "the dictionary <version>/entities.parquet is "
        "missing or damaged: its texts take 62,914,560 bytes, and at most "),
    ("classes", "one long key"): (repeated("node_1.parquet", "key", 40), "the dictionary <version>/node_1.parquet is "
        "missing or damaged: its texts take 41,943,040 bytes, and at most "),
    ("graph", "one long text"): (repeated("metrics.parquet", "protocol", 30), "the metric table "
        "<version>/metrics.parquet is missing or damaged: its texts take 31,457,280 bytes, and at most "),
    ("graph", "keys as differences"): (differences, "the dictionary <version>/entities.parquet is missing or damaged: "
        "its texts are stored as differences"),
    ("graph", "lists of ids"): (lists("snapshot.parquet", "head"), "the snapshot <version>/snapshot.parquet is missing "
        "or damaged: its column head does not hold single values"),
    ("graph", "lists of keys"): (lists("entities.parquet", "key"), "the dictionary <version>/entities.parquet is "
        "missing or damaged: its column key does not hold single values"),
    ("ahead", "lists of figures"): (lists("metrics.parquet", "z"), "the metric table <version>/metrics.parquet is "
        "missing or damaged: its column z does not hold single values"),
    ("graph", "one key twice"): (column("entities.parquet", "key", lambda keys: [keys[1], *keys[1:]]), "the dictionary "
        "<version>/entities.parquet is missing or damaged: a key occurs twice among its keys"),
    # ids that lead out of arrays
    ("graph", "entity without a key"): (column("snapshot.parquet", "tail", lambda ids: [10**6, *ids[1:]]),
        "the snapshot <version>/snapshot.parquet is missing or damaged: tail holds ids that are not between 0 and 59"),
    ("graph", "negative relation"): (column("snapshot.parquet", "relation", lambda ids: [-1, *ids[1:]]), "the snapshot "
        "<version>/snapshot.parquet is missing or damaged: relation holds ids that are not between 0 and 2"),
    ("graph", "no id"): (column("snapshot.parquet", "head", lambda ids: [None, *ids[1:]]),
        "the snapshot <version>/snapshot.parquet is missing or damaged: head holds float64 (290,), not ids"),
    ("graph", "splits in disorder"): (column("snapshot.parquet", "split", lambda codes: codes[::-1]),
        "the snapshot <version>/snapshot.parquet is missing or damaged: its rows are not ordered by split"),
    ("graph", "keys in disorder"): (column("entities.parquet", "id", lambda ids: [0, *ids[:-1]]),
        "the dictionary <version>/entities.parquet is missing or damaged: its ids are not 0 to 59"),
    ("graph", "NULL among the keys"): (column("entities.parquet", "key", lambda keys: [None, *keys[1:]]),
        "the dictionary <version>/entities.parquet is missing or damaged: it has a NULL among its keys"),
    ("classes", "edge to no node"): (tensors("graph.safetensors", lambda t: t["edge_0.dst"].__setitem__(0, 10**9)),
        "the graph <version>/graph.json is missing or damaged: target holds ids that are not between 0 and 89"),
    ("classes", "words without order"): (
        tensors("graph.safetensors", lambda t: t["node_0.indptr"].__setitem__(1, 10**9)),
        "the graph <version>/graph.json is missing or damaged: indptr does not ascend from 0"),
    ("classes", "word of no column"): (tensors("graph.safetensors", lambda t: t["node_0.indices"].__setitem__(0, 999)),
        "the graph <version>/graph.json is missing or damaged: indices holds ids that are not between 0 and 7"),
    ("classes", "label of no class"): (tensors("graph.safetensors", lambda t: t["labels.ids"].__setitem__(0, 9)),
        "the graph <version>/graph.json is missing or damaged: labels holds ids that are not between -1 and 2"),
    ("ahead", "edge to no series"): (column("graph_0.parquet", "target", lambda ids: [99, *ids[1:]]),
        "the graph <version>/graph_0.parquet is missing or damaged: target holds ids that are not between 0 and 3"),
    # weights
    ("graph", "cast weights"): (weights(lambda t: t.update(entities=t["entities"].astype(np.float64))), "the file "
        "<version>/weights.safetensors is missing or damaged: the embeddings of entities do not fit the options and "
        "keys of the model"),
    ("graph", "renamed weights"): (weights(lambda t: t.update({"x\x1b[31m": t.pop("relations")})), "the file "
        "<version>/weights.safetensors is missing or damaged: the embeddings of relations do not fit the options and "
        "keys of the model"),
    ("filled", "cells of another shape"): (lambda version: np.save(version / "recovered.npy", np.zeros(3, np.float32)),
        "the file <version>/recovered.npy is missing or damaged: recovered.npy holds float32 (3,)"),
    ("filled", "cells that are objects"): (
        lambda version: np.save(version / "recovered.npy", np.array([{}]), allow_pickle=True),
        "the file <version>/recovered.npy is missing or damaged: "),
    # manifests
    ("graph", "family"): (manifest(family=["complex"]),
        'model "graph" version 1 cannot be used: manifest.json has an invalid family'),
    ("graph", "unknown family"): (manifest(family=ESCAPES),
        'model "graph" is of type \\x1b[2J\\x9b31m\\u202e[bold red], which is not installed'),
    ("graph", "options of another type"): (options(dim="4"), 'model "graph" version 1 cannot be used: '),
    ("graph", "options out of range"): (options(dim=-1), 'model "graph" version 1 cannot be used: '),
    ("classes", "no target"): (manifest(target=None), 'model "classes" version 1 cannot be used: TypeError: '),
    ("links", "target of no relation"): (manifest(target={"edges": "x"}), 'model "links" version 1 cannot be used: '),
    ("ahead", "columns without names"): (series(time=["a"]),
        "the series <version>/series.json is missing or damaged: a column has no name"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "what"), CRAFTED)
def test_a_crafted_model_is_refused_by_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, model: str, what: str
) -> None:
    monkeypatch.setattr(stored, "SMALL_TEXTS", 1 << 20)
    monkeypatch.setattr(stored, "RATIO", 100)
    craft, expected = CRAFTED[model, what]
    version = bench.version(model)
    craft(version)
    reseal(version)
    refused = bench.refusals(model)
    assert refused, "somebody notices"
    assert refused[0].startswith("error: " + expected.replace("<version>", str(version))), refused
    assert "\x1b" not in "".join(refused)
    listed = bench.listed()
    assert all(name in listed for name in MODELS)
    with suppress(GraphLearnError):
        bench.shown(model)


def test_every_kind_of_model_is_crafted_and_answers_when_it_is_not(bench: Bench) -> None:
    assert {model for model, _ in CRAFTED} == set(MODELS)
    for model in MODELS:
        assert bench.refusals(model) == []
        assert model in bench.shown(model)
    assert "unusable" not in bench.listed()


def test_the_command_line_refuses_in_one_line(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    database = tmp_path_factory.mktemp("elsewhere") / "new.duckdb"
    for model in ("graph", "ahead"):
        key_type(INJECTION)(bench.version(model))
        reseal(bench.version(model))
    shutil.copytree(bench.models, database.with_suffix(".graphlearn") / "models")
    for model in ("graph", "ahead"):
        answer = run(database, "query", QUESTIONS[model][0])
        assert (answer.exit_code, type(answer.exception)) == (2, SystemExit)
        assert answer.output.startswith("error: the dictionary ")
    assert run(database, "query", QUESTIONS["links"][0]).exit_code == 0


def test_a_file_with_more_rows_than_memory_is_not_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    version = bench.version("graph")
    rows(version)
    reseal(version)
    assert (version / "snapshot.parquet").stat().st_size < 1 << 20
    monkeypatch.setattr(stored, "memory_available", lambda: 50 << 20)
    assert "its rows take 80,000,000 bytes" in bench.refusals("graph")[0]


LACKS = {
    "libraries": (
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        "error: out of memory (libtorch_cpu.so: failed to map segment from shared object)",
    ),
    "another library": (ImportError("no module named x"), "error: a library could not be loaded: no module named x"),
    "threads": (OSError("Failed to launch worker thread"), "error: out of memory (Failed to launch worker thread)"),
    "memory": (MemoryError(), "error: out of memory"),
}


@pytest.mark.parametrize("lack", LACKS)
def test_a_lack_of_memory_is_no_damage(bench: Bench, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    error, line = LACKS[lack]

    def fail(*_: object, **__: object) -> None:
        raise error

    bench.session.close()
    bench.session = connect(bench.database, emit=lambda _: None)  # which has loaded nothing yet
    monkeypatch.setattr(stored.pq, "read_metadata", fail)
    monkeypatch.setattr("graphlearn.jobs.dhan.family.DhanFamily.load", fail)
    for model in MODELS:
        assert bench.refusals(model) == [line] * len(QUESTIONS[model])
    with pytest.raises(JobError) as caught:
        bench.session.sql(QUESTIONS["classes"][0])
    assert caught.value.exit_code == 1


def test_a_column_that_nobody_asks_for_is_not_read(bench: Bench) -> None:
    version = bench.version("graph")
    lists("snapshot.parquet", "more")(version)
    lists("entities.parquet", "more")(version)
    reseal(version)
    assert bench.refusals("graph") == []


GARBAGE = {
    "nothing": b"",
    "no JSON": b"\x00\xff\xfe{",
    "no object": b"[1]",
    "half": b'{"current": 1',
    "no version": b'{"model": "graph", "current": [1]}',
    "another version": b'{"model": ["graph"], "current": true}',
    "deep": b'{"model":' * 100_000,
    "deep enough": b'{"a":' * 80 + b"1" + b"}" * 80,
    "a long number": b'{"current": ' + b"9" * 10_000 + b"}",
    "half a surrogate pair": b'{"model": "\\ud800", "current": 1}',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_a_json_file_hides_no_other_model(bench: Bench, garbage: str) -> None:
    models = {"graph": "manifest.json", "ahead": "series.json", "classes": "graph.json", "links": "../model.json"}
    for model, name in models.items():
        (bench.version(model) / name).write_bytes(GARBAGE[garbage])
        if name in ("series.json", "graph.json"):
            reseal(bench.version(model))
    listed = bench.listed()
    assert all(name in listed for name in MODELS)
    assert "unusable: manifest.json" in listed
    for model, name in models.items():
        refused = bench.refusals(model)
        if name == "../model.json":  # the newest version is the current one
            assert refused == []
        else:
            assert len(refused) == len(QUESTIONS[model])
            assert all(name in line for line in refused)


def test_folders_that_are_no_models_hide_none(bench: Bench) -> None:
    for stray in ("Upper/1", "a b/2", "\u0663/\u0663", "graph/007", "graph/99999999999999999999", "empty"):
        (bench.models / stray).mkdir(parents=True)
    (bench.models / "file").write_text("x")
    listed = bench.listed()
    assert all(name in listed for name in MODELS)
    assert bench.refusals("graph") == []


def test_what_is_printed_about_a_model_controls_no_terminal(bench: Bench) -> None:
    for model in MODELS:
        version = bench.version(model)
        edit_json(version / "manifest.json", lambda value: value.update(
            statement=ESCAPES, verdict=ESCAPES, protocol=ESCAPES, run=ESCAPES, created_at=ESCAPES, fingerprint=ESCAPES,
            options={**value["options"], ESCAPES: ESCAPES}, inputs={ESCAPES: ESCAPES},
        ))  # fmt: skip
        reseal(version)
        said = bench.shown(model)
        assert "\\x1b[2J" in said
        assert not {"\x1b", "\x9b", "\u202e"} & set(said)
        assert json.loads(said.splitlines()[0])["statement"] == ESCAPES
    assert not {"\x1b", "\x9b", "\u202e"} & set(bench.listed())


def test_a_newer_format_is_named(bench: Bench) -> None:
    manifest(format_version=FORMAT_VERSION + 1)(bench.version("graph"))
    assert "is newer than this version of GraphLearn reads" in bench.refusals("graph")[0]


def test_a_json_file_of_any_length_is_not_read(bench: Bench) -> None:
    with open(bench.version("graph") / "manifest.json", "ab") as file:
        file.truncate(LONGEST_JSON + 1)  # zeros, which take no space on the disk
    assert f"manifest.json has more than {LONGEST_JSON:,} bytes" in bench.refusals("graph")[0]
    assert "manifest.json is unreadable" in bench.listed()


def test_a_long_statement_is_stored_and_read(bench: Bench) -> None:
    condition = f"WHERE head NOT IN ('{'x' * (LONGEST_JSON // 4 - 1000)}')"  # the manifest has it twice
    bench.session.sql(f"CREATE OR REPLACE MODEL graph {MODELS['graph']} {condition}")
    assert bench.refusals("graph") == []


def test_models_are_listed_one_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    whole = ArtifactStore._glance
    monkeypatch.setattr(ArtifactStore, "_glance", lambda *given: read.append(given[1]) or whole(*given))
    listed = ArtifactStore(bench.models.parent).models()
    for count in range(1, len(MODELS) + 1):
        next(listed)
        assert len(read) == count


def test_a_statement_that_could_not_be_stored_is_refused_before_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "LONGEST_JSON", 1000)
    with pytest.raises(UserError, match="the statement of model graph is too long to be stored with it: ") as caught:
        bench.session.sql(f"CREATE OR REPLACE MODEL graph {MODELS['graph']} WHERE head <> '{'x' * 300}'")
    assert caught.value.help == "put its values into a table or a file, and select from that"
    assert bench.refusals("graph") == []
