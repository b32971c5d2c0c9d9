"""The examples of time series: the generator of the small one works, and all jobs can start."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
from cases import paths
from cases.paths import ROOT

import graphlearn
from graphlearn.events import silent
from graphlearn.jobs.request import ModelResult

EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "us_income.py"
DATA = paths.DATA / "series"
STATES = [f"S{i}" for i in range(4)]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("us_income_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files like libpysal's, of four states in a row."""
    years = list(range(1940, 2010))
    lines = [",".join(['"Name"', '"STATE_FIPS"', *map(str, years)])]
    for i, name in enumerate(STATES):
        values = [str(round(300 * 1.06 ** (y - 1940) + (i + 1) * (y % 7))) for y in years]
        lines.append(",".join([f'"{name}"', str(i), *values]))
    (tmp_path / "usjoin.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "states48.gal").write_text("4\n0 1\n1\n1 2\n0 2\n2 2\n1 3\n3 1\n2\n")
    return tmp_path


def write(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_what_the_job_reads(folder: Path) -> None:
    out = folder / "deep" / "out"
    done = write(out, "--data", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 states, 1940 to 2009: 280 readings, 6 borders")
    income, borders = (pq.read_table(out / f"{name}.parquet") for name in ("income", "borders"))
    assert income.column_names == ["year", "state", "income"]
    assert income.slice(0, 1).to_pylist() == [{"year": 1940, "state": "S0", "income": 301.0}]
    pairs = set(zip(*(borders.column(name).to_pylist() for name in ("source", "target")), strict=True))
    assert pairs == {("S0", "S1"), ("S1", "S0"), ("S1", "S2"), ("S2", "S1"), ("S2", "S3"), ("S3", "S2")}
    with graphlearn.connect(emit=silent) as session:
        overrides = {"path": str(out), "epochs": "1", "dim": "2"}
        (made,) = session.run_file(EXAMPLES / "us_income.sql", overrides=overrides)
    assert isinstance(made, ModelResult)
    assert made.metrics["rmse"] > 0


def test_damaged_borders_are_refused(generator: ModuleType, folder: Path) -> None:
    (folder / "states48.gal").write_text("4\n0 2\n1\n1 1\n0\n2 0\n\n3 0\n\n")
    with pytest.raises((SystemExit, ValueError)):
        generator.read_borders(folder / "states48.gal", STATES)
    with pytest.raises(SystemExit, match="does not have 3 states"):
        generator.read_borders(folder / "states48.gal", STATES[:3])


def test_what_libpysal_ships(generator: ModuleType, tmp_path: Path) -> None:
    if generator.shipped() is None:
        pytest.skip("libpysal is not installed: pip install --no-deps libpysal")
    assert write(tmp_path).stdout.startswith("48 states, 1929 to 2009: 3,888 readings, 214 borders")


def test_a_missing_package_is_named(generator: ModuleType, tmp_path: Path) -> None:
    if generator.shipped() is not None:
        pytest.skip("libpysal is installed")
    done = write(tmp_path)
    assert done.returncode == 2
    assert "pip install --no-deps libpysal" in done.stderr


@pytest.mark.parametrize("name", ["climate", "los_loop"])
def test_jobs_over_shared_data_can_start(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the data of examples/{name}.sql is not in {DATA}")
    with graphlearn.connect(emit=silent) as session:
        planned = session.plan_file(EXAMPLES / f"{name}.sql", overrides={"path": str(DATA / name)})
    assert [p.family for p in planned] == ["net3"] * len(planned)
    assert planned[0].name == name
