"""Model families: what may stand after TYPE, which inputs it takes and what it makes of them.

A family declares its options (a frozen dataclass), its input roles and a `compile` that turns bound inputs into a
dataflow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphlearn.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from graphlearn.jobs.create import Bound, ModelRequest
    from graphlearn.jobs.dataflow import Dataflow
    from graphlearn.jobs.functions import ArrowSource, FunctionSpec, LoadedModel, Question
    from graphlearn.storage.artifacts import Artifact


@dataclass(frozen=True)
class RoleSpec:
    """A named input. `columns` is what a message says it needs. The first role of a family is its unnamed query."""

    name: str
    columns: tuple[str, ...]
    required: bool = True


class Family(ABC):
    """One kind of model behind TYPE."""

    name: str
    options_type: type[Any]
    roles: tuple[RoleSpec, ...]

    def roles_for(self, options: Any, given: list[str]) -> tuple[RoleSpec, ...]:  # noqa: ARG002
        """The inputs that a model with these options takes; `given` are the names of those that it is given."""
        return self.roles

    @abstractmethod
    def check_input(self, role: str, columns: dict[str, dict[str, str]], options: Any) -> None:
        """Raise InputError when the columns (role -> name -> DuckDB type) cannot serve the role."""

    @property
    @abstractmethod
    def functions(self) -> Mapping[str, FunctionSpec]:
        """The table functions that its models answer."""

    @abstractmethod
    def load(self, artifact: Artifact) -> LoadedModel:
        """A stored version, to be asked."""

    @abstractmethod
    def unborn(self, request: ModelRequest, columns: dict[str, dict[str, str]], question: Question) -> ArrowSource:
        """A call on a model that an earlier statement will create: right columns, no rows."""

    @abstractmethod
    def compile(self, bound: Bound) -> Dataflow:
        """The dataflow that trains, evaluates and publishes."""


_KGE = "graphlearn.jobs.kge.dataflow:KgeFamily"
FAMILIES: dict[str, str] = {
    **dict.fromkeys(("transe", "distmult", "complex", "rotate", "simple", "cp", "rescal", "tucker"), _KGE),
    "net3": "graphlearn.jobs.net3.dataflow:Net3Family",
    "dhan": "graphlearn.jobs.dhan.family:DhanFamily",
}
"""Names after TYPE -> the class that implements them, imported when first used."""


@cache
def family(name: str) -> Family:
    """The family of that name, in any case. Raises UserError naming the nearest ones."""
    key = name.lower()
    if key not in FAMILIES:
        raise UserError(f'there is no model type "{name}"', help=did_you_mean(name, list(FAMILIES)))
    module, _, attribute = FAMILIES[key].partition(":")
    make: Callable[[str], Family] = getattr(import_module(module), attribute)
    return make(key)
