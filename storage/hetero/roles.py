"""What the inputs of a graph are: a role is told by its columns, before a row is read.

    id, [split], others…                                  a node table; the others are features, or what is learnt
    source, target, [weight], [relation], [split]         an edge table
    source, hub, [weight], [relation]                     a hub table: nodes that share a hub are neighbours

An end of an edge table may also be called by the node table it is of: `writes AS (SELECT author, paper FROM …)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb

from graphlearn.errors import InputError, did_you_mean
from graphlearn.storage.columns import check_key, compatible, describe, find_column, kind_of, quoted, subquery

EXTRA = ("weight", "relation", "time", "split")
"""Columns of an edge table that are no end."""


@dataclass(frozen=True, kw_only=True)
class NodeRole:
    """A node table. `columns`: name -> DuckDB type of what is neither id nor split."""

    name: str
    id: str
    key_type: str
    columns: dict[str, str]
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    """An end of an edge table: its column, the type of its keys, the node table it is of (None: not known yet)."""

    column: str
    key_type: str
    node: str | None = None


@dataclass(frozen=True, kw_only=True)
class EdgeRole:
    """An edge table, or a hub table, whose `target` is then the hub. The other columns are None where there is none."""

    name: str
    source: End
    target: End
    hub: bool
    weight: str | None = None
    relation: str | None = None
    time: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class GraphRoles:
    """All roles of a graph."""

    nodes: dict[str, NodeRole]
    edges: dict[str, EdgeRole]


def read_roles(columns: Mapping[str, dict[str, str]]) -> GraphRoles:
    """Tell node, edge and hub tables apart (role -> column -> DuckDB type).

    Raises InputError with the role that is none of them, or both.
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


def _node_role(role: str, there: dict[str, str]) -> NodeRole:
    for name in ("source", "target", "hub"):
        if find_column(there, name) is not None:
            raise InputError(
                f"{role} has both id and {name}, so it is neither a node table nor an edge table",
                role=role,
                help=f"a node table has an id; call the column {name} differently if it is a feature",
            )
    id_, split = str(find_column(there, "id")), find_column(there, "split")
    check_end(role, id_, there[id_])
    if split is not None:
        check_split(role, there[split])
    others = {name: kind for name, kind in there.items() if name not in (id_, split)}
    return NodeRole(name=role, id=id_, key_type=plain(there[id_]), columns=others, split=split)


def _edge_role(role: str, there: dict[str, str], nodes: Mapping[str, str]) -> EdgeRole:
    listed = ", ".join(there) or "none"
    found = {name: find_column(there, name) for name in ("source", "target", "hub")}
    if found["hub"] is not None and found["target"] is not None:
        raise InputError(
            f"{role} has both target and hub",
            role=role,
            help="target links to another node; hub is what nodes share: keep one of the two",
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
            f"the edge table {role} has columns it has no use for: {', '.join(rest)}",
            role=role,
            help="select only the two ends and, if there are, weight, relation, time and split",
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
    """The node tables that only one can be, by the types of keys."""

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
                f"{end.column} of {role.name} is {end.key_type}, and no node table has such keys ({there})",
                role=role.name,
                help=f"cast it, e.g. {end.column}::{next(iter(known.values()))} AS {end.column}",
            )
        return replace(end, node=fits[0]) if len(fits) == 1 else end

    return replace(role, source=settle(role.source), target=role.target if role.hub else settle(role.target))


def candidates(end: End, known: Mapping[str, str]) -> list[str]:
    """The node tables (name -> type of key) whose keys can be compared with those of the end."""
    return [name for name, key_type in known.items() if compatible(end.key_type, key_type)]


def check_end(role: str, name: str, type_name: str) -> None:
    """Raise InputError when a column cannot hold keys."""
    try:
        check_key(name, type_name)
    except InputError as error:
        raise InputError(f"{role}: {error.message}", role=role, help=error.help) from None


def check_split(role: str, type_name: str) -> None:
    """Raise InputError when a split is no text."""
    if kind_of(type_name) != "text" and type_name.strip('"') != "NULL":
        raise InputError(
            f"split of {role} is {type_name}, not text",
            role=role,
            help="give it the values 'train', 'valid' and 'test' (or NULL), or leave the column out",
        )


