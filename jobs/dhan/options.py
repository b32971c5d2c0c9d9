"""Options of TYPE dhan: those of the model and its training, and what its inputs mean."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from graphlearn.errors import InputError, OptionError, did_you_mean
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.storage.columns import find_column
from graphlearn.storage.hetero.features import Kind, feature_kinds
from graphlearn.storage.hetero.nodes import check_label
from graphlearn.storage.hetero.roles import GraphRoles, NodeRole

LABEL = "label"
"""Without a target, a column of this name is what the clusters are compared with."""


@dataclass(frozen=True, kw_only=True)
class DhanJobOptions(DhanOptions):
    """Options of DHAN as a job."""

    target: str | None = None
    """What is learnt: a column of a node table ('genre', or 'movie.genre'), one class or a list of classes a node; or
    an edge table ('writes', or 'facts.value' of one with a column relation), whose links are foretold. NULL learns
    embeddings from the links alone."""
    split: tuple[float, ...] = (0.6, 0.2, 0.2)
    """Shares of train, validation and test, drawn at random within each class, where the table has no column split."""
    text: tuple[str, ...] = ()
    """Text columns whose words are features ('title', or 'movie.title'): those that two nodes have in common."""
    embeddings: tuple[str, ...] = ()
    """Node tables without features, whose nodes each learn a vector."""
    unknown: Literal["error", "drop"] = "error"
    """What becomes of edges that name a node which its table lacks; both are counted."""
    ends: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Node tables that an edge table joins, e.g. {'cites': ['paper', 'paper']}, where columns and keys do not tell."""
    metapaths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Relations made by following others, e.g. {'coauthor': ['writes', '-writes']}; '-' goes against the edges."""
    edge_cap: int = 1_000_000
    """A metapath of more edges than this is refused before it is built."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "edge_cap")
        if len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6:
            raise OptionError(
                f"split is three shares that add up to 1, not {list(self.split)}",
                key="split",
                help="train, validation, test: split = [0.6, 0.2, 0.2]",
            )
        if not self.split[0] or not self.split[2]:
            raise OptionError("split leaves nothing to train on or to test", key="split", help="[0.8, 0, 0.2], say")


def model_options(options: DhanJobOptions) -> DhanOptions:
    """The options that the model and its training read."""
    return DhanOptions(**{f.name: getattr(options, f.name) for f in fields(DhanOptions)})


@dataclass(frozen=True)
class Target:
    """What is learnt: a node table's column; or an edge table, perhaps one of its relations; or nothing."""

    node: str | None = None
    column: str | None = None
    edges: str | None = None
    value: str | None = None

    @property
    def relation(self) -> str:
        """The name of the relation whose links are learnt."""
        return f"{self.edges}.{self.value}" if self.value is not None else str(self.edges)

    def label_of(self, role: str) -> str | None:
        """The column of a node table that is no feature, for it is learnt or compared with."""
        return self.column if role == self.node else None


def read_target(roles: GraphRoles, options: DhanJobOptions) -> Target:
    """What the option `target` names. Raises OptionError when it names nothing, or several columns."""
    wanted = options.target
    if wanted is None:
        return _clusters(roles)
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
            f"target = '{wanted}' is a hub table, and hubs are no nodes",
            key="target",
            help="name a column of a node table, or an edge table of source and target",
        )
    return found[0]


def _clusters(roles: GraphRoles) -> Target:
    found = [(n.name, c) for n in roles.nodes.values() if (c := find_column(n.columns, LABEL)) is not None]
    if len(found) > 1:
        tables = " and ".join(name for name, _ in found)
        raise InputError(
            f"{tables} have a column label each", role=found[1][0], help="one of them: name the other differently"
        )
    return Target(*found[0]) if found else Target()


def check_nodes(role: NodeRole, target: Target, options: DhanJobOptions) -> dict[str, Kind]:
    """The features of a node table. Raises InputError (its role) or OptionError where there can be none."""
    label = target.label_of(role.name)
    if label is not None and check_label(role, label) == "multi" and options.target is None:
        raise InputError(
            f"label of {role.name} is a list: clusters are compared with one class a node",
            role=role.name,
            help="leave it out, or learn it: target = 'label'",
        )
    name = role.name.lower()
    mine = [t.lower().removeprefix(f"{name}.") for t in options.text]
    kinds = feature_kinds(role, mine, label)
    learnt = name in [e.lower() for e in options.embeddings]
    if learnt and kinds:
        raise OptionError(
            f"embeddings names {role.name}, which has features: {', '.join(kinds)}",
            key="embeddings",
            help="leave it out, or select no features",
        )
    if not learnt and not kinds:
        raise InputError(
            f"{role.name} has no features",
            role=role.name,
            help=f"select some in addition to the id, or let each node learn a vector: embeddings = ['{role.name}']",
        )
    return kinds


def check_names(roles: GraphRoles, options: DhanJobOptions) -> None:
    """Raise OptionError when an option names a table or a column that is not there."""
    tables = {name.lower() for name in roles.nodes}
    for name in options.embeddings:
        if name.lower() not in tables:
            raise OptionError(
                f"embeddings names {name}, which is no node table",
                key="embeddings",
                help=did_you_mean(name, list(roles.nodes)),
            )
    columns = [c for node in roles.nodes.values() for c in node.columns]
    full = [f"{node.name}.{c}" for node in roles.nodes.values() for c in node.columns]
    for name in options.text:
        if name.lower() not in {c.lower() for c in (*columns, *full)}:
            raise OptionError(
                f"text names {name}, which is no column of a node table", key="text", help=did_you_mean(name, columns)
            )
    for name, ends in options.ends.items():
        role = next((r for r in roles.edges.values() if r.name.lower() == name.lower()), None)
        if role is None:
            help = did_you_mean(name, list(roles.edges))
            raise OptionError(f"ends names {name}, which is no edge table", key="ends", help=help)
        for end in ends:
            if end not in roles.nodes:
                help = did_you_mean(end, list(roles.nodes))
                raise OptionError(f"ends of {name} names {end}, which is no node table", key="ends", help=help)
        if len(ends) != (1 if role.hub else 2):
            number = "one node table" if role.hub else "two node tables"
            raise OptionError(f"ends of {name} takes {number}, not {len(ends)}", key="ends")
