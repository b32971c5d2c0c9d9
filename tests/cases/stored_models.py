"""A workspace with a small stored model of every kind, and ways to tamper with one.

Whoever tampers with a model also computes the digests in its manifest; see `reseal`.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from graphlearn import show
from graphlearn.cli import main
from graphlearn.errors import GraphLearnError
from graphlearn.printing import print_relation
from graphlearn.session import connect
from graphlearn.storage import artifacts, seal

TABLES = """
CREATE TABLE triples AS
SELECT 'p' || (i * 7 % 60) AS head, ['knows', 'likes', 'helps'][1 + i % 3] AS relation, 'p' || (i * i % 59) AS tail,
       CASE WHEN i % 20 = 0 THEN 'test' WHEN i % 20 = 1 THEN 'valid' ELSE 'train' END AS split
FROM range(300) t(i);
CREATE TABLE readings AS
SELECT TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL (t) HOUR AS ts, 's' || s AS site,
       CASE WHEN (t * 7 + s * 3) % 11 > 0 THEN 10 * s + sin(t * 0.7 + s) END AS value
FROM range(60) a(t), range(4) b(s);
CREATE TABLE roads AS SELECT 's' || i AS source, 's' || (i + 1) % 4 AS target FROM range(4) t(i);
CREATE TABLE paper AS
SELECT 'p' || i AS id, [i % 3, 3 + i % 5] AS words, i / 7 AS x, ['a', 'b', 'c'][1 + i % 3] AS area
FROM range(90) t(i);
CREATE TABLE author AS SELECT i AS id, [i % 4] AS words FROM range(40) t(i);
CREATE TABLE writes AS SELECT i % 40 AS author, 'p' || (i * 7 % 90) AS paper FROM range(380) t(i);
CREATE TABLE about AS SELECT 'p' || i AS source, i % 6 AS hub FROM range(90) t(i);
"""
SHORT = "epochs = 1, threads = 1, baselines = false"
GRAPH = "author AS (FROM author), writes AS (FROM writes), subject AS (FROM about)"
MODELS = {
    "graph": f"TYPE complex OPTIONS ({SHORT}, dim = 4, negatives = 4) AS FROM triples",
    "ahead": f"TYPE net3 OPTIONS ({SHORT}, horizon = 2, window = 3, dim = 3, core_limit = 3, learnt_rank = 2) "
    "AS (series AS (FROM readings), site AS (FROM roads))",
    "filled": f"TYPE net3 OPTIONS ({SHORT}, task = 'recover', dim = 3, core_limit = 3, learnt_rank = 2) "
    "AS FROM readings",
    "classes": f"TYPE dhan OPTIONS ({SHORT}, target = 'area', hidden = 8, heads = 2, hops = 1) "
    f"AS (paper AS (FROM paper), {GRAPH})",
    "links": f"TYPE dhan OPTIONS ({SHORT}, target = 'writes', hidden = 8, heads = 2, hops = 1) "
    f"AS (paper AS (SELECT id, words, x FROM paper), {GRAPH})",
}
QUESTIONS = {
    "graph": (
        "FROM predict('graph', (SELECT 'p7' AS head, 'knows' AS relation), k := 3)",
        "FROM similar('graph', (SELECT 'p7' AS key))",
        "FROM embeddings('graph', of := 'relations')",
        "FROM evaluate('graph', (FROM triples LIMIT 5))",
        "FROM evaluate('graph')",
    ),
    "ahead": (
        "FROM forecast('ahead', horizon := 3, at := TIMESTAMPTZ '2024-01-02 00:00:00+00')",
        "FROM forecast('ahead')",
        "FROM evaluate('ahead')",
    ),
    "filled": ("FROM recover('filled', every := true)", "FROM evaluate('filled')"),
    "classes": (
        "FROM predict('classes')",
        "FROM embeddings('classes', of := 'author')",
        "FROM explain('classes', (SELECT 'p1' AS id))",
        "FROM evaluate('classes')",
    ),
    "links": ("FROM predict('links', (SELECT 3 AS id), k := 3)", "FROM predict('links', (FROM writes LIMIT 3))"),
}
LISTS = ("FROM models", "FROM model_versions")


def train_all(folder: Path) -> Path:
    """Train every model in a new workspace in the folder; returns its database."""
    database = folder / "kg.duckdb"
    with connect(database, emit=lambda _: None) as session:
        session.connection.execute(TABLES)
        for name, definition in MODELS.items():
            session.sql(f"CREATE MODEL {name} {definition}")
    return database


class Bench:
    """A workspace whose models are tampered with one after another, with a session that stays open."""

    def __init__(self, folder: Path) -> None:
        database = train_all(folder)
        self.models = database.with_suffix(".graphlearn") / "models"
        self.database, self.intact = database, folder / "intact"
        shutil.copytree(self.models, self.intact)
        self.session = connect(database, emit=lambda _: None)

    def restore(self) -> None:
        """All models as they were trained."""
        shutil.rmtree(self.models)
        shutil.copytree(self.intact, self.models)

    def version(self, model: str) -> Path:
        """The folder of a model's version."""
        return self.models / model / "1"

    def refusals(self, model: str) -> list[str]:
        """The first line of the error of each question that a model refuses. Raises whatever is no error of ours."""
        found = []
        for question in QUESTIONS[model]:
            try:
                self.session.sql(question).fetchall()  # type: ignore[union-attr]
            except GraphLearnError as error:
                found.append(error.render().splitlines()[0])
            except duckdb.InvalidInputException as error:  # the rows came from us, and DuckDB asked for them
                lines = str(error).splitlines()
                ours = [line.partition("Error: ")[2] for line in lines if line.startswith("graphlearn.errors.")]
                if not ours:
                    raise
                found.append(f"error: {ours[0]}")
        return found

    def listed(self) -> str:
        """What the lists of models print."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            show.print_models(self.models.parent, as_json=False)
            show.print_models(self.models.parent, as_json=True)
            for table in LISTS:
                print_relation(self.session.sql(table))  # type: ignore[arg-type]
        return out.getvalue()

    def shown(self, model: str) -> str:
        """What `show` prints about a model. Raises GraphLearnError."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            show.print_model(self.models.parent, model, None, as_json=True)
            show.print_model(self.models.parent, model, None, as_json=False)
        return out.getvalue()


def run(database: Path, *arguments: str) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(main, [*arguments, "--workspace", str(database)])


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON value in place."""
    value = read_json(path)
    change(value)
    path.write_text(json.dumps(value))


def edit_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows, columns or metadata of a Parquet file."""
    pq.write_table(change(pq.read_table(path)), path)


def edit_tensors(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a safetensors file in place."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def reseal(version: Path, *, listed: bool = True) -> None:
    """Write the digests and sizes of the files as they are now. `listed`: also the list of files."""
    path = version / artifacts.MANIFEST
    with contextlib.suppress(ValueError, TypeError, RecursionError):  # it is no JSON object
        manifest = read_json(path)
        if listed:
            names = [name for name in artifacts._list_files(version) if not (version / name).is_symlink()]
            manifest["files"] = {name: seal.measure(version / name) for name in names}
        path.write_text(json.dumps(seal.sealed(manifest)))
