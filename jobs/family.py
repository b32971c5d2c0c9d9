"""A model family: everything that shared code asks about a kind of model.

A family declares its names after TYPE, its options, input roles, metrics and table functions, and says how its input is
measured, how a run is planned, what a stored version answers and how it is shown. Shared code (the job language, the
catalog, reports, the command line, the page of options) is generated from that and never asks which family it has.
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
"""Columns of a query: name -> DuckDB type."""
Named: TypeAlias = Mapping[str, tuple[type, Any, str]]
"""Named arguments of a table function: type, default, meaning."""
Warn: TypeAlias = Callable[[str], None]
"""Gets a sentence that a person should know about an answer."""


@dataclass(frozen=True)
class Role:
    """A named input. `columns` is what a message says it needs. The first role of a family is its unnamed query."""

    name: str
    columns: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What measuring its inputs found: all that a plan is made from. Families extend it.

    `fingerprints` are the digests of the inputs' rows, by role. `known` is False where an input is still empty, as in
    the plan of a file that fills it, so that nothing can be estimated.
    """

    fingerprints: Mapping[str, str]
    known: bool = True


@dataclass(frozen=True)
class Count:
    """A column of the system tables that counts something of a version: `key` is its name in the version's counts."""

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

    `listed`: columns of `graphlearn models`, title -> value. `fields`: lines of `graphlearn show`, None is left out.
    """

    listed: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    tables: Sequence[SummaryTable] = ()


VERSION: Named = {"version": (int, None, "a stored version, by default the current one")}


@dataclass(frozen=True)
class TableFunction:
    """How a table function of a model is called.

    `argument`: whether a relation follows the name of the model; `keys`: it may also be a key, or a list of keys.
    `named` are its named arguments besides `version`. Messages show the arguments of `example`, and `returns`, what
    becomes of the rows of the relation.
    """

    argument: Literal["required", "optional", "none"] = "none"
    named: Named = field(default_factory=dict)
    example: str = "'m'"
    keys: bool = False
    returns: str = ""

    def call(self, function: str) -> str:
        """The function as a query writes it, for messages."""
        joined = f": {self.returns}" if self.returns else ", and JOIN it where other columns are wanted"
        return f"FROM {function}({self.example}){joined}"

    def read(self, function: str, given: Mapping[str, Any], *, argument: bool) -> dict[str, Any]:
        """The named arguments with defaults filled in.

        `argument`: whether the call has a relation. Raises UserError when it needs one or takes none, OptionError for
        unknown names and wrong values.
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
    """A checked call of a table function: `options` are its named arguments, defaults filled in, without `version`.

    `asked` are the columns of the relation it reads, None without one. `time_zone` is that of whoever asks: keys that
    are times are cast as in their session.
    """

    function: str
    options: Mapping[str, Any]
    asked: pa.Schema | None = None
    time_zone: str | None = None


class ModelShape(ABC):
    """What decides the columns of a model's answers. It is known before the model is trained."""

    @abstractmethod
    def columns(self, question: Question) -> pa.Schema:
        """Columns of the answer.

        Raises OptionError for a wrong named argument, InputError for a relation without the columns that it needs,
        UserError for what such a model cannot answer.
        """


class Predictor(ABC):
    """A stored version, ready to answer: record batches in, record batches out, no SQL."""

    shape: ModelShape

    @abstractmethod
    def answer(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a call, computed as they are read.

        `batches` are the rows of the relation (none without one), `schema` is what `shape.columns` gave. `warn` gets a
        sentence that a person should know. Raises InputError when the relation cannot be answered.
        """


class Family(ABC):
    """One kind of model. Made once for each name after TYPE."""

    names: ClassVar[tuple[str, ...]]
    """What can follow TYPE."""
    metrics: ClassVar[tuple[Metric, ...]]
    counts: ClassVar[tuple[Count, ...]] = ()
    functions: ClassVar[Mapping[str, TableFunction]]
    title: ClassVar[str]
    """Heading on the page of options."""
    inputs: ClassVar[tuple[Role, ...]] = ()
    """Its roles, where they do not depend on options or on what is given."""
    measured_on: ClassVar[str] = ""
    """What one-line results say before the metrics."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def options_type(self) -> type[Any]:
        """The frozen dataclass of its options."""

    def roles(self, options: Any, given: Sequence[str]) -> tuple[Role, ...]:  # noqa: ARG002
        """The inputs of a model with these options; `given` are the names of the inputs that it was given."""
        return self.inputs

    def check(self, role: str, columns: Mapping[str, Columns], options: Any) -> None:
        """Raise InputError, OptionError when the columns of the inputs cannot serve the role.

        By default, when the role lacks a column that it names (one in brackets is optional).
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

    @abstractmethod
    def shape(self, request: ModelRequest, columns: Mapping[str, Columns]) -> ModelShape:
        """The shape of a model that is still to be trained on inputs (by role) with these columns."""

    def measure(self, cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Sizes:
        """Digests and sizes of the inputs: the only pass over the data before a run, one scan of each query.

        Families that estimate what a run costs return more. Raises InputError, OptionError, duckdb.Error when an input
        cannot be used.
        """
        found = {role: measure(cursor, sql, describe(cursor, sql)) for role, sql in request.inputs.items()}
        prints = {role: measured.fingerprint for role, measured in found.items()}
        return Sizes(fingerprints=prints, known=all(measured.rows for measured in found.values()))

    @abstractmethod
    def plan(self, request: ModelRequest, sizes: Sizes) -> Dataflow:
        """The dataflow that trains, evaluates and publishes. Pure: the same request and sizes give the same plan."""

    @abstractmethod
    def load(self, artifact: Artifact) -> Predictor:
        """A stored version, to be asked."""

    def summary(self, artifact: Artifact) -> Summary:
        """A stored version for lists and `graphlearn show`: by default its counts and metrics."""
        counts, metrics = artifact.manifest.get("counts", {}), artifact.manifest.get("metrics", {})
        shown = {count.column: counts.get(count.key) for count in self.counts}
        found = headline(metrics, self.metrics)
        rows = read_metrics(artifact.path)
        header = [name for name in (rows[0] if rows else ()) if name != "protocol"]
        table = SummaryTable("metrics", header, [[row[name] for name in header] for row in rows])
        listed = {**shown, **({found.title: metrics[found.name]} if found else {})}
        return Summary(listed, shown, [table] if rows else [])

    def picture(self, history: History, version_folder: Path | None) -> Figure:  # noqa: ARG002
        """The picture of a run; with the folder of the version it stored, where it stored one."""
        from graphlearn.jobs.drawing import draw_curves

        return draw_curves(history, self.metrics)

    def graph(self, artifact: Artifact) -> Any:
        """The graph that a version holds, as node and edge tables. Raises UserError when it holds none."""
        raise UserError(f"{artifact.model} is a model of type {self.name}, which holds no graph of nodes")

    def fits(self, request: ModelRequest, sizes: Sizes, available: int) -> None:
        """Raise ResourceError when the run needs more than `available` bytes of memory."""
        self.plan(request, sizes).check_memory(available)
