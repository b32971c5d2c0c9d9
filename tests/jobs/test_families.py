"""Every family meets the contract in cases/family.py, including the one in the tutorial in CONTRIBUTING.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cases.family import Ask, FamilyCase, Variant
from cases.paths import ROOT
from click.testing import CliRunner

from graphlearn.cli import main
from graphlearn.errors import ArtifactError, GraphLearnError, InputError, UserError
from graphlearn.events import silent
from graphlearn.jobs.family import Family
from graphlearn.jobs.functions import ModelReader
from graphlearn.jobs.registry import families, registered
from graphlearn.session import Session, connect

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


class TestNet3(FamilyCase):
    name = "net3"
    tables = """
        CREATE TABLE readings AS
        SELECT DATE '2024-01-01' + t::INTEGER AS ts, 's' || s AS site, 'v' || v AS variable,
               CASE WHEN (t * 7 + s * 3 + v) % 11 > 0 THEN 10 * s + v + sin(t * 0.7 + s) END AS value
        FROM range(60) a(t), range(4) b(s), range(2) c(v);
        CREATE TABLE roads AS SELECT 's' || i AS source, 's' || (i + 1) % 4 AS target FROM range(4) t(i);
    """
    inputs: ClassVar = {"series": "FROM readings", "site": "FROM roads"}
    variants: ClassVar = {
        "m": Variant(
            "horizon = 2, window = 3, dim = 3, core_limit = 3, learnt_rank = 2, graphs = {'variable': 'pearson'}",
            (
                Ask("forecast", None, {"horizon": "3", "at": "DATE '2024-02-20'", "level": "0.8"}),
                Ask("evaluate"),
            ),
        ),
        "filled": Variant(
            "task = 'recover', dim = 3, core_limit = 3, learnt_rank = 2",
            (Ask("recover", None, {"every": "true"}), Ask("evaluate")),
            {"series": "FROM readings"},
        ),
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


def tutorial_code() -> str:
    """The Python of "Write your own family"."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(code)


