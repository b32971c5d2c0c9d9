"""Calls of table functions over stored models: SQL on one side, a family's `Predictor` on the other.

A call becomes an `ArrowSource`. Registered as a DuckDB view, it computes and streams its rows at every scan, so that
millions of answers are never in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import pyarrow as pa

from graphlearn.errors import ArtifactError, GraphLearnError, JobError, UserError
from graphlearn.jobs.family import ModelShape, Predictor, Question, TableFunction, Warn
from graphlearn.jobs.registry import family, is_family, package_of
from graphlearn.storage.artifacts import Artifact, ArtifactStore, reading
from graphlearn.storage.columns import describe, subquery
from graphlearn.storage.memory import check_address_space

if TYPE_CHECKING:
    from graphlearn.jobs.request import ModelRequest

CursorFactory: TypeAlias = Callable[[], duckdb.DuckDBPyConnection]
BATCH = 8192
"""Rows of a relation that are answered at a time."""


@dataclass(frozen=True)
class ArrowSource:
    """Rows that are computed at every scan. DuckDB reads them through `__arrow_c_stream__`."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self.schema, self.batches())
        return reader.__arrow_c_stream__(requested_schema)

    def empty(self) -> ArrowSource:
        """The same columns without rows."""
        return ArrowSource(self.schema, lambda: iter(()))


@dataclass(frozen=True)
class Call:
    """A call of a table function in a query: `argument` is the SQL of its relation, `named` its named arguments.

    `cursor` creates a cursor that sees the user's tables. `warn` is called with warnings for the user, once per scan.
    """

    function: str
    argument: str | None
    named: Mapping[str, Any]
    cursor: CursorFactory
    warn: Warn = lambda _: None

    def question(self, family_name: str, options: Mapping[str, Any]) -> tuple[Question, int | None]:
        """The call, checked against the functions of the family, and the version that it names.

        `options`: those of the model. Raises UserError, OptionError.
        """
        values = function_of(family_name, self.function, options).read(
            self.function, self.named, argument=self.argument is not None
        )
        version, given = values.pop("version"), frozenset(self.named)
        if self.argument is None:
            return Question(self.function, values, given=given), version
        with closing(self.cursor()) as connection:
            describe(connection, self.argument)  # raises InputError if two columns have the same name
            _lossless(connection)
            asked = connection.sql(f"FROM {subquery(self.argument)} LIMIT 0").to_arrow_table().schema
            zone = str(connection.execute("SELECT current_setting('TimeZone')").fetchall()[0][0])
        return Question(self.function, values, asked, zone, given), version

    def rows(self) -> Iterator[pa.RecordBatch]:
        """The rows of the relation, in order."""
        if self.argument is None:
            return
        with closing(self.cursor()) as connection:
            _lossless(connection)
            yield from connection.sql(self.argument).to_arrow_reader(BATCH)


def function_of(family_name: str, function: str, options: Mapping[str, Any]) -> TableFunction:
    """A table function of a family. Raises UserError, with those of a model with the options, if there is none."""
    functions = family(family_name).functions
    if function not in functions:
        have = ", ".join(f"{name}()" for name in family(family_name).answered(options))
        raise UserError(f"a {family_name} model has no {function}()", help=f"it has {have}")
    return functions[function]


def planned(request: ModelRequest, shape: ModelShape, call: Call) -> ArrowSource:
    """A call on a model that an earlier statement will create: the same columns, no rows."""
    question, _ = call.question(request.family.lower(), asdict(request.options))
    return ArrowSource(shape.columns(question), lambda: iter(()))


class ModelReader:
    """Answers calls of table functions on the models of a workspace folder. Keeps loaded models in memory."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(folder)
        self._loaded: dict[tuple[str, str], Predictor] = {}

    def load(self, model: str, version: int | None = None) -> Predictor:
        """Load and verify a model. Raises ModelNotFound, or ArtifactError if it cannot be used."""
        return self._predictor(self.store.load(model, version), current=version is None)

    def _predictor(self, artifact: Artifact, *, current: bool) -> Predictor:
        """The predictor of a version. A new current version takes the place of those that were loaded before."""
        key = (artifact.model, str(artifact.manifest["sha256"]))  # version numbers restart after DROP MODEL
        if key not in self._loaded:
            for old in [k for k in self._loaded if k[0] == key[0] and current]:
                del self._loaded[old]
            check_address_space()
            with reading(artifact):
                self._loaded[key] = family(family_of(artifact)).load(artifact)
        return self._loaded[key]

    def open(self, model: str, call: Call) -> ArrowSource:
        """The rows of a call.

        Raises ModelNotFound, ArtifactError, and the errors of `Call.question` and `ModelShape.columns`.
        """
        version = call.named.get("version")
        artifact = self.store.load(model, version if isinstance(version, int) and version > 0 else None)
        question, version = call.question(family_of(artifact), options_of(artifact))
        predictor = self._predictor(artifact, current=version is None)
        with _answering(artifact, Rows(call)) as rows:
            schema = predictor.shape.columns(question)
            predictor.check(question, rows)

        def answers() -> Iterator[pa.RecordBatch]:
            with _answering(artifact, Rows(call)) as rows:
                yield from predictor.answer(question, iter(rows), schema, call.warn)

        return ArrowSource(schema, answers)


class Rows:
    """The rows of a call's relation. `error`: what its query raised, which is no fault of the model."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.call.rows()
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _answering(artifact: Artifact, rows: Rows) -> Iterator[Rows]:
    """`reading`, except for what the query of the relation raises, such as a failed cast or Ctrl-C.

    Raises JobError, which names the package, for an error in a family that does not belong to GraphLearn.
    """
    try:
        with reading(artifact, asked=True):
            yield rows
    except ArtifactError as error:
        cause = error.__cause__
        if rows.error is not None and cause is rows.error:
            raise rows.error from None
        name = family_of(artifact)
        package = package_of(name)
        if cause is None or isinstance(cause, GraphLearnError) or package == "graphlearn":
            raise
        raise JobError(
            f"{rows.call.function} of TYPE {name} (package {package}) failed: {type(cause).__name__}: {cause}",
            help=f"report this to the authors of {package}",
        ) from cause


def family_of(artifact: Artifact) -> str:
    """The family of a stored version. Raises ArtifactError if it is not installed."""
    name = str(artifact.manifest.get("family"))
    if not is_family(name):
        raise ArtifactError(
            f'model "{artifact.model}" is of type {name}, which is not installed',
            help=f"install the package that provides TYPE {name}, or remove the model: DROP MODEL {artifact.model}",
        )
    return name


def options_of(artifact: Artifact) -> Mapping[str, Any]:
    """The options of a stored version; none if its manifest holds something else."""
    options = artifact.manifest.get("options")
    return options if isinstance(options, dict) else {}


def _lossless(connection: duckdb.DuckDBPyConnection) -> None:
    """Make Arrow output preserve every DuckDB type, including HUGEINT and UUID."""
    connection.execute("SET SESSION arrow_lossless_conversion = true")
