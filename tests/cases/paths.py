"""Paths for tests, independent of the folder that a test file is in."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1].resolve()
ROOT = TESTS.parent
FIXTURES = TESTS / "fixtures"
DATA = ROOT.parent / "shared" / "data"
"""Real data sets, available on some machines only."""
