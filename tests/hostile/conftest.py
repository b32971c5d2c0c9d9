"""Models to tamper with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.stored_models import Bench


@pytest.fixture(scope="package")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A workspace with a model of every kind."""
    bench = Bench(tmp_path_factory.mktemp("models"))
    yield bench
    bench.session.close()


@pytest.fixture
def bench(every: Bench, tmp_path: Path) -> Iterator[Bench]:
    """The workspace as it was made. Nothing may appear in the current folder or in the workspace."""
    every.restore()
    before = Path.cwd()
    os.chdir(tmp_path)
    yield every
    os.chdir(before)
    assert list(tmp_path.iterdir()) == []
    home = every.database.parent
    assert {path.name for path in home.iterdir()} <= {"kg.duckdb", "kg.duckdb.wal", "kg.graphlearn", "intact"}
