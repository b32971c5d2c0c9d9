"""The inputs of a graph: node, edge and hub tables, distinguished by their columns.

    id, [split], others…                                  a node table; the others are features or the label
    source, target, [weight], [relation], [split]         an edge table
    source, hub, [weight], [relation]                     a hub table: nodes that share a hub are neighbours

An end of an edge table can also be named after its node table: `writes AS (SELECT author, paper FROM …)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import duckdb

from graphlearn.errors import InputError, did_you_mean
from graphlearn.storage.columns import check_key, compatible, describe, find_column, kind_of

EXTRA = ("weight", "relation", "time", "split")
"""The columns of an edge table that are not ends."""


@dataclass(frozen=True, kw_only=True)
class NodeRole:
    """A node table. `columns`: name -> DuckDB type, without id and split."""

    name: str
    id: str
    key_type: str
    columns: dict[str, str]
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    """An end of an edge table: its column, the type of its keys, its node table (None if not yet known)."""

    column: str
    key_type: str
    node: str | None = None


@dataclass(frozen=True, kw_only=True)
class EdgeRole:
    """An edge table, or a hub table, in which `target` is the hub. Missing columns are None."""

    name: str
    source: End
    target: End
    hub: bool
    weight: str | None = None
    relation: str | None = None
    time: str | None = None
    split: str | None = None

    @property
    def ends(self) -> dict[str, End]:
        """The ends that are nodes, by side: source and target; in a hub table, only source."""
        return {"source": self.source} if self.hub else {"source": self.source, "target": self.target}

    def with_nodes(self, names: Mapping[str, str | None]) -> EdgeRole:
        """The same table with these node tables (by side) as its ends."""
        found = {side: replace(end, node=names[side]) for side, end in self.ends.items()}
        return replace(self, source=found["source"], target=found.get("target", self.target))


@dataclass(frozen=True)
class GraphRoles:
    """The roles of a graph."""

    nodes: dict[str, NodeRole]
    edges: dict[str, EdgeRole]


def read_roles(columns: Mapping[str, Mapping[str, str]]) -> GraphRoles:
    """Classify the inputs (role -> column -> DuckDB type) as node, edge and hub tables.

    Raises InputError with the role of a table that is neither or both.
    """
    names = {role.lower(): role for role, there in columns.items() if find_column(there, "id") is not None}
    nodes = {role: _node_role(role, columns[role]) for role in names.values()}
    edges = {role: _edge_role(role, there, names) for role, there in columns.items() if role not in nodes}
    if not nodes:
        raise InputError(
            "no input is a node table", role=next(iter(columns)), help="add one: paper AS (SELECT … AS id, … FROM …)"
        )
    if not edges:
        raise InputError(
            "no input is an edge table",
            role=next(iter(columns)),
            help="add one: writes AS (SELECT … AS source, … AS target FROM …)",
        )
    known = {name: role.key_type for name, role in nodes.items()}
    return GraphRoles(nodes, {name: _by_type(role, known) for name, role in edges.items()})


def _node_role(role: str, there: Mapping[str, str]) -> NodeRole:
    for name in ("source", "target", "hub"):
        if find_column(there, name) is not None:
            raise InputError(
                f"{role} has both id and {name}, so it is neither a node table nor an edge table",
                role=role,
                help=f"a node table has an id; if {name} is a feature, rename it",
            )
    id_, split = str(find_column(there, "id")), find_column(there, "split")
    check_end(role, id_, there[id_])
    if split is not None:
        check_split(role, there[split])
    others = {name: kind for name, kind in there.items() if name not in (id_, split)}
    return NodeRole(name=role, id=id_, key_type=plain(there[id_]), columns=others, split=split)


def _edge_role(role: str, there: Mapping[str, str], nodes: Mapping[str, str]) -> EdgeRole:
    listed = ", ".join(there) or "none"
    found = {name: find_column(there, name) for name in ("source", "target", "hub")}
    if found["hub"] is not None and found["target"] is not None:
        raise InputError(
            f"{role} has both target and hub",
            role=role,
            help="keep one of them: target is another node, hub is something that nodes share",
        )
    named = [c for c in there if c.lower() in nodes and c.lower() not in (*EXTRA, *found)]
    last = found["target"] or found["hub"]
    given = [c for c in (found["source"], last) if c is not None]
    ends = [c for c in (found["source"], *named, last) if c is not None]
    if not given and not named:
        known = [*nodes.values(), "id", "source", "target", "hub"]
        wrong = next((c for c in there if "did you mean" in did_you_mean(c, known)), None)
        raise InputError(
            f"{role} is neither a node table (id) nor an edge table (source and target, or source and hub); its "
            f"columns: {listed}",
            role=role,
            help=f"{wrong}: {did_you_mean(wrong, known)}" if wrong else "name them with AS",
        )
    if len(ends) != 2:
        missing = "hub or target" if len(ends) == 1 and last is None else "source"
        many = f"has {len(ends)} columns that could be ends: {', '.join(ends)}"
        raise InputError(
            f"the edge table {role} " + (many if len(ends) > 2 else f"has no {missing} (its columns: {listed})"),
            role=role,
            help="an edge table has source and target, or source and hub; name them with AS",
        )
    rest = [c for c in there if c not in ends and c.lower() not in EXTRA]
    if rest:
        raise InputError(
            f"the edge table {role} has columns that are not used: {', '.join(rest)}",
            role=role,
            help="select only the two ends and, if present, weight, relation, time and split",
        )
    extra = {name: find_column(there, name) for name in EXTRA}
    for end in ends:
        check_end(role, end, there[end])
    if extra["weight"] is not None and kind_of(there[extra["weight"]]) not in ("integer", "decimal", "float"):
        raise InputError(
            f"weight of {role} is {there[extra['weight']]}, not a number",
            role=role,
            help="cast it, e.g. weight::DOUBLE AS weight, or leave it out",
        )
    if extra["relation"] is not None:
        check_end(role, extra["relation"], there[extra["relation"]])
    if extra["split"] is not None:
        check_split(role, there[extra["split"]])
    of = {name: End(column=name, key_type=plain(there[name]), node=nodes.get(name.lower())) for name in ends}
    source, target = of[ends[0]], of[ends[1]]
    return EdgeRole(name=role, source=source, target=target, hub=last is not None and last == found["hub"], **extra)


def _by_type(role: EdgeRole, known: dict[str, str]) -> EdgeRole:
    """The edge table with the node tables of the ends whose key type matches only one."""

    def settle(end: End) -> End:
        if end.node is not None:
            if not compatible(end.key_type, known[end.node]):
                raise InputError(
                    f"{end.column} of {role.name} is {end.key_type}, but {end.node} has {known[end.node]} keys",
                    role=role.name,
                    help=f"cast it, e.g. {end.column}::{known[end.node]} AS {end.column}",
                )
            return end
        fits = candidates(end, known)
        if not fits:
            there = ", ".join(f"{name} {kind}" for name, kind in known.items())
            raise InputError(
                f"{end.column} of {role.name} is {end.key_type}, but no node table has such keys ({there})",
                role=role.name,
                help=f"cast it, e.g. {end.column}::{next(iter(known.values()))} AS {end.column}",
            )
        return replace(end, node=fits[0]) if len(fits) == 1 else end

    return replace(role, source=settle(role.source), target=role.target if role.hub else settle(role.target))


def candidates(end: End, known: Mapping[str, str]) -> list[str]:
    """The node tables (name -> key type) whose keys can be compared with those of the end."""
    return [name for name, key_type in known.items() if compatible(end.key_type, key_type)]


def check_end(role: str, name: str, type_name: str) -> None:
    """Raise InputError if a column cannot hold keys."""
    try:
        check_key(name, type_name)
    except InputError as error:
        raise InputError(f"{role}: {error.message}", role=role, help=error.help) from None


def check_split(role: str, type_name: str) -> None:
    """Raise InputError if a split column is not text."""
    if kind_of(type_name) != "text" and type_name.strip('"') != "NULL":
        raise InputError(
            f"split of {role} is {type_name}, not text",
            role=role,
            help="use the values 'train', 'valid', 'test' or NULL, or leave the column out",
        )


def plain(type_name: str) -> str:
    """The type in which a key is stored: an ENUM becomes text."""
    return "VARCHAR" if type_name.startswith("ENUM(") else type_name


def name_ends(
    cursor: duckdb.DuckDBPyConnection,
    roles: GraphRoles,
    sql: Mapping[str, str],
    given: Mapping[str, tuple[str, ...]],
) -> GraphRoles:
    """The roles with the node table of every end that options, names or key types determine; None for the others.

    It is the table in `given` (role -> names of node tables), else the one named like the column, either in the result
    or before AS, else the only table with such keys. The queries are parsed, not executed.
    """
    known = {name: role.key_type for name, role in roles.nodes.items()}
    edges, listed = {}, {name.lower(): ends for name, ends in given.items()}
    for role in roles.edges.values():
        written = _written_as(cursor, sql[role.name])
        found = {}
        for i, (side, end) in enumerate(role.ends.items()):
            names = listed.get(role.name.lower(), ())
            called = written.get(end.column.lower(), "")
            name = names[i] if i < len(names) else end.node
            name = name or next((n for n in candidates(end, known) if n.lower() == called), None)
            found[side] = name
        edges[role.name] = role.with_nodes(found)
    return GraphRoles(roles.nodes, edges)


def settle_ends(roles: GraphRoles, lacks: Callable[[EdgeRole, str, str], int] | None = None) -> GraphRoles:
    """The roles with the node table of every end.

    If `name_ends` found none, it is the table with the most keys of the end: `lacks(role, side, node table)` counts the
    missing ones. If `lacks` is None, the keys are not known, and the first possible table is used.
    Raises InputError if several tables match equally well, and for a node table that has no end and, while the keys are
    not known, could have none.
    """
    known = {name: role.key_type for name, role in roles.nodes.items()}
    undecided = [end for role in roles.edges.values() for end in role.ends.values() if end.node is None]
    edges = {}
    for role in roles.edges.values():
        names = {side: end.node or _settle(role, side, known, lacks) for side, end in role.ends.items()}
        edges[role.name] = role.with_nodes(names)
    linked = {end.node for role in edges.values() for end in role.ends.values()}
    if lacks is None:
        linked |= {name for end in undecided for name in candidates(end, known)}
    for name in roles.nodes:
        if name not in linked:
            raise InputError(
                f"no edge table links to {name}",
                role=name,
                help=f"add an edge table with {name} as its source or target, or leave {name} out",
            )
    return GraphRoles(roles.nodes, edges)


def _settle(
    role: EdgeRole, side: str, known: Mapping[str, str], lacks: Callable[[EdgeRole, str, str], int] | None
) -> str:
    """The node table of an end, from its keys. `known`: node table -> key type."""
    end = role.ends[side]
    fits = candidates(end, known)
    if lacks is None:
        return fits[0]
    missing = {name: lacks(role, side, name) for name in fits}
    best = [name for name in fits if missing[name] == min(missing.values())]
    if len(best) == 1:
        return best[0]
    does = "have all of its keys" if not missing[best[0]] else "have equally many of its keys"
    raise InputError(
        f"{end.column} of {role.name} could be {' or '.join(best)}: both {does}"
        if len(best) == 2
        else f"{end.column} of {role.name} could be {', '.join(best)}: all {does}",
        role=role.name,
        help=f"name the column after its node table: SELECT {best[0]}, … FROM …, or set "
        f"ends = {{'{role.name}': ['{best[0]}'{', …' if not role.hub else ''}]}}",
    )


def _written_as(cursor: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Alias -> column, in lower case, for each plain column in `SELECT column AS alias`."""
    text = cursor.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchall()[0][0]
    statements = json.loads(text).get("statements") or [{}]
    listed = statements[0].get("node", {}).get("select_list") or []
    return {
        node["alias"].lower(): str(node["column_names"][-1]).lower()
        for node in listed
        if node.get("class") == "COLUMN_REF" and node.get("alias") and node.get("column_names")
    }


def columns_of(cursor: duckdb.DuckDBPyConnection, sql: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The columns and types of every input."""
    return {role: describe(cursor, query) for role, query in sql.items()}
