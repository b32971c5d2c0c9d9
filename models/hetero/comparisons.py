"""Comparing all nodes of a type: what it costs, and the name of the relation. Does not import torch."""

from __future__ import annotations

COMPARISONS = 50_000_000_000
"""The limit on multiplications for comparing all nodes of a type."""


def similar_name(node: str) -> str:
    """The name of the relation between similar nodes of a type."""
    return f"similar {node}"


def comparisons(rows: int, dense: int, ones: int) -> int:
    """The number of multiplications to compare all pairs of nodes: each row with all stored numbers."""
    return rows * (rows * dense + ones)
