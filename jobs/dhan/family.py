"""TYPE dhan: graphs of nodes and edges, each table in a role of the user's naming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphlearn.errors import InputError
from graphlearn.jobs.dhan.options import DhanJobOptions, check_names, check_nodes, read_target
from graphlearn.jobs.families import Family, RoleSpec
from graphlearn.storage.hetero.roles import read_roles

if TYPE_CHECKING:
    from graphlearn.jobs.create import Bound, ModelRequest
    from graphlearn.jobs.dataflow import Dataflow
    from graphlearn.jobs.functions import ArrowSource, FunctionSpec, LoadedModel, Question
    from graphlearn.storage.artifacts import Artifact

ONLY = "graph"
"""The role of a query that stands alone, which no graph is."""


class DhanFamily(Family):
    """TYPE dhan: node tables, edge tables and hub tables, each in a role of the user's naming."""

    roles = (RoleSpec(ONLY, ("id", "features…")),)

    def __init__(self, name: str) -> None:
        self.name = name
        self.options_type = DhanJobOptions

    def roles_for(self, options: Any, given: list[str]) -> tuple[RoleSpec, ...]:  # noqa: ARG002
        return tuple(RoleSpec(name, ("id", "features…"), required=False) for name in given) or self.roles

    def check_input(self, role: str, columns: dict[str, dict[str, str]], options: Any) -> None:
        if list(columns) == [ONLY]:
            raise InputError(
                "a graph has an input for every table of nodes and of edges",
                role=role,
                help="AS (paper AS (SELECT … AS id, …), cites AS (SELECT … AS source, … AS target FROM …))",
            )
        try:
            roles = read_roles(columns)
            check_names(roles, options)
            target = read_target(roles, options)
            if role in roles.nodes:
                check_nodes(roles.nodes[role], target, options)
        except InputError as error:
            if error.role in (role, None):  # the error of another role is raised when that role is checked
                raise

    @property
    def functions(self) -> Mapping[str, FunctionSpec]:
        from graphlearn.jobs.dhan.functions import FUNCTIONS

        return FUNCTIONS

    def load(self, artifact: Artifact) -> LoadedModel:
        from graphlearn.jobs.dhan.functions import DhanModel

        return DhanModel(artifact)

    def unborn(self, request: ModelRequest, columns: dict[str, dict[str, str]], question: Question) -> ArrowSource:
        from graphlearn.jobs.dhan.functions import describe_unborn

        return describe_unborn(request, columns, question)

    def compile(self, bound: Bound) -> Dataflow:
        from graphlearn.jobs.dhan.dataflow import DhanDataflow

        return DhanDataflow(bound).dataflow()
