"""Rules of length 1 and 2 mined from triples in DuckDB, after AnyBURL (Meilicke et al. 2019).

    path rules        r(X, Y) <- p(X, Y)                   r(X, Y) <- p(X, Z), q(Z, Y)
    constant rules    r(X, c) <- p(X, d)                   r(X, c) <- p(X, Z)

p and q are *directed* relations: a relation id, or a relation id plus R for its inverse. A rule's body counts the
distinct pairs (X, Y), or X of a constant rule, for which its right side holds in the training triples; its support
counts those for which the left side holds too. Self-loops are ignored, and X, Y and Z are distinct.

Hubs make joins large. Above a number of rows, triples, starts of paths and attributes of hubs are sampled, and counts
are scaled up, so that each count is unbiased (Horvitz and Thompson 1952); `seen` is what the support was scaled up
from. Rates are powers of two, so that sums are exact and do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graphlearn.processors import default_threads
from graphlearn.storage.interrupt import interruptible
from graphlearn.types import DoubleArray, IdArray, Triples

MEMORY = 1 << 30
"""Bytes that DuckDB may use."""
CHUNK = 8_000_000
"""Rows of a join at once, to stay below that."""
SUPPORT_ROWS, CONSTANT_ROWS = 4, 15
"""How many rows the joins that count support, and pairs of attributes, may have for each row of the join of paths."""
STARTS = 64
"""Paths of a rule are followed from about this many entities at least."""


@dataclass(frozen=True)
class PathRules:
    """heads(X, Y) <- first(X, Z), second(Z, Y), or heads(X, Y) <- first(X, Y) where second is -1. shape: [n] each

    heads are relations; first and second are directed.
    """

    heads: IdArray
    first: IdArray
    second: IdArray
    support: DoubleArray
    body: DoubleArray
    seen: DoubleArray

    def __len__(self) -> int:
        return len(self.heads)


@dataclass(frozen=True)
class ConstantRules:
    """heads(X, constants) <- relations(X, values), where a value of -1 stands for any entity. shape: [n] each

    heads and relations are directed.
    """

    heads: IdArray
    constants: IdArray
    relations: IdArray
    values: IdArray
    support: DoubleArray
    body: DoubleArray
    seen: DoubleArray

    def __len__(self) -> int:
        return len(self.heads)


@dataclass(frozen=True)
class Rules:
    """Mined rules, in an order that depends on the triples alone. `cuts`: what was left out to save time."""

    n_relations: int
    paths: PathRules
    constants: ConstantRules
    cuts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths) + len(self.constants)


def mine_rules(
    train: Triples,
    n_relations: int,
    *,
    rows: float = math.inf,
    min_support: int = 2,
    min_constant_support: int = 5,
    min_confidence: float = 0.01,
    seed: int = 0,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Rules:
    """Mine the rules with a minimum of support and of confidence (support / body).

    `min_support` and `min_constant_support` apply to `seen`. `rows`: how many rows the join of paths may have, above
    which it is sampled; cheaper joins may have more of them. A body with more than CHUNK paths is always sampled.
    `threads`: 0 takes all cores that this process may use. `progress` gets the number of joins done so far, of three.
    Raises MemoryError if a join does not fit in MEMORY.
    """
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}B'; SET threads = {threads or default_threads()}")
        connection.execute("SET temp_directory = ''; SET enable_external_access = false")

        miner = _Miner(connection, n_relations, rows, seed)
        steps: list[Callable[[], object]] = [
            lambda: miner.load(train),
            lambda: miner.count_support(min_support),
            lambda: miner.count_bodies(min_confidence),
            lambda: miner.find_constants(min_constant_support, min_confidence),
        ]
        try:
            for done, step in enumerate(steps):
                interruptible(connection, step)
                if progress is not None:
                    progress(done)
            return Rules(n_relations, miner.paths(min_confidence), miner.constants(), tuple(miner.cuts))
        except duckdb.OutOfMemoryException as error:
            raise MemoryError(str(error)) from error


class _Miner:
    """The tables of a mining connection.

    edges (rel, a, b): each triple in both directions.   ends (a, rel, n): edges of each entity and directed relation.
    found (r, p, q, support, seen): path rules of length 2.   bodies (p, q, body).   attributes (id, rel, value, n):
    bodies of constant rules, which hold for n entities.   traits (a, id, rel, head): the attributes of each entity, and
    whether they can be a rule's left side.
    """

    train: Triples

    def __init__(self, connection: duckdb.DuckDBPyConnection, n_relations: int, rows: float, seed: int) -> None:
        self.connection, self.R, self.rows, self.seed = connection, n_relations, rows, seed
        self.cuts: list[str] = []

    def load(self, train: Triples) -> None:
        """Create the tables of edges."""
        self.train = train = train[train.heads != train.tails]
        self._table("facts", r=train.relations, h=train.heads, t=train.tails)
        self._run(
            f"""
            CREATE TEMP TABLE edges AS
                SELECT DISTINCT r AS rel, h AS a, t AS b FROM facts
                UNION ALL SELECT DISTINCT r + {self.R}, t, h FROM facts;
            CREATE TEMP TABLE ends AS SELECT a, rel, count(*) AS n FROM edges GROUP BY ALL;
            """
        )

    def count_support(self, least: int) -> None:
        """The path rules of length 2 that hold for at least this many (sampled) triples.

        The paths between the ends of a triple start at the end with fewer edges.
        """
        train, R = self.train, self.R
        size = int(max(train.heads.max(initial=0), train.tails.max(initial=0))) + 1
        degree = np.bincount(train.heads, minlength=size) + np.bincount(train.tails, minlength=size)
        flip = degree[train.heads] > degree[train.tails]
        costs = np.where(flip, degree[train.tails], degree[train.heads])
        order = np.random.default_rng(self.seed).permutation(len(train))
        order = order[np.argsort(train.relations[order], kind="stable")]
        counts = np.bincount(train.relations, minlength=R)
        place = np.empty(len(train), np.int64)
        place[order] = np.arange(len(train)) - np.repeat(np.cumsum(counts) - counts, counts)
        # `most`: triples of each relation, by halving
        most = int(counts.max(initial=1))
        while most > 1 and costs[place < most].sum() > SUPPORT_ROWS * self.rows:
            most //= 2
        taken = place < most
        if not taken.all():
            self.cuts.append(f"support was counted on {int(taken.sum()):,} of {len(train):,} triples")
        rows = np.flatnonzero(taken)
        rel = np.where(flip, train.relations + R, train.relations)
        ends = np.where(flip, train.tails, train.heads), np.where(flip, train.heads, train.tails)
        chunk = np.cumsum(costs[rows]) // CHUNK
        self._table("chosen", chunk=chunk, rel=rel[rows], a=ends[0][rows], b=ends[1][rows])
        self._run("CREATE TEMP TABLE counted (r BIGINT, p BIGINT, q BIGINT, n BIGINT)")
        for part in range(int(chunk.max(initial=-1)) + 1):
            self._run(
                f"""
                INSERT INTO counted
                SELECT rel, p, q, count(*) FROM (
                    SELECT DISTINCT t.rel, t.a, t.b, e.rel AS p, f.rel AS q
                    FROM chosen t JOIN edges e ON e.a = t.a JOIN edges f ON f.a = e.b AND f.b = t.b
                    WHERE t.chunk = {part}
                ) GROUP BY ALL
                """
            )
        self._table("scale", r=np.arange(R), every=counts, sampled=np.minimum(counts, most))
        self._run(
            f"""
            CREATE TEMP TABLE found AS
            SELECT c.r, p, q, n * every / sampled AS support, n AS seen
            FROM (
                SELECT r % {R} AS r, if(r < {R}, p, {self._inverse("q")}) AS p,
                       if(r < {R}, q, {self._inverse("p")}) AS q, sum(n) AS n
                FROM counted GROUP BY ALL HAVING sum(n) >= {least}
            ) c JOIN scale s ON s.r = c.r
            """
        )

    def count_bodies(self, min_confidence: float) -> None:
        """The sizes of the bodies p(X, Z), q(Z, Y), counted from the end with more distinct entities."""
        found = self._numpy(
            f"""
            WITH paths AS (
                SELECT {self._inverse("v.rel")} AS p, w.rel AS q, sum(v.n * w.n)::BIGINT AS n
                FROM ends v JOIN ends w USING (a) GROUP BY ALL
            ),
            best AS (SELECT p, q, max(support) AS support FROM found GROUP BY ALL),
            starts AS (SELECT rel, count(*) AS n FROM ends GROUP BY rel)
            SELECT if(x.n >= y.n, p, {self._inverse("q")}) AS p, if(x.n >= y.n, q, {self._inverse("p")}) AS q,
                   max(paths.n) AS n, max(greatest(x.n, y.n)) AS starts, max(support / paths.n) AS share
            FROM best JOIN paths USING (p, q) JOIN starts x ON x.rel = p JOIN starts y ON y.rel = {self._inverse("q")}
            WHERE 10 * support >= {min_confidence} * paths.n
            GROUP BY 1, 2 ORDER BY share DESC, p, q
            """
        )
        n, starts = found["n"].astype(np.float64), found["starts"].astype(np.float64)
        # `most`: paths of each body, by halving; those of one body fit in a chunk
        most = min(float(n.max(initial=1)), CHUNK)
        shift = _shifts(np.minimum(n / most, starts / STARTS))
        while most > 1000 and (n * 0.5**shift).sum() > self.rows:
            most /= 2
            shift = _shifts(np.minimum(n / most, starts / STARTS))
        cost = np.cumsum(n * 0.5**shift)
        kept = cost <= max(self.rows, cost[:1].sum())
        if shift[kept].any():
            self.cuts.append(f"bodies of rules were counted on at most about {most:,.0f} paths each")
        if not kept.all():
            self.cuts.append(f"{int((~kept).sum()):,} of {len(kept):,} bodies of rules were left out")
        chunk = (cost // CHUNK)[kept].astype(np.int64)
        self._table("wanted", chunk=chunk, p=found["p"][kept], q=found["q"][kept], shift=shift[kept])
        self._run("CREATE TEMP TABLE bodies (p BIGINT, q BIGINT, body DOUBLE)")
        for part in range(int(chunk.max(initial=-1)) + 1):
            self._run(
                f"""
                INSERT INTO bodies
                WITH begun AS (
                    SELECT w.p, w.q, w.shift, e.a AS x, e.b AS z
                    FROM edges e JOIN ends k ON k.a = e.b JOIN wanted w ON w.p = e.rel AND w.q = k.rel
                    WHERE w.chunk = {part} AND {self._drawn("shift", "e.a")}
                )
                SELECT p, q, count(*) * (1::BIGINT << any_value(shift)) FROM (
                    SELECT DISTINCT p, q, shift, x, f.b FROM begun JOIN edges f ON f.a = z AND f.rel = q WHERE f.b <> x
                ) GROUP BY p, q
                """
            )

    def find_constants(self, least: int, min_confidence: float) -> None:
        """The constant rules. Of a hub's attributes, only a sample meets the others."""
        self._run(
            f"""
            CREATE TEMP TABLE attributes AS
                SELECT row_number() OVER (ORDER BY rel, value) AS id, rel, value, n FROM (
                    SELECT rel, -1 AS value, count(*) AS n FROM ends GROUP BY rel
                    UNION ALL SELECT rel, b, count(*) FROM edges GROUP BY rel, b HAVING count(*) >= {least}
                );
            CREATE TEMP TABLE traits AS
                SELECT e.a, id, t.rel, value >= 0 AS head FROM ends e JOIN attributes t ON t.rel = e.rel AND value = -1
                UNION ALL
                SELECT e.a, id, t.rel, true FROM edges e JOIN attributes t ON t.rel = e.rel AND t.value = e.b;
            """
        )
        sizes = self._numpy("SELECT count(*) AS n, count(*) FILTER (head) AS heads FROM traits GROUP BY a ORDER BY a")
        n, heads = sizes["n"].astype(np.float64), sizes["heads"].astype(np.float64)
        most = float(n.max(initial=1))
        shift = _shifts(n / most)
        while most > 1 and (heads * n * 0.5**shift).sum() > CONSTANT_ROWS * self.rows:
            most /= 2
            shift = _shifts(n / most)
        if shift.any():
            self.cuts.append(
                f"constants were found among about {most:,.0f} attributes of an entity (the most: {int(n.max()):,})"
            )
        parts = int((heads * n * 0.5**shift).sum() // CHUNK) + 1
        self._run(
            f"""
            CREATE TEMP TABLE sampled AS
                SELECT h.*, shift FROM traits h JOIN (
                    SELECT a, greatest(0, ceil(log2(count(*) / {most})))::BIGINT AS shift FROM traits GROUP BY a
                ) USING (a) WHERE {self._drawn("shift", "a", "id")};
            CREATE TEMP TABLE constants
                (r BIGINT, c BIGINT, p BIGINT, d BIGINT, support DOUBLE, body DOUBLE, seen DOUBLE);
            """
        )
        for part in range(parts):
            self._run(
                f"""
                INSERT INTO constants
                WITH met AS (
                    SELECT h.id AS head, b.id AS id, sum(1::BIGINT << shift) AS support, count(*) AS seen
                    FROM sampled b JOIN traits h ON h.a = b.a AND h.head
                    WHERE b.id % {parts} = {part} AND h.id <> b.id AND (b.head OR b.rel <> h.rel)
                    GROUP BY ALL HAVING count(*) >= {least}
                )
                SELECT h.rel, h.value, b.rel, b.value, support, b.n, seen
                FROM met JOIN attributes h ON h.id = met.head JOIN attributes b ON b.id = met.id
                WHERE support >= {min_confidence} * b.n
                """
            )

    def paths(self, min_confidence: float) -> PathRules:
        """The path rules of both lengths; supports are at most as large as bodies."""
        return PathRules(
            **self._numpy(
                f"""
                WITH sizes AS (SELECT rel, count(*) AS n FROM edges GROUP BY rel),
                every AS (
                    SELECT r, p, q, support, body, seen FROM found JOIN (
                        FROM bodies UNION SELECT {self._inverse("q")}, {self._inverse("p")}, body FROM bodies
                    ) USING (p, q)
                    UNION ALL
                    SELECT t.rel, e.rel, -1, count(*), any_value(s.n), count(*)
                    FROM edges t JOIN edges e ON e.a = t.a AND e.b = t.b JOIN sizes s ON s.rel = e.rel
                    WHERE t.rel < {self.R} AND t.rel <> e.rel GROUP BY t.rel, e.rel
                )
                SELECT r AS heads, p AS first, q AS second, least(support, body)::DOUBLE AS support,
                       body::DOUBLE AS body, seen::DOUBLE AS seen
                FROM every WHERE support >= {min_confidence} * body ORDER BY r, p, q
                """
            )
        )

    def constants(self) -> ConstantRules:
        """The constant rules; supports are at most as large as bodies."""
        return ConstantRules(
            **self._numpy(
                """
                SELECT r AS heads, c AS constants, p AS relations, d AS "values",
                       least(support, body) AS support, body, seen
                FROM constants ORDER BY ALL
                """
            )
        )

    def _inverse(self, name: str) -> str:
        """The inverse of a directed relation."""
        return f"(({name} + {self.R}) % {2 * self.R})"

    def _drawn(self, shift: str, *columns: str) -> str:
        """Whether a row is in a sample of 1 in 2^shift rows, which depends on the seed and these columns."""
        return f"({shift} = 0 OR (hash({', '.join(columns)}, {self.seed}) >> 20) % (1::UBIGINT << {shift}) = 0)"

    def _run(self, sql: str) -> None:
        self.connection.execute(sql)

    def _numpy(self, sql: str) -> dict[str, Any]:
        found: dict[str, Any] = self.connection.execute(sql).fetchnumpy()
        return found

    def _table(self, name: str, **columns: npt.NDArray[np.generic]) -> None:
        """Create a table of numpy columns."""
        self.connection.register("given", pa.table(columns))
        self._run(f"CREATE TEMP TABLE {name} AS FROM given")
        self.connection.unregister("given")


def _shifts(ratios: DoubleArray) -> npt.NDArray[np.int64]:
    """How often to halve numbers until they are at most 1."""
    return np.ceil(np.log2(np.maximum(1, ratios))).astype(np.int64)
