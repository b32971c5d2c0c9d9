"""Table functions over stored models: what a call is, which functions a family has, and who answers.

Each call becomes an `ArrowSource`: registered as a DuckDB view, it computes its rows anew at every scan and streams
them, so millions of answers never lie in memory at once. `ModelReader` keeps loaded models and answers for one
workspace; what a family's models can be asked is the family's (`Family.functions`, `Family.load`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeAlias

import duckdb
import pyarrow as pa

from graphlearn.errors import OptionError, UserError, did_you_mean
from graphlearn.storage.artifacts import Artifact, ArtifactStore

CursorFactory: TypeAlias = Callable[[], duckdb.DuckDBPyConnection]
Warn: TypeAlias = Callable[[str], None]
"""Gets a sentence that a person should know, when a scan has ended."""
Named: TypeAlias = dict[str, tuple[type, Any, str]]
"""Named arguments: type, default, meaning."""


@dataclass(frozen=True)
class ArrowSource:
    """Rows computed at every scan. DuckDB reads it through `__arrow_c_stream__`."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self.schema, self.batches())
        return reader.__arrow_c_stream__(requested_schema)

    def empty(self) -> ArrowSource:
        """The same columns without rows."""
        return ArrowSource(self.schema, lambda: iter(()))


VERSION: Named = {"version": (int, None, "a stored version; the current one unless told")}


@dataclass(frozen=True)
class FunctionSpec:
    """How a function is called. `argument`: whether a relation (a table, a subquery, or for similar a single key)

    stands behind the model's name. `named` are its named arguments; `version` is one of every function.
    """

    argument: Literal["required", "optional", "none"] = "none"
    named: Named = field(default_factory=lambda: VERSION)
    example: str = "'m'"


@dataclass(frozen=True)
class Question:
    """A checked call: `argument` is the SQL of its relation, `options` its named arguments with defaults filled in.

    `cursor` makes a cursor that sees the user's tables; `warn` hears of what a person should know, once a scan.
    """

    function: str
    argument: str | None
    options: dict[str, Any]
    cursor: CursorFactory
    warn: Warn = lambda _: None


class LoadedModel(ABC):
    """A stored version, ready to answer."""

    artifact: Artifact

    @abstractmethod
    def open(self, question: Question) -> ArrowSource:
        """The rows of a call.

        Raises OptionError for a wrong named argument, InputError for a relation without the columns it needs;
        duckdb.Error when the relation's SQL does not bind.
        """


class ModelReader:
    """Answers table function calls over the models of a workspace folder; keeps what it has loaded."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(folder)
        self._loaded: dict[tuple[str, str], LoadedModel] = {}

    def load(self, model: str, version: int | None = None) -> LoadedModel:
        """The model, verified. Raises ModelNotFound, or ArtifactError when it is damaged."""
        from graphlearn.jobs.families import family

        artifact = self.store.load(model, version)
        key = (artifact.model, str(artifact.manifest["sha256"]))  # a dropped model's versions are counted anew
        if key not in self._loaded:
            for old in [k for k in self._loaded if k[0] == key[0] and version is None]:
                del self._loaded[old]
            self._loaded[key] = family(artifact.manifest["family"]).load(artifact)
        return self._loaded[key]

    def open(
        self,
        function: str,
        model: str,
        argument: str | None,
        named: dict[str, Any],
        cursor: CursorFactory,
        warn: Warn = lambda _: None,
    ) -> ArrowSource:
        """A call's rows; see `Question` and `LoadedModel.open`. Raises ModelNotFound and ArtifactError besides."""
        version = named.get("version")
        artifact = self.store.load(model, version if isinstance(version, int) and version > 0 else None)
        question = ask(artifact.manifest["family"], function, argument, named, cursor, warn)
        return self.load(model, question.options.pop("version")).open(question)


def ask(
    family_name: str,
    function: str,
    argument: str | None,
    named: dict[str, Any],
    cursor: CursorFactory,
    warn: Warn = lambda _: None,
) -> Question:
    """The call checked against what models of the family can be asked. Raises UserError, OptionError."""
    from graphlearn.jobs.families import family

    functions = family(family_name).functions
    if function not in functions:
        have = ", ".join(f"{name}()" for name in functions)
        raise UserError(f"a {family_name} model has no {function}()", help=f"it has {have}")
    spec = functions[function]
    if argument is None and spec.argument == "required":
        raise UserError(f"{function} needs a second argument", help=f"for example {function}({spec.example})")
    if argument is not None and spec.argument == "none":
        raise UserError(f"{function} takes no relation", help=f"write {function}('m')")
    return Question(function, argument, named_arguments(function, spec.named, named), cursor, warn)


def named_arguments(function: str, known: Named, named: dict[str, Any]) -> dict[str, Any]:
    """Named arguments with defaults filled in. Raises OptionError for unknown names and wrong values."""
    for name, value in named.items():
        if name not in known:
            raise OptionError(f'{function} has no argument "{name}"', key=name, help=did_you_mean(name, list(known)))
        kind = known[name][0]
        wanted = (int, float, Decimal) if kind is float else kind
        if not isinstance(value, wanted) or (kind in (int, float) and isinstance(value, bool)):
            raise OptionError(f"{name} must be {_KINDS[kind]}, not {value!r}", key=name)
        if kind is int and isinstance(value, int) and value < 1:
            raise OptionError(f"{name} must be at least 1, not {value}", key=name)
    return {name: named.get(name, default) for name, (_, default, _) in known.items()}


_KINDS: dict[type, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", object: "a value"
}  # fmt: skip
