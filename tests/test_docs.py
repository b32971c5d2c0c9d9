"""The pages under docs/ say what the code does."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_options_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_options.py"))["page"]()
    assert (DOCS / "options.md").read_text() == made, "run: python docs/make_options.py"


def test_every_option_is_explained() -> None:
    module = runpy.run_path(str(DOCS / "make_options.py"))
    from graphlearn.models.options import KgeOptions

    assert set(module["meanings"](KgeOptions)) == set(module["defaults"](KgeOptions))
