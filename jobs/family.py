"""A model family: everything that shared code needs to know about a kind of model.

A family declares its TYPE names, options, input roles, metrics and table functions. It also defines how its input is
measured, how a run is planned, and how a stored version answers queries and is displayed. Shared code (the job
language, the catalog, reports, the command line, the page of options) uses only these declarations and never checks
which family it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import pyarrow as pa

from graphlearn.errors import InputError, OptionError, UserError, did_you_mean
from graphlearn.jobs.metrics import Metric, headline, read_metrics
from graphlearn.storage.columns import describe
from graphlearn.storage.fingerprint import measure

if TYPE_CHECKING:
    import duckdb
    from matplotlib.figure import Figure

    from graphlearn.jobs.dataflow import Dataflow
    from graphlearn.jobs.drawing import History
    from graphlearn.jobs.request import ModelRequest
    from graphlearn.storage.artifacts import Artifact

Columns: TypeAlias = Mapping[str, str]
"""The columns of a query: name -> DuckDB type."""
Named: TypeAlias = Mapping[str, tuple[type, Any, str]]
"""The named arguments of a table function: type, default, description."""
Warn: TypeAlias = Callable[[str], None]
"""Called with warnings about an answer."""


@dataclass(frozen=True)
class Role:
    """A named input. `columns`: the required columns, for messages. A query without a role gets the first one."""

    name: str
    columns: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The measurements of the inputs; a plan depends on nothing else. Families extend it.

    `fingerprints`: digests of the inputs' rows, by role. `known` is False if an input is still empty, as in the plan of
    a file that fills it; then nothing can be estimated.
    """

    fingerprints: Mapping[str, str]
    known: bool = True


@dataclass(frozen=True)
class Count:
    """A column of the system tables with a count of each version; `key` is its name in the version's counts."""

    column: str
    key: str
    type: pa.DataType = field(default_factory=pa.int64)


@dataclass(frozen=True)
class SummaryTable:
    """A table that `graphlearn show` prints."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Summary:
    """What lists and `graphlearn show` say about a version.

    `listed`: columns of `graphlearn models`, title -> value. `fields`: lines of `graphlearn show`; None is omitted.
    """

    listed: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    tables: Sequence[SummaryTable] = ()


VERSION: Named = {"version": (int, None, "a stored version, by default the current one")}


@dataclass(frozen=True)
class TableFunction:
    """How a table function of a model is called.

    `argument`: whether a relation follows the model name. `keys`: the relation may also be a key or a list of keys.
    `named`: its named arguments besides `version`. `example` and `returns` are for messages: example arguments, and
    what is returned for the rows of the relation.
    """

    argument: Literal["required", "optional", "none"] = "none"
    named: Named = field(default_factory=dict)
    example: str = "'m'"
    keys: bool = False
    returns: str = ""

    def call(self, function: str) -> str:
        """An example call, for messages."""
        joined = f": {self.returns}" if self.returns else ", and JOIN the result for other columns"
        return f"FROM {function}({self.example}){joined}"

    def read(self, function: str, given: Mapping[str, Any], *, argument: bool) -> dict[str, Any]:
        """The named arguments, with defaults filled in.

        `argument`: whether the call has a relation. Raises UserError if it needs one or must not have one, OptionError
        for unknown names and invalid values.
        """
        if not argument and self.argument == "required":
            raise UserError(f"{function} needs a second argument", help=f"for example {function}({self.example})")
        if argument and self.argument == "none":
            raise UserError(f"{function} takes no relation", help=f"write {function}('m')")
        known = {**self.named, **VERSION}
        for name, value in given.items():
            if name not in known:
                raise OptionError(
                    f'{function} has no argument "{name}"', key=name, help=did_you_mean(name, list(known))
                )
            kind = known[name][0]
            wanted = (int, float, Decimal) if kind is float else kind
            if not isinstance(value, wanted) or (kind in (int, float) and isinstance(value, bool)):
                raise OptionError(f"{name} must be {_KINDS[kind]}, not {value!r}", key=name)
            if kind is int and isinstance(value, int) and value < 1:
                raise OptionError(f"{name} must be at least 1, not {value}", key=name)
        return {name: given.get(name, default) for name, (_, default, _) in known.items()}


_KINDS: dict[type, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", object: "a value"
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A validated call of a table function.

    `options`: the named arguments except `version`, with defaults filled in. `asked`: the columns of the relation, None
    without a relation. `time_zone`: of the calling session, in which keys that are times are cast. `given`: the named
    arguments that the call contains.
    """

    function: str
    options: Mapping[str, Any]
    asked: pa.Schema | None = None
    time_zone: str | None = None
    given: frozenset[str] = frozenset()

    def refuse(self, name: str, reason: str) -> None:
        """Raise OptionError if the call contains an argument that has no effect. `reason`: such as "on classes"."""
        if name in self.given:
            raise OptionError(f"{name} has no effect {reason}", key=name, help="leave it out")


class ModelShape(ABC):
    """Determines the columns of a model's answers. It is known before the model is trained."""

    @abstractmethod
    def columns(self, question: Question) -> pa.Schema:
        """The columns of the answer.

        Raises OptionError for an invalid named argument, InputError for a relation that lacks required columns,
        UserError for a call that such a model cannot answer.
        """


