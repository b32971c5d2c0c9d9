"""The built wheel works in a fresh environment, away from the source tree, alone and with each extra."""

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


GRAPH = """
import numpy, sys
import graphlearn
session = graphlearn.connect()
roles = {
    "thing": "SELECT 't' || i AS id, i / 7 AS x, [i % 3] AS words, i % 2 AS kind FROM range(60) r(i)",
    "near": "SELECT 't' || i AS source, 't' || (i + 4) % 60 AS target, 1 + i % 2 AS weight FROM range(60) r(i)",
    "day": "SELECT 't' || i AS source, i % 6 AS hub FROM range(60) r(i)",
}
inputs = ", ".join(f"{role} AS ({query})" for role, query in roles.items())
session.sql(f"CREATE MODEL m TYPE dhan OPTIONS (target = 'kind', hidden = 8, heads = 2, epochs = 1) AS ({inputs})")
things = graphlearn.to_networkx(session, "m")
edges = things.edges(keys=True, data=True)
near = sorted((int(a[1][1:]), int(b[1][1:]), d["weight"]) for a, b, name, d in edges if name == "near")
"""
SMOKE = {
    "plot": """
import pathlib, subprocess, sys
pathlib.Path("job.sql").write_text(
    "CREATE OR REPLACE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 2) AS "
    "SELECT i AS head, 'r' AS relation, (i * 7 + 1) % 12 AS tail FROM range(12) r(i);"
)
from click.testing import CliRunner
from graphlearn.cli import main
done = CliRunner().invoke(main, ["run", "job.sql", "--force"], catch_exceptions=False)
assert done.exit_code == 0, done.stderr
(picture,) = pathlib.Path("kg.graphlearn").glob("runs/*/report.png")
assert picture.read_bytes().startswith(b"\\x89PNG")
assert "picture of m" in done.stderr
""",
    "tensorboard": """
import pathlib
pathlib.Path("job.sql").write_text(
    "CREATE OR REPLACE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 2) AS "
    "SELECT i AS head, 'r' AS relation, (i * 7 + 1) % 12 AS tail FROM range(12) r(i);"
)
from click.testing import CliRunner
from graphlearn.cli import main
assert CliRunner().invoke(main, ["run", "job.sql", "--force"], catch_exceptions=False).exit_code == 0
(folder,) = pathlib.Path("kg.graphlearn").glob("runs/*/tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
board = EventAccumulator(str(folder))
board.Reload()
assert board.Tags()["scalars"], board.Tags()
""",
    "pyg": GRAPH
    + """
import torch
data = graphlearn.to_pyg(session, "m")
assert data["thing"].num_nodes == 60 and data["day"].num_nodes == 6
assert data["thing", "near", "thing"].edge_index.shape == (2, 60)
from torch_geometric.nn import SAGEConv
index = data["thing", "near", "thing"].edge_index
assert SAGEConv(data["thing"].x.shape[1], 3)(data["thing"].x, index).shape == (60, 3)
roles = graphlearn.from_pyg(session, data)
assert session.sql(roles["near"]).fetchall()
""",
    "dgl": GRAPH
    + """
graph = graphlearn.to_dgl(session, "m")
import dgl
assert dgl.__version__ == "1.1.3"
assert {kind: graph.num_nodes(kind) for kind in graph.ntypes} == {"thing": 60, "day": 6}
assert set(graph.canonical_etypes) == {("thing", "near", "thing"), ("thing", "day", "day")}
ids = graphlearn.exports._tables(session, "m", None, ()).nodes["thing"].keys.dictionary.keys.to_pylist()
a, b = graph.edges(etype="near")
weights = graph.edges["near"].data["weight"].tolist()
found = sorted((int(ids[x][1:]), int(ids[y][1:]), w) for x, y, w in zip(a.tolist(), b.tolist(), weights))
assert found == near, (found[:3], near[:3])
thing = graph.nodes["thing"].data
assert thing["feat"].shape == (60, 4) and thing["y"].bincount().tolist() == [30, 30]
assert int(thing["train_mask"].sum() + thing["val_mask"].sum() + thing["test_mask"].sum()) == 60
graph.multi_update_all({"near": (dgl.function.u_mul_e("feat", "weight", "m"), dgl.function.sum("m", "h"))}, "sum")
weighted = numpy.zeros((60, 4), numpy.float32)
numpy.add.at(weighted, b.numpy(), thing["feat"].numpy()[a.numpy()] * numpy.array(weights)[:, None])
numpy.testing.assert_allclose(graph.nodes["thing"].data["h"].numpy(), weighted, rtol=1e-5)
""",
    "ray": "import ray",
}
"""Extra -> what works with it."""
DIAGNOSIS = """
import pathlib
from graphlearn.doctor import diagnose
assert diagnose(pathlib.Path("kg.duckdb"))["optional"]["{}"] is not None
"""
MODULES = {"pyg": "torch_geometric", "plot": "matplotlib"}


def run_in(cwd: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HOME": str(cwd), "MPLBACKEND": "Agg"}
    return subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def call(*command: str | Path, cwd: Path) -> str:
    done = run_in(cwd, *command)
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


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it requires."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=True)
    call(home / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=home)
    return home


@pytest.mark.slow
def test_works_in_a_fresh_environment(fresh: Path, tmp_path: Path) -> None:
    assert "version" in call(fresh / "bin" / "python", "-I", "-c", PROGRAM, cwd=tmp_path)
    assert "graphlearn" in call(fresh / "bin" / "graphlearn", "--version", cwd=tmp_path)
    assert "torch" in call(fresh / "bin" / "graphlearn", "doctor", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("extra", SMOKE)
def test_an_extra_in_a_fresh_environment(extra: str, fresh: Path, wheel: Path, tmp_path: Path) -> None:
    if extra == "dgl" and sys.version_info >= (3, 12):
        pytest.skip("DGL 1.1.3 has no wheels for this Python")
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    packages = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site, borrowed = (Path(call(p / "bin" / "python", "-c", packages, cwd=tmp_path).strip()) for p in (home, fresh))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")  # torch and the rest: only the extra is installed
    module = MODULES.get(extra, extra)
    assert run_in(tmp_path, python, "-c", f"import {module}").returncode != 0, "it is there before it is installed"
    pip = [fresh / "bin" / "python", "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    call(*pip, f"graphlearn[{extra}] @ {wheel.as_uri()}", cwd=tmp_path)
    call(python, "-I", "-c", SMOKE[extra] + DIAGNOSIS.format(module), cwd=tmp_path)
