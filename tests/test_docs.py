"""The pages in docs/ and the README agree with the code: every block of SQL, Python and commands is run."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from cases.paths import ROOT
from click.testing import CliRunner, Result

import graphlearn
from graphlearn.cli import main
from graphlearn.events import silent

DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
BLOCKS = [
    (page.name, language, code)
    for page in PAGES
    for language, code in re.findall(
        r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
]
GRAMMAR = "CREATE [OR REPLACE] MODEL"
"""The beginning of the block that shows the grammar."""
TABLES = """
    CREATE TABLE people AS SELECT 'person ' || i AS person, ['buys', 'likes'][1 + i % 2] AS verb,
        ['tea', 'milk', 'jam', 'rye'][1 + i % 4] AS thing FROM range(60) t(i) UNION SELECT 'Ada', 'buys', 'tea';
    COPY people TO 'facts.parquet';
    COPY people TO 'other.parquet';
    CREATE TABLE facts AS SELECT 'drug ' || i AS head, 'treats' AS relation, 'illness ' || i % 9 AS tail
        FROM range(60) t(i)
        UNION SELECT 'aspirin', 'treats', 'illness 1';
    COPY facts TO 'data/kg.parquet';
    COPY (SELECT head, relation FROM facts) TO 'questions.parquet';
    CREATE TABLE readings AS SELECT TIMESTAMP '2024-04-28' + to_hours(t::INTEGER) AS ts, s AS site, v AS variable,
        sin(t / 4) + s AS value FROM range(120) a(t), range(3) b(s), (VALUES ('NO2'), ('O3')) c(v);
    COPY readings TO 'readings.parquet';
    CREATE TABLE neighbours AS SELECT s AS source, (s + 1) % 3 AS target, 1.0 AS weight FROM range(3) b(s);
    COPY neighbours TO 'neighbours.parquet';
    CREATE TABLE movie AS SELECT i AS movie, CASE i WHEN 1 THEN 'Avatar' ELSE 'Film ' || i END AS title,
        'space|war ' || i % 5 AS plot_keywords, ['drama', 'comedy'][1 + i % 2] AS genre,
        ['train', 'train', 'valid', 'test'][1 + i % 4] AS split FROM range(60) t(i);
    CREATE TABLE directs AS SELECT movie, movie % 9 AS director FROM movie;
    CREATE TABLE plays AS SELECT movie, movie % 7 AS actor FROM movie;
    CREATE TABLE paper AS SELECT i AS paper, [i % 5, 7] AS words, ['db', 'ml'][1 + i % 2] AS subject_area,
        ['train', 'train', 'valid', 'test'][1 + i % 4] AS split FROM range(60) t(i);
    CREATE TABLE author AS SELECT i AS author, [i % 3] AS words FROM range(9) t(i);
    CREATE TABLE writes AS SELECT paper % 9 AS author, paper FROM paper;
    CREATE TABLE about AS SELECT paper, paper % 4 AS subject FROM paper;
"""
SHORT = {"epochs": 1}
MEDICAL = "CREATE MODEL kg.medical TYPE distmult OPTIONS (dim = 4, epochs = 1) AS FROM facts"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files and tables that the pages assume."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with graphlearn.connect("kg.duckdb", emit=silent) as session:
        session.sql(TABLES)
    return tmp_path


def block(beginning: str) -> str:
    """The only block that begins like this."""
    (found,) = (code for _, _, code in BLOCKS if code.startswith(beginning))
    return found


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done


def blocks_of(*languages: str) -> list[str]:
    return [code for _, language, code in BLOCKS if language in languages and not code.startswith(GRAMMAR)]


@pytest.mark.parametrize("code", blocks_of("sql"), ids=lambda code: code.strip().splitlines()[0])
def test_sql_runs(folder: Path, code: str) -> None:
    with graphlearn.connect("kg.duckdb", emit=silent) as session:
        if "kg.medical" in code:
            session.sql(MEDICAL)
        if "at_least" in code:
            session.sql("COPY (SELECT *, 3 AS times FROM facts) TO 'facts.parquet'")
        (folder / "job.sql").write_text(code)
        session.run_file("job.sql", overrides=SHORT if "CREATE" in code else {})


@pytest.mark.parametrize("code", blocks_of("python"), ids=lambda code: code.strip().splitlines()[-1].strip()[:40])
def test_python_runs_without_pandas(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    exec(compile(code, "<page>", "exec"), {})


def commands() -> list[str]:
    """The commands of graphlearn in the blocks without a language."""
    lines = [line for _, language, code in BLOCKS if language in ("", "sh") for line in code.splitlines()]
    found = [re.split(r"\s{2,}", line.removeprefix(".venv/bin/"))[0] for line in lines]
    return [line for line in found if re.match(r"graphlearn \w+", line) and "…" not in line]


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str) -> None:
    name, *arguments = shlex.split(command.partition(" > ")[0].partition(" < ")[0], comments=True)[1:]
    main.commands[name].make_context(name, arguments)


def test_the_commands_of_the_readme_work(folder: Path) -> None:
    (folder / "job.sql").write_text(block("SET VARIABLE path = 'facts.parquet';\n\nCREATE OR REPLACE MODEL likes\n"))
    run("plan", "job.sql")
    run("run", "job.sql", "--set", "epochs=1", "--set", "dim=4")
    assert (folder / "suggestions.parquet").exists()
    run("run", "job.sql", "--set", "path=other.parquet", "--set", "dim=6", "--set", "epochs=1")
    assert "likes" in run("models").stdout
    assert "dim = 6" in run("show", "likes").stdout
    run("query", "FROM similar('likes', 'Ada', k := 5)")


def test_the_mistake_in_the_readme_is_reported_like_this(folder: Path) -> None:
    expected = block('error: Referenced column "vreb"')
    job = block("SET VARIABLE path = 'facts.parquet';\n\nCREATE OR REPLACE MODEL likes\n").replace("verb AS", "vreb AS")
    (folder / "job.sql").write_text(job)
    done = CliRunner().invoke(main, ["run", "job.sql"])
    assert (done.exit_code, done.stderr) == (2, expected)


def test_the_page_of_options_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_options.py"))["page"]()
    assert (DOCS / "options.md").read_text() == made, "run: python docs/make_options.py"


def test_every_option_is_explained() -> None:
    module = runpy.run_path(str(DOCS / "make_options.py"))
    from graphlearn.models.kge.options import KgeOptions

    assert set(module["meanings"](KgeOptions)) == set(module["defaults"](KgeOptions))


def test_the_example_of_variables_works(folder: Path) -> None:
    (folder / "likes.sql").write_text(block("SET VARIABLE path = 'facts.parquet';\nSET VARIABLE at_least = 1;"))
    with graphlearn.connect(emit=silent) as session:
        facts = (
            "SELECT 'e' || i AS head, 'knows' AS relation, 'e' || i // 2 AS tail, i % 5 AS times FROM range(99) t(i)"
        )
        session.sql(f"COPY ({facts}) TO 'other facts.parquet'")
        overrides = {"path": "other facts.parquet", "at_least": "3", "dim": "4", "likes.epochs": "1"}
        (made,) = session.run_file("likes.sql", overrides=overrides)
    assert made.counts["train"] < 40
    assert (folder / "other facts.parquet.answers.csv").exists()
