"""A workspace with a small graph, and requests to train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.storage.workspace import Workspace

FAMILY_TREE = """
CREATE TABLE triples AS
SELECT 'p' || (i * 7 % 60) AS head, ['knows', 'likes', 'helps'][1 + i % 3] AS relation, 'p' || (i * i % 59) AS tail,
       CASE WHEN i % 20 = 0 THEN 'test' WHEN i % 20 = 1 THEN 'valid' ELSE 'train' END AS split
FROM range(1200) t(i)
"""


def workspace(path: Path) -> Workspace:
    """A new workspace with a table `triples` of about 600 distinct triples."""
    opened = Workspace.open(path / "kg.duckdb")
    opened.connection.execute(FAMILY_TREE)
    return opened


def request(kind: str = "complex", name: str = "m", sql: str = "FROM triples", **options: Any) -> ModelRequest:
    """A request with small options."""
    given: dict[str, Any] = {"dim": 8, "epochs": 3, "negatives": 8, "batch_size": 100, "chunk_size": 50}
    made = family(kind).options_type(**(given | options))
    return ModelRequest(name=name, family=kind, options=made, inputs={"triples": sql}, statement=f"CREATE MODEL {name}")