def plain(type_name: str) -> str:
    """The type of a key as it is kept: an ENUM is text."""
    return "VARCHAR" if type_name.startswith("ENUM(") else type_name


def find_ends(
    cursor: duckdb.DuckDBPyConnection,
    roles: GraphRoles,
    sql: Mapping[str, str],
    given: Mapping[str, tuple[str, ...]],
    *,
    look: bool = True,
) -> GraphRoles:
    """The roles with the node table of every end.

    It is what `given` says (role -> names of node tables), else what the column is called, in the table or before AS,
    else the only table with such keys. Where several have keys of that type, rows decide: the one that holds all of
    them. Without `look` no row is read, and the first table that would do is taken.
    Raises InputError when several do.
    """
    known = {name: role.key_type for name, role in roles.nodes.items()}
    edges, said = {}, {name.lower(): ends for name, ends in given.items()}
    for role in roles.edges.values():
        names = said.get(role.name.lower(), ())
        written = _written_as(cursor, sql[role.name])
        ends = [role.source] if role.hub else [role.source, role.target]
        done = []
        for i, end in enumerate(ends):
            name = names[i] if i < len(names) else end.node
            hint = written.get(end.column.lower(), "")
            name = name or next((n for n in candidates(end, known) if n.lower() == hint), None)
            if name is None:
                name = _by_rows(cursor, role, end, roles, sql) if look else candidates(end, known)[0]
            done.append(replace(end, node=name))
        edges[role.name] = replace(role, source=done[0], target=role.target if role.hub else done[1])
    linked = {end.node for role in edges.values() for end in (role.source, role.target)}
    for name in roles.nodes:
        if name not in linked:
            raise InputError(
                f"no edge table links to {name}",
                role=name,
                help=f"add one (its source, target or a column called {name}), or leave {name} out",
            )
    return GraphRoles(roles.nodes, edges)


def _written_as(cursor: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Alias -> column of `SELECT column AS alias`, in lower case; what is no plain column is left out."""
    text = cursor.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchall()[0][0]
    statements = json.loads(text).get("statements") or [{}]
    listed = statements[0].get("node", {}).get("select_list") or []
    return {
        node["alias"].lower(): str(node["column_names"][-1]).lower()
        for node in listed
        if node.get("class") == "COLUMN_REF" and node.get("alias") and node.get("column_names")
    }


def _by_rows(
    cursor: duckdb.DuckDBPyConnection, role: EdgeRole, end: End, roles: GraphRoles, sql: Mapping[str, str]
) -> str:
    """The node table that holds the keys of an end."""
    fits = candidates(end, {name: node.key_type for name, node in roles.nodes.items()})
    keys = f"SELECT DISTINCT {quoted(end.column)} AS key FROM {subquery(sql[role.name])} WHERE key IS NOT NULL"
    lacks = {}
    for name in fits:
        ids = f"SELECT {quoted(roles.nodes[name].id)} AS key FROM {subquery(sql[name])}"
        query = f"SELECT count(*) FROM ({keys}) e ANTI JOIN ({ids}) n ON e.key = n.key"
        lacks[name] = int(cursor.execute(query).fetchall()[0][0])
    best = [name for name in fits if lacks[name] == min(lacks.values())]
    if len(best) == 1:
        return best[0]
    does = "hold all of its keys" if not lacks[best[0]] else "hold as many of its keys"
    raise InputError(
        f"{end.column} of {role.name} could be {' or '.join(best)}: both {does}"
        if len(best) == 2
        else f"{end.column} of {role.name} could be {', '.join(best)}: all {does}",
        role=role.name,
        help=f"call the column by its node table: SELECT {best[0]}, … FROM …, or say "
        f"ends = {{'{role.name}': ['{best[0]}'{', …' if not role.hub else ''}]}}",
    )


def columns_of(cursor: duckdb.DuckDBPyConnection, sql: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Columns and types of every input."""
    return {role: describe(cursor, query) for role, query in sql.items()}
