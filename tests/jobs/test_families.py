"""Every family under the contract of cases/family.py, the one of the tutorial in CONTRIBUTING.md too."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import ClassVar

import pytest
from cases.family import Ask, FamilyCase, Variant
from cases.paths import ROOT

from graphlearn.jobs.family import Family
from graphlearn.jobs.registry import families, registered

TRIPLES = """
CREATE TABLE triples AS
SELECT 'p' || (i * 7 % 60) AS head, ['knows', 'likes', 'helps'][1 + i % 3] AS relation, 'p' || (i * i % 59) AS tail,
       CASE WHEN i % 20 = 0 THEN 'test' WHEN i % 20 = 1 THEN 'valid' ELSE 'train' END AS split
FROM range(600) t(i)
"""
QUESTION = "SELECT 'p7' AS head, 'knows' AS relation"


class TestKge(FamilyCase):
    name = "complex"
    tables = TRIPLES
    inputs: ClassVar = {"triples": "SELECT head, relation, tail, split FROM triples"}
    variants: ClassVar = {
        "m": Variant(
            "dim = 8, negatives = 8, batch_size = 100, chunk_size = 50",
            (
                Ask("predict", QUESTION, {"k": "3"}, "SELECT 'nobody' AS head, 'knows' AS relation"),
                Ask("similar", "SELECT 'p7' AS key", {}, "SELECT 'nobody' AS key"),
                Ask("embeddings", None, {"of": "'relations'"}),
                Ask("evaluate"),
                Ask("evaluate", "FROM triples LIMIT 9"),
            ),
        )
    }


class TestDhan(FamilyCase):
    name = "dhan"
    tables = """
    CREATE TABLE paper AS
    SELECT 'p' || i AS id, [i % 3, 3 + i % 5] AS words, i / 7 AS x, ['a', 'b', 'c'][1 + i % 3] AS area
    FROM range(90) t(i);
    CREATE TABLE author AS SELECT i AS id, [i % 4] AS words FROM range(40) t(i);
    CREATE TABLE writes AS SELECT i % 40 AS author, 'p' || (i * 7 % 90) AS paper FROM range(380) t(i);
    CREATE TABLE about AS SELECT 'p' || i AS source, i % 6 AS hub FROM range(90) t(i);
    """
    inputs: ClassVar = {
        "paper": "SELECT id, words, x, area FROM paper",
        "author": "FROM author",
        "writes": "FROM writes",
        "subject": "FROM about",
    }
    variants: ClassVar = {
        "classes": Variant(
            "target = 'area', metapaths = {'coauthor': ['writes', '-writes']}, hidden = 8, heads = 2, hops = 1",
            (
                Ask("predict"),
                Ask("predict", "SELECT id FROM paper", {"k": "2"}, "SELECT 'nobody' AS id"),
                Ask("embeddings", None, {"of": "'author'"}),
                Ask("explain", "SELECT id FROM paper"),
                Ask("evaluate"),
            ),
        ),
        "links": Variant(
            "target = 'writes', hidden = 8, heads = 2, hops = 1",
            (
                Ask("predict", "SELECT id FROM author", {"k": "3", "exclude_known": "true"}, "SELECT 99 AS id"),
                Ask("predict", "SELECT author, paper FROM writes", {}, "SELECT 99 AS author, 'p1' AS paper"),
                Ask("explain", "SELECT id FROM author"),
            ),
            {**inputs, "paper": "SELECT id, words, x FROM paper"},
        ),
        "free": Variant(
            "hidden = 8, heads = 2, hops = 1",
            (Ask("embeddings"), Ask("evaluate")),
            {**inputs, "paper": "SELECT id, words, x, area AS label FROM paper"},
        ),
    }


class TestTutorial(FamilyCase):
    """The family of CONTRIBUTING.md, which no other file knows."""

    name = "mean"
    tables = "CREATE TABLE readings AS SELECT 'k' || i % 7 AS key, i % 7 + (i % 5) / 10 AS value FROM range(200) t(i)"
    inputs: ClassVar = {"rows": "SELECT key, value FROM readings"}
    variants: ClassVar = {"m": Variant("", (Ask("predict", "SELECT 'k3' AS key", {}, "SELECT 'nothing' AS key"),))}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def installed(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """The tutorial's code as a module, its family registered."""
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        folder = tmp_path_factory.mktemp("tutorial")
        path = folder / "mean_family.py"
        path.write_text(code, encoding="utf-8")
        spec = spec_from_file_location("mean_family", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["mean_family"] = module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.path.insert(0, str(folder))  # for the processes that tasks are sent to
        try:
            with registered(module.MeanFamily):
                yield
        finally:
            sys.path.remove(str(folder))
            del sys.modules["mean_family"]

    def test_its_code_is_short(self) -> None:
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert sum(bool(line.strip()) for line in code.splitlines()) < 80

    def test_nothing_else_knows_it(self) -> None:
        sources = [p for top in ("graphlearn", "jobs", "models", "storage") for p in Path(ROOT / top).rglob("*.py")]
        assert sources
        assert not [p for p in sources if "mean_family" in p.read_text(encoding="utf-8")]


def test_every_family_is_under_the_contract() -> None:
    cases = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, FamilyCase)]
    names = {kind.name for kind in cases if kind is not FamilyCase}
    uncovered: list[type[Family]] = [kind for kind in families() if not names & set(kind.names)]
    assert not uncovered, "each family needs a FamilyCase here"
