"""The example's generator: the facts it extracts from a source tree are correct."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
from cases.paths import ROOT

SCRIPT = ROOT / "examples" / "python_stdlib.py"

SHAPES = '''
"""Shapes."""
import json as j
from . import errors
from .errors import ShapeError, oops as complain
from os import path
import time

class Base:
    def area(self): return 0
    def show(self, out=None): print(self.area())

class Square(Base):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
    def area(self):
        if self.side < 0:
            raise ShapeError("negative")
        return self.side ** 2
    @property
    def name(self): return "square"
    @staticmethod
    def unit(size): return Square(size)

def total(shapes, *, verbose=False):
    first = Square(1)
    first.show()
    try:
        j.dumps(shapes)
        time.sleep(1)
        path.join("a", "b")
    except (ShapeError, KeyError):
        complain()
    def nested():
        errors.oops()
        len(shapes)
    shapes.append(nested)
    len = None
    return sorted(shapes)

error = ValueError
def fail(): raise error("x")
'''
ERRORS = """
class ShapeError(Exception): pass
def oops(): pass
"""
PACKAGE = """
from .shapes import Square, total
from .shapes import *
"""
USER = """
import geo
from geo import Square as Sq
def main():
    geo.total([Sq(2)])
    Sq.unit(3)
    geo.shapes.fail()
"""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("python_stdlib_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def triples(generator: ModuleType, tmp_path: Path) -> set[tuple[str, str, str]]:
    files = {
        "geo/__init__": PACKAGE,
        "geo/shapes": SHAPES,
        "geo/errors": ERRORS,
        "user": USER,
        "test/noise": "import x",
    }
    for name, text in files.items():
        (tmp_path / name).with_suffix(".py").parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".py").write_text(text)
    (tmp_path / "broken.py").write_text("def (:")
    library = generator.Library(tmp_path)
    assert [Path(path).name for path in library.unreadable] == ["broken.py"]
    found = library.triples()
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize(
    "expected",
    [
        ("geo.shapes", "in_package", "geo"),
        ("geo.shapes", "imports", "json"),
        ("geo.shapes", "imports", "geo.errors"),
        ("geo.shapes", "imports_name", "geo.errors.ShapeError"),
        ("geo", "imports_name", "geo.shapes.Square"),
        ("user", "imports", "geo"),
        ("user", "imports_name", "geo.shapes.Square"),
        ("geo.shapes", "defines_class", "geo.shapes.Square"),
        ("geo.shapes", "defines_function", "geo.shapes.total"),
        ("geo.shapes.Square", "has_method", "geo.shapes.Square.area"),
        ("geo.shapes.Square", "inherits", "geo.shapes.Base"),
        ("geo.shapes.Square", "implements", "__init__"),
        ("geo.errors.ShapeError", "inherits", "builtins.Exception"),
        ("geo.shapes.Square.area", "overrides", "geo.shapes.Base.area"),
        ("geo.shapes.Square.area", "raises", "geo.errors.ShapeError"),
        ("geo.shapes.Square.name", "decorated_by", "builtins.property"),
        ("geo.shapes.Square.__init__", "accepts", "builtins.int"),
        ("geo.shapes.Square.unit", "has_parameter", "size="),
        ("geo.shapes.Square.unit", "instantiates", "geo.shapes.Square"),
        ("geo.shapes.Base.show", "calls", "geo.shapes.Base.area"),
        ("geo.shapes.Base.show", "calls", "builtins.print"),
        ("geo.shapes.total", "has_parameter", "verbose="),
        ("geo.shapes.total", "instantiates", "geo.shapes.Square"),
        ("geo.shapes.total", "calls", "geo.shapes.Base.show"),
        ("geo.shapes.total", "calls", "time.sleep"),
        ("geo.shapes.total", "calls", "geo.errors.oops"),
        ("geo.shapes.total", "calls", "builtins.sorted"),
        ("geo.shapes.total", "catches", "geo.errors.ShapeError"),
        ("geo.shapes.total", "catches", "builtins.KeyError"),
        ("geo.shapes.fail", "raises", "builtins.ValueError"),
        ("user.main", "calls", "geo.shapes.total"),
        ("user.main", "calls", "geo.shapes.Square.unit"),
        ("user.main", "calls", "geo.shapes.fail"),
    ],
)
def test_says(triples: set[tuple[str, str, str]], expected: tuple[str, str, str]) -> None:
    head, relation, _ = expected
    assert expected in triples, sorted(t for t in triples if t[:2] == (head, relation))


def test_does_not_guess(triples: set[tuple[str, str, str]]) -> None:
    assert not {t for t in triples if "nested" in t[2]}, "a nested function has no name to look up"
    assert ("geo.shapes.total", "calls", "builtins.len") not in triples, "`len` is a local name there"
    assert not {t for t in triples if t[1] == "calls" and t[2].endswith("append")}, "the type of `shapes` is unknown"
    assert not {t for t in triples if t[0].startswith("test")}, "tests are noise"
    assert not {t for t in triples if t[2] in ("self=", "cls=", "builtins.object")}
    assert ("geo.shapes.Square.area", "instantiates", "geo.errors.ShapeError") not in triples, "raised, said once"


def test_the_command_writes_parquet(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("")
    (tmp_path / "toy" / "a.py").write_text("import toy\ndef f(): return int('1')\n")
    out = tmp_path / "deep" / "toy.parquet"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), "--root", str(tmp_path / "toy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "triples of" in done.stdout
    table = pq.read_table(out)
    assert table.column_names == ["head", "relation", "tail"]
    rows = set(zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True))
    assert ("toy.a.f", "instantiates", "builtins.int") in rows
    assert ("toy.a", "in_package", "toy") in rows


def test_the_command_refuses_a_missing_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "x.parquet"), "--root", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