class Predictor(ABC):
    """A stored version that answers queries: record batches in, record batches out, no SQL."""

    shape: ModelShape

    def check(self, question: Question, batches: Iterable[pa.RecordBatch]) -> None:  # noqa: B027
        """Raise InputError, before the answer is read, if the relation (`batches`) cannot be answered at all."""

    @abstractmethod
    def answer(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a call, computed as they are read.

        `batches`: the rows of the relation; no batches without a relation. `schema`: from `shape.columns`. `warn` is
        called with warnings for the user. Raises InputError if the relation cannot be used.
        """


class Family(ABC):
    """A kind of model. There is one instance for each TYPE name."""

    names: ClassVar[tuple[str, ...]]
    """The names that select it in `TYPE name`."""
    metrics: ClassVar[tuple[Metric, ...]]
    counts: ClassVar[tuple[Count, ...]] = ()
    functions: ClassVar[Mapping[str, TableFunction]]
    title: ClassVar[str]
    """The heading on the page of options."""
    inputs: ClassVar[tuple[Role, ...]] = ()
    """Its roles, if they do not depend on the options or the inputs; see `roles`."""
    protocol: ClassVar[str] = ""
    """A word before the split and the metrics in one-line results: `filtered`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def options_type(self) -> type[Any]:
        """The frozen dataclass of its options."""

    def roles(self, options: Any, given: Sequence[str]) -> tuple[Role, ...]:  # noqa: ARG002
        """The roles of a model with these options; `given`: the roles of the inputs in the statement."""
        return self.inputs

    def check(self, role: str, columns: Mapping[str, Columns], options: Any) -> None:
        """Check the columns of the input with this role. Raises InputError, OptionError.

        By default, all columns declared for the role are required, except those in brackets.
        """
        needed = next(known for known in self.roles(options, list(columns)) if known.name == role).columns
        have = {name.lower() for name in columns[role]}
        missing = [name for name in needed if not name.startswith("[") and name.lower() not in have]
        if missing:
            raise InputError(
                f"the query needs the columns {', '.join(needed)}; it lacks {' and '.join(missing)}",
                role=role,
                help="name the columns with AS",
            )

    def unused(self, columns: Mapping[str, Columns], options: Any) -> Mapping[str, str]:  # noqa: ARG002
        """The options without effect on a model of these inputs, with the reason: {"negatives": "on classes"}.

        A statement that gives one of them is refused.
        """
        return {}

    def answered(self, options: Mapping[str, Any]) -> Mapping[str, TableFunction]:  # noqa: ARG002
        """The functions that a model with these options can answer; by default all of the family's."""
        return self.functions

    @abstractmethod
    def shape(self, request: ModelRequest, columns: Mapping[str, Columns]) -> ModelShape:
        """The shape of a model before it is trained, from the columns of its inputs (by role)."""

    def measure(self, cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Sizes:
        """Digests and sizes of the inputs: the only pass over the data before a run, one scan per query.

        Families that estimate costs return a subclass of `Sizes`. Raises InputError, OptionError, duckdb.Error for an
        unusable input.
        """
        found = {role: measure(cursor, sql, describe(cursor, sql)) for role, sql in request.inputs.items()}
        prints = {role: measured.fingerprint for role, measured in found.items()}
        return Sizes(fingerprints=prints, known=all(measured.rows for measured in found.values()))

    @abstractmethod
    def plan(self, request: ModelRequest, sizes: Sizes) -> Dataflow:
        """The dataflow that trains, evaluates and publishes a model. Pure: equal arguments give equal plans.

        Raises InputError, OptionError for options that do not fit the sizes.
        """

    @abstractmethod
    def load(self, artifact: Artifact) -> Predictor:
        """The predictor of a stored version."""

    def summary(self, artifact: Artifact) -> Summary:
        """What lists and `graphlearn show` say about a stored version; by default its counts and metrics."""
        counts, metrics = artifact.manifest.get("counts", {}), artifact.manifest.get("metrics", {})
        shown = {count.column: counts.get(count.key) for count in self.counts}
        found = headline(metrics, self.metrics)
        rows = read_metrics(artifact.path)
        header = [name for name in (rows[0] if rows else ()) if name != "protocol"]
        table = SummaryTable("metrics", header, [[row[name] for name in header] for row in rows])
        listed = {**shown, **({found.title: metrics[found.name]} if found else {})}
        return Summary(listed, shown, [table] if rows else [])

    def picture(self, history: History, version_folder: Path | None) -> Figure:  # noqa: ARG002
        """The picture of a run. `version_folder`: of the version that it stored, None if it stored none."""
        from graphlearn.jobs.drawing import draw_curves

        return draw_curves(history, self.metrics)

    def graph(self, artifact: Artifact) -> Any:
        """The graph stored with a version, as node and edge tables. Raises UserError if there is none."""
        raise UserError(f"{artifact.model} is of type {self.name}, and such models store no node and edge tables")

    def fits(self, request: ModelRequest, sizes: Sizes, available: int) -> None:
        """Raise ResourceError if the run needs more than `available` bytes of memory, InputError without any rows."""
        if not sizes.known:
            raise InputError("the query has no rows", help="check its WHERE clause and the path of its files")
        self.plan(request, sizes).check_memory(available)
