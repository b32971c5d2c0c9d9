"""Where the tests find things, whatever folder they lie in."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1].resolve()
ROOT = TESTS.parent
FIXTURES = TESTS / "fixtures"
DATA = ROOT.parent / "shared" / "data"
"""Real data sets, present on some machines only."""
