"""The counter of scans, which other tests rely on."""

from __future__ import annotations

import duckdb
import pytest
from cases.scans import count_scans


@pytest.mark.parametrize(
    ("sql", "scans"),
    [
        ("DESCRIBE FROM given", 0),
        ("EXPLAIN FROM given", 0),
        ("SELECT count(*) FROM given", 1),
        ("SELECT sum(a) FROM given WHERE b = '7'", 1),
        ("CREATE TEMP TABLE copy AS SELECT b FROM (FROM given ORDER BY a)", 1),
        ("WITH g AS (FROM given) SELECT (SELECT count(*) FROM g), (SELECT max(a) FROM g)", 1),
        ("SELECT (SELECT count(*) FROM given), (SELECT max(a) FROM given)", 2),
        ("SELECT count(*) FROM given x JOIN given y USING (a)", 2),
    ],
)
def test_every_read_is_counted_and_nothing_else(sql: str, scans: int) -> None:
    with duckdb.connect() as cursor:
        given = count_scans(cursor, "given", "SELECT i AS a, i::VARCHAR AS b FROM range(1000) t(i)")
        cursor.execute(sql).fetchall()
        assert given.taken() == (scans, scans * 1000)
        assert given.taken() == (0, 0)
