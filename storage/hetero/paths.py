"""Metapaths: relations composed of the edges of other relations.

Each step of a path such as `['writes', 'writes']` starts where the last one ended, and follows its table forward if
that is the table's source, backward if it is the target. The first step goes forward; `'-writes'` is always backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from graphlearn.errors import OptionError, did_you_mean
from graphlearn.storage.hetero.edges import EdgeTable
from graphlearn.storage.hetero.report import EdgeReport
from graphlearn.storage.hetero.roles import EdgeRole, GraphRoles
from graphlearn.storage.interrupt import interruptible


@dataclass(frozen=True)
class PathStep:
    """One table of a path, followed forward or backward."""

    role: EdgeRole
    backward: bool


@dataclass(frozen=True)
class Metapath:
    """A path from node type `source` to `target`."""

    name: str
    steps: tuple[PathStep, ...]
    source: str
    target: str

    @property
    def through(self) -> EdgeRole | None:
        """The table of a path that goes there and back over one table, which could be given as a hub table instead."""
        first, *rest = self.steps
        back = len(rest) == 1 and rest[0].role == first.role and rest[0].backward != first.backward
        return first.role if back else None


def read_path(name: str, written: tuple[str, ...], roles: GraphRoles) -> Metapath:
    """Parse a path of the option `metapaths`. Raises OptionError if a step does not start where the last one ended."""
    if name.lower() in {role.lower() for role in (*roles.nodes, *roles.edges)}:
        raise OptionError(f"metapaths defines {name}, which is already an input", key="metapaths", help="rename it")
    if len(written) < 2:
        raise OptionError(
            f"the metapath {name} needs at least two steps", key="metapaths", help="for example ['writes', '-writes']"
        )
    steps: list[PathStep] = []
    place = start = ""
    for text in written:
        backward, wanted = text.startswith("-"), text.removeprefix("-")
        role = next((r for r in roles.edges.values() if r.name.lower() == wanted.lower()), None)
        if role is None:
            help = did_you_mean(wanted, list(roles.edges))
            raise OptionError(
                f"the metapath {name} names {wanted}, which is not an edge table", key="metapaths", help=help
            )
        ends = _ends(role)
        if steps and not backward:
            backward = place == ends[1] and place != ends[0]
        leaves, reaches = ends[::-1] if backward else ends
        if steps and leaves != place:
            at = "a hub" if place.startswith("hub ") else place
            raise OptionError(
                f"the metapath {name} has reached {at} and cannot follow {text}, which joins {ends[0]} and {ends[1]}",
                key="metapaths",
                help="each step starts where the last one ended",
            )
        start = start or leaves
        place = reaches
        steps.append(PathStep(role, backward))
    for end in (start, place):
        if end.startswith("hub "):
            raise OptionError(
                f"the metapath {name} begins or ends at a hub",
                key="metapaths",
                help="hubs are not nodes: add a step to a node table",
            )
    return Metapath(name, tuple(steps), start, place)


def _ends(role: EdgeRole) -> tuple[str, str]:
    return str(role.source.node), f"hub {role.name}" if role.hub else str(role.target.node)


def count_walks(cursor: duckdb.DuckDBPyConnection, path: Metapath, tables: Mapping[str, str]) -> int:
    """The number of walks along the path, an upper bound on its edges, computed from products of degrees.

    `tables`: edge role -> table with the keys of its edges as columns source and target.
    """
    reached = ""
    for step in path.steps:
        leave, arrive = ("target", "source") if step.backward else ("source", "target")
        edges = f"(SELECT DISTINCT {leave} AS a, {arrive} AS b FROM {tables[step.role.name]})"
        if not reached:
            reached = f"SELECT b AS k, count(*)::HUGEINT AS n FROM {edges} WHERE a IS NOT NULL GROUP BY b"
        else:
            reached = f"SELECT b AS k, sum(n)::HUGEINT AS n FROM {edges} JOIN ({reached}) ON a = k GROUP BY b"
    query = f"SELECT coalesce(sum(n), 0)::HUGEINT FROM ({reached})"
    return int(interruptible(cursor, lambda: cursor.execute(query).fetchall())[0][0])


def build_path(
    cursor: duckdb.DuckDBPyConnection, path: Metapath, edges: list[EdgeTable]
) -> tuple[EdgeTable, EdgeReport]:
    """The distinct pairs of nodes that the path joins, including pairs of a node with itself."""
    names = [f"graphlearn_step_{i}" for i in range(len(path.steps))]
    for name, step in zip(names, path.steps, strict=True):
        tables = [e for e in edges if e.role == step.role.name]
        src, dst = (np.concatenate([getattr(t, end) for t in tables]) for end in ("src", "dst"))
        a, b = (dst, src) if step.backward else (src, dst)
        cursor.register(name, pa.table({"a": a, "b": b}))
    try:
        joins = " ".join(f"JOIN {name} s{i} ON s{i}.a = s{i - 1}.b" for i, name in enumerate(names) if i)
        query = f"SELECT s0.a AS a, s{len(names) - 1}.b AS b FROM {names[0]} s0 {joins} GROUP BY ALL ORDER BY a, b"
        found: pa.Table = interruptible(cursor, lambda: cursor.sql(query).to_arrow_table())
    finally:
        for name in names:
            cursor.unregister(name)
    src, dst = (found.column(c).to_numpy().astype(np.int64) for c in ("a", "b"))
    table = EdgeTable(path.name, path.name, path.source, path.target, src, dst)
    loops = int(np.count_nonzero(src == dst)) if path.source == path.target else 0
    report = EdgeReport(
        rows=len(src), edges=len(src), self_loops=loops, paths=len(src), relations={path.name: len(src)}
    )
    return table, report
