"""The target of a graph model: a column of a node table, or the links of an edge table."""

from __future__ import annotations

from dataclasses import dataclass

from graphlearn.errors import InputError, OptionError, did_you_mean
from graphlearn.storage.columns import find_column
from graphlearn.storage.hetero.roles import GraphRoles

LABEL = "label"
"""Without a target, clusters of embeddings are compared with the column of this name."""


@dataclass(frozen=True)
class Target:
    """A column of a node table; an edge table or one of its relations (`value`); or nothing."""

    node: str | None = None
    column: str | None = None
    edges: str | None = None
    value: str | None = None

    @property
    def relation(self) -> str:
        """The name of the relation whose links are predicted."""
        return f"{self.edges}.{self.value}" if self.value is not None else str(self.edges)

    def label_of(self, role: str) -> str | None:
        """The column of a node table that is the label, not a feature."""
        return self.column if role == self.node else None


def find_target(roles: GraphRoles, wanted: str | None) -> Target:
    """The target of this name: a column ('genre', 'movie.genre'), an edge table ('writes') or a relation of one
    ('facts.value'). Without a name: the column `label`, if a node table has one.

    Raises OptionError if nothing or more than one thing has the name, InputError if several node tables have a label.
    """
    if wanted is None:
        return _label(roles)
    low = wanted.lower()
    found = [
        Target(node=node.name, column=column)
        for node in roles.nodes.values()
        for column in node.columns
        if low in (column.lower(), f"{node.name}.{column}".lower())
    ]
    for edge in roles.edges.values():
        if low == edge.name.lower():
            found.append(Target(edges=edge.name))
        elif edge.relation is not None and low.startswith(f"{edge.name}.".lower()):
            found.append(Target(edges=edge.name, value=wanted[len(edge.name) + 1 :]))
    if len(found) > 1:
        names = [f"'{t.node}.{t.column}'" if t.node else f"the edge table {t.edges}" for t in found]
        raise OptionError(
            f"target = '{wanted}' could be {' or '.join(names)}", key="target", help="name the table too, or rename one"
        )
    if not found:
        known = [*roles.edges, *(c for node in roles.nodes.values() for c in node.columns)]
        raise OptionError(
            f"target = '{wanted}' is neither a column of a node table nor an edge table",
            key="target",
            help=did_you_mean(wanted, known),
        )
    if found[0].edges is not None and roles.edges[found[0].edges].hub:
        raise OptionError(
            f"target = '{wanted}' is a hub table, and hubs are not nodes",
            key="target",
            help="name a column of a node table, or an edge table with source and target",
        )
    return found[0]


def _label(roles: GraphRoles) -> Target:
    found = [(n.name, c) for n in roles.nodes.values() if (c := find_column(n.columns, LABEL)) is not None]
    if len(found) > 1:
        tables = " and ".join(name for name, _ in found)
        raise InputError(f"{tables} each have a column label", role=found[1][0], help="rename all but one of them")
    return Target(*found[0]) if found else Target()
