"""Counts, sizes and durations as readable text."""

from __future__ import annotations

PLURALS = {"entity": "entities", "series": "series", "class": "classes"}

LARGE = 1e15
"""Numbers from here on are written with an exponent."""


def counted(n: int, noun: str) -> str:
    """A number and its noun: 1 row, 2,000 rows."""
    return f"{n:,} {noun if n == 1 else PLURALS.get(noun, noun + 's')}"


def number(value: float) -> str:
    """A number with four decimals below ten and one above; very small and very large values keep two digits."""
    value += 0.0  # -0.0 is 0
    if value and not 5e-5 <= abs(value) < LARGE:
        return f"{value:.2g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def tenths(value: float) -> str:
    """A number with one decimal; very large values keep two digits."""
    return number(value) if abs(value) >= LARGE else f"{round(value, 1) + 0.0:,.1f}"  # -0.0 is 0


def human_bytes(n: float) -> str:
    """1536 -> "1.5 KB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TB"


def human_count(n: float) -> str:
    """1.2e12 -> "1.2 T"."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} E"


def human_seconds(s: float) -> str:
    """95 -> "1 min 35 s"."""
    if s < 1:
        return "under 1 s"
    if s < 90:
        return f"{s:.0f} s"
    if s < 5400:
        return f"{s // 60:.0f} min {s % 60:.0f} s"
    return f"{s / 3600:.1f} h"


def duration(seconds: float) -> str:
    """A duration: 0.42 s, 12.3 s, 4 min 05 s, 3 h 07 min."""
    if not abs(seconds) < 1e12:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
