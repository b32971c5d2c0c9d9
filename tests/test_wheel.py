"""The built wheel works in a fresh environment, away from the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib.metadata, pathlib, sys
import graphlearn
assert pathlib.Path(graphlearn.__file__).is_relative_to(sys.prefix), graphlearn.__file__
for name in ("storage", "models", "jobs", "partition"):
    assert name not in sys.modules
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError(f"{name} reached the user's sys.path")
session = graphlearn.connect("kg.duckdb")
session.sql(
    "CREATE TABLE t AS SELECT 'a' || i AS head, 'next' AS relation, 'a' || (i + 1) % 40 AS tail FROM range(40) r(i)"
)
session.sql("CREATE MODEL m TYPE distmult OPTIONS (dim = 8, epochs = 2, negatives = 4) AS FROM t")
rows = session.sql("FROM predict('m', (SELECT 'a1' AS head, 'next' AS relation), k := 3)").fetchall()
assert len(rows) == 3, rows
session.close()
print("version", importlib.metadata.version("graphlearn"))
"""


def call(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, by way of the sdist, as it would be published."""
    tree = tmp_path_factory.mktemp("tree") / "graphlearn"
    shutil.copytree(
        ROOT,
        tree,
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", ".*_cache", "__pycache__"),
    )
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", out, tree, cwd=out)
    assert list(out.glob("*.tar.gz")), "an sdist too"
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "graphlearn/storage/workspace.py" in names
    assert "graphlearn/sql/parser.py" in names
    assert "graphlearn/py.typed" in names
    strangers = {name.split("/")[0] for name in names} - {"graphlearn"}
    assert all(name.endswith(".dist-info") for name in strangers), strangers


@pytest.mark.slow
def test_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", wheel, cwd=elsewhere)
    assert "version" in call(python, "-I", "-c", PROGRAM, cwd=elsewhere)
    assert "graphlearn" in call(home / "bin" / "graphlearn", "--version", cwd=elsewhere)
    assert "torch" in call(home / "bin" / "graphlearn", "doctor", cwd=elsewhere)
