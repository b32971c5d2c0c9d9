"""Options of TYPE dhan: those of the model and its training, and those of its input."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from graphlearn.errors import InputError, OptionError, did_you_mean
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.comparisons import similar_name
from graphlearn.storage.hetero.features import Kind, feature_kinds
from graphlearn.storage.hetero.nodes import check_label
from graphlearn.storage.hetero.roles import GraphRoles, NodeRole
from graphlearn.storage.hetero.target import Target, find_target

FOR_CLASSES = ("knn", "linear", "hop_labels")
"""Options that only node classification uses."""
FOR_LINKS = ("candidates",)
"""Options that only link prediction uses."""


@dataclass(frozen=True, kw_only=True)
class DhanJobOptions(DhanOptions):
    """Options of a DHAN job."""

    target: str | None = None
    """What is learnt: a column of a node table ('genre' or 'movie.genre') with one class or a list of classes per node;
    or an edge table ('writes', or 'facts.value' for one value of its column relation), whose links are predicted. NULL:
    embeddings, learnt from the links alone."""
    split: tuple[float, ...] = (0.6, 0.2, 0.2)
    """Shares of train, validation and test, drawn at random within each class, if the table has no column split."""
    text: tuple[str, ...] = ()
    """Text columns whose words are features ('title' or 'movie.title'); words of a single node are not used."""
    embeddings: tuple[str, ...] = ()
    """Node tables without features: each of their nodes learns a vector."""
    unknown: Literal["error", "drop"] = "error"
    """What to do with edges whose node is missing from its table: fail, or drop and count them."""
    ends: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Node tables that an edge table links, e.g. {'cites': ['paper', 'paper']}; needed if neither the names of its
    columns nor its keys determine them."""
    metapaths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Relations composed of others, e.g. {'coauthor': ['writes', '-writes']}; '-' follows edges backwards."""
    edge_cap: int = 1_000_000
    """Metapaths with more edges than this are refused before they are built."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "edge_cap")
        if not self.metapaths:
            self.refuse(["edge_cap"], "without metapaths", "leave it out")
        if len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6:
            raise OptionError(
                f"split must be three shares that add up to 1, not {list(self.split)}",
                key="split",
                help="train, validation, test: split = [0.6, 0.2, 0.2]",
            )
        if not self.split[0] or not self.split[2]:
            raise OptionError(
                "split leaves nothing to train on or to test", key="split", help="for example [0.8, 0, 0.2]"
            )


def model_options(options: DhanJobOptions) -> DhanOptions:
    """The options that the model and its training read."""
    return DhanOptions(**{f.name: getattr(options, f.name) for f in fields(DhanOptions)})


def unused(roles: GraphRoles, options: DhanJobOptions) -> dict[str, str]:
    """The options without effect on the task that the target determines, with the reason."""
    target = find_target(roles, options.target)
    if options.target is None:
        return dict.fromkeys((*FOR_CLASSES, *FOR_LINKS, "split"), "without a target")
    table = roles.nodes[target.node] if target.node is not None else roles.edges[str(target.edges)]
    split = {"split": f"if {table.name} has a column split"} if table.split is not None else {}
    if target.edges is not None:
        return dict.fromkeys(FOR_CLASSES, "when links are learnt") | split
    return dict.fromkeys((*FOR_LINKS, "negatives"), "when classes are learnt") | split


def check_nodes(role: NodeRole, target: Target, options: DhanJobOptions) -> dict[str, Kind]:
    """The features of a node table. Raises InputError (with its role) or OptionError when it has none or unusable ones.

    A table has features or is named in the option `embeddings`.
    """
    label = target.label_of(role.name)
    if label is not None and check_label(role, label) == "multi" and options.target is None:
        raise InputError(
            f"label of {role.name} is a list, but clusters are compared with one class per node",
            role=role.name,
            help="leave it out, or learn it with target = 'label'",
        )
    kinds = feature_kinds(role, options.text, label)
    learnt = role.name.lower() in [name.lower() for name in options.embeddings]
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
    """Raise OptionError when an option names a table or column that does not exist, InputError for a role whose name is
    that of the relation of option knn."""
    for taken in (*roles.nodes, *roles.edges):
        clashes = [node for node in roles.nodes if similar_name(node).lower() == taken.lower()]
        if (
            clashes
            and options.target is not None
            and options.knn
            and find_target(roles, options.target).node in clashes
        ):
            raise InputError(
                f"{taken} is also the name of the relation that option knn adds",
                role=taken,
                help="rename the role, or set knn = 0",
            )
    tables = {name.lower() for name in roles.nodes}
    for name in options.embeddings:
        if name.lower() not in tables:
            raise OptionError(
                f"embeddings names {name}, which is not a node table",
                key="embeddings",
                help=did_you_mean(name, list(roles.nodes)),
            )
    columns = [c for node in roles.nodes.values() for c in node.columns]
    full = [f"{node.name}.{c}" for node in roles.nodes.values() for c in node.columns]
    for name in options.text:
        if name.lower() not in {c.lower() for c in (*columns, *full)}:
            raise OptionError(
                f"text names {name}, which is not a column of a node table",
                key="text",
                help=did_you_mean(name, columns),
            )
    for name, ends in options.ends.items():
        role = next((r for r in roles.edges.values() if r.name.lower() == name.lower()), None)
        if role is None:
            help = did_you_mean(name, list(roles.edges))
            raise OptionError(f"ends names {name}, which is not an edge table", key="ends", help=help)
        for end in ends:
            if end not in roles.nodes:
                help = did_you_mean(end, list(roles.nodes))
                raise OptionError(f"ends of {name} names {end}, which is not a node table", key="ends", help=help)
        if len(ends) != (1 if role.hub else 2):
            number = "one node table" if role.hub else "two node tables"
            raise OptionError(f"ends of {name} takes {number}, not {len(ends)}", key="ends")