@contextmanager
def tutorial(folder: Path) -> Iterator[None]:
    """The tutorial's code as an installed module with its family registered."""
    path = folder / "mean_family.py"
    path.write_text(tutorial_code(), encoding="utf-8")
    spec = spec_from_file_location("mean_family", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["mean_family"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.insert(0, str(folder))  # for the processes in which tasks run
    try:
        with registered(module.MeanFamily):
            yield
    finally:
        sys.path.remove(str(folder))
        del sys.modules["mean_family"]


class TestTutorial(FamilyCase):
    """The family in CONTRIBUTING.md, which no other file mentions."""

    name = "mean"
    tables = "CREATE TABLE readings AS SELECT 'k' || i % 7 AS key, i % 7 + (i % 5) / 10 AS value FROM range(200) t(i)"
    inputs: ClassVar = {"rows": "SELECT key, value FROM readings"}
    variants: ClassVar = {"m": Variant("", (Ask("predict", "SELECT 'k3' AS key", {}, "SELECT 'nothing' AS key"),))}

    def test_it_takes_a_key_in_place_of_a_relation(self, trained: Session) -> None:
        assert rows(trained, "FROM predict('m', 'k3')") == rows(trained, "FROM predict('m', (SELECT 'k3' AS key))")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def installed(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """The tutorial's family, registered."""
        with tutorial(tmp_path_factory.mktemp("tutorial")):
            yield

    def test_an_error_in_its_answer_names_its_package(self, trained: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        predictor = ModelReader(trained.workspace.folder).load("m")

        def broken(*_: object) -> Iterator[Any]:
            yield from ()
            raise KeyError("missing")

        monkeypatch.setattr(type(predictor), "answer", broken)
        rows(trained, "SELECT 1")
        with pytest.raises(GraphLearnError, match=r"TYPE mean \(package mean_family\) failed: KeyError") as caught:
            trained.sql("CREATE TABLE answers AS FROM predict('m', 'k3')")
        assert caught.value.help == "report this to the authors of mean_family"

    def test_an_error_in_its_question_is_the_users(self, trained: Session) -> None:
        with pytest.raises(GraphLearnError) as caught:
            trained.sql(
                "CREATE TABLE answers AS FROM predict('m', (SELECT error('stop: ' || i) AS key FROM range(3) t(i)))"
            )
        assert "stop: 0" in caught.value.message
        assert "package" not in caught.value.message

    def test_it_is_not_trained_on_nothing(self, tmp_path: Path) -> None:
        with self.open(tmp_path) as session:
            session.connection.execute("DELETE FROM readings")
            with pytest.raises(InputError, match="the query has no rows"):
                session.sql(self.statement("m"))
            assert rows(session, "FROM runs") == []

    def test_its_code_is_short(self) -> None:
        assert sum(bool(line.strip()) for line in tutorial_code().splitlines()) < 80

    def test_no_other_file_mentions_it(self) -> None:
        sources = [p for top in ("graphlearn", "jobs", "models", "storage") for p in Path(ROOT / top).rglob("*.py")]
        assert sources
        assert not [p for p in sources if "mean_family" in p.read_text(encoding="utf-8")]


def test_a_version_of_a_family_that_is_not_installed(tmp_path: Path) -> None:
    with tutorial(tmp_path):
        case = TestTutorial()
        with case.open(tmp_path) as session:
            session.sql(case.statement("m"))
    database = str(tmp_path / "kg.duckdb")
    with connect(database, emit=silent) as session:
        assert rows(session, "SELECT model, family, damage FROM models") == [("m", "mean", None)]
        assert len(rows(session, "FROM training_info")) > 0
        for call in ("FROM predict('m', (SELECT 'k3' AS key))", "FROM evaluate('m')"):
            with pytest.raises(ArtifactError, match='model "m" is of type mean, which is not installed') as caught:
                session.sql(call)
            assert caught.value.help == "install the package that provides TYPE mean, or remove the model: DROP MODEL m"
        with pytest.raises(UserError, match='there is no model type "mean"'):
            session.sql(case.statement("m"))
    for command in ("models", "runs"):
        assert CliRunner().invoke(main, [command, "--workspace", database]).exit_code == 0
    shown = CliRunner().invoke(main, ["show", "m", "--workspace", database])
    assert shown.exit_code == 2
    assert "which is not installed" in shown.output
    with connect(database, emit=silent) as session:
        session.sql("DROP MODEL m")
        assert rows(session, "FROM models") == []


BROKEN = {
    "import nothing_of_that_name": "cannot be used: ModuleNotFoundError: No module named 'nothing_of_that_name'",
    "class Half: pass": "cannot be used: broken_family:Half is not a Family",
    "from graphlearn.plugin import Family\nclass Half(Family): pass": "cannot be used: it does not define load and",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_package_that_is_broken_only_concerns_its_own_family(tmp_path: Path, code: str) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[graphlearn.families]\nhalf = broken_family:Half\n")
    (tmp_path / "broken_family.py").write_text(code)
    program = """
from pathlib import Path
import graphlearn
from graphlearn.doctor import diagnose
with graphlearn.connect() as session:
    print(session.sql("SELECT count(*) FROM models").fetchall())
    print(diagnose(Path("kg.duckdb"))["broken"])
    session.sql("EXPLAIN CREATE MODEL m TYPE complex AS SELECT 'a' AS head, 'r' AS relation, 'b' AS tail")
    session.sql("CREATE MODEL m TYPE half AS SELECT 1 AS key")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    counted, diagnosed = done.stdout.splitlines()
    assert counted == "[(0,)]"
    assert f"the model family half of package broken {BROKEN[code]}"[:60] in diagnosed
    assert f"the model family half of package broken {BROKEN[code]}" in done.stderr
    assert "upgrade the package, or uninstall it" in done.stderr


def rows(session: Session, sql: str) -> list[Any]:
    return session.sql(sql).fetchall()  # type: ignore[union-attr]


def test_every_family_is_under_the_contract() -> None:
    cases = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, FamilyCase)]
    names = {kind.name for kind in cases if kind is not FamilyCase}
    uncovered: list[type[Family]] = [kind for kind in families() if not names & set(kind.names)]
    assert not uncovered, "each family needs a FamilyCase here"
