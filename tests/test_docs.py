"""The pages in docs/ agree with the code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import graphlearn
from graphlearn.events import silent

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_options_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_options.py"))["page"]()
    assert (DOCS / "options.md").read_text() == made, "run: python docs/make_options.py"


def test_every_option_is_explained() -> None:
    module = runpy.run_path(str(DOCS / "make_options.py"))
    from graphlearn.models.kge.options import KgeOptions

    assert set(module["meanings"](KgeOptions)) == set(module["defaults"](KgeOptions))


def test_the_example_of_variables_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "job-language.md").read_text()
    (example,) = re.findall(r"Suppose that `likes.sql` contains:\n\n```sql\n(.*?)```", text, re.DOTALL)
    (tmp_path / "likes.sql").write_text(example)
    with graphlearn.connect(emit=silent) as session:
        facts = (
            "SELECT 'e' || i AS head, 'knows' AS relation, 'e' || i // 2 AS tail, i % 5 AS times FROM range(99) t(i)"
        )
        session.sql(f"COPY ({facts}) TO 'other facts.parquet'")
        overrides = {"path": "other facts.parquet", "at_least": "3", "dim": "4", "likes.epochs": "1"}
        (made,) = session.run_file("likes.sql", overrides=overrides)
    assert made.counts["train"] < 40
    assert (tmp_path / "other facts.parquet.answers.csv").exists()
