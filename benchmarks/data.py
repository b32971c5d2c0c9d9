"""Data sets as id triples, and generated graphs."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import numpy as np

from graphlearn.events import silent
from graphlearn.storage.triples.ingest import EncodedTriples, encode_triples
from graphlearn.types import Triples

FOLDER = Path(os.environ.get("GRAPHLEARN_DATA", "../shared/data"))


def path(name: str) -> Path:
    """The Parquet file of a knowledge graph, in the folder that GRAPHLEARN_DATA names."""
    found = FOLDER / "kg" / f"{name}.parquet"
    if not found.exists():
        raise SystemExit(f"{found} does not exist; set GRAPHLEARN_DATA to the folder that contains kg/{name}.parquet")
    return found


def load(name: str) -> EncodedTriples:
    """The graph as ids and splits."""
    with duckdb.connect() as connection:
        return encode_triples(connection, f"FROM '{path(name)}'", emit=silent)


def generated(n: int, entities: int, relations: int, seed: int = 0) -> Triples:
    """Triples whose heads and tails follow a power law, as in real graphs."""
    rng = np.random.default_rng(seed)

    def ends() -> np.ndarray:
        return np.minimum((entities * rng.random(n) ** 3).astype(np.int32), entities - 1)

    return Triples(ends(), rng.integers(0, relations, n, dtype=np.int32), ends())


def write_generated(target: Path, n: int, entities: int, relations: int) -> None:
    """A generated graph with string keys, as Parquet."""
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT 'entity/' || (pow(random(), 3) * {entities})::INT AS head, "
            f"'relation/' || (random() * {relations})::INT AS relation, "
            f"'entity/' || (pow(random(), 3) * {entities})::INT AS tail FROM range({n})) "
            f"TO '{target}' (FORMAT parquet)"
        )
