"""The cost of comparing all nodes of a type; needs no torch."""

from __future__ import annotations

COMPARISONS = 50_000_000_000
"""Multiplications that comparing all nodes of a type may take."""


def comparisons(rows: int, dense: int, ones: int) -> int:
    """Multiplications to compare every node with every other: each row with all stored numbers."""
    return rows * (rows * dense + ones)
