"""A session: SQL over a workspace, with models.

>>> with connect() as session:
...     session.sql("SELECT 42 AS answer").fetchall()
[(42,)]
"""

from __future__ import annotations

import sys
import warnings
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TypeAlias, cast

from graphlearn.catalog import catalog_tables
from graphlearn.errors import (
    ArtifactError,
    OptionError,
    Place,
    UserError,
    WorkspaceError,
    did_you_mean,
)
from graphlearn.events import Emit, JobFinished, Note, silent
from graphlearn.sql import engine
from graphlearn.sql.binding import Binder, BoundModel, errors_of, in_transaction, placed, set_variable, taken
from graphlearn.sql.dry_run import PlannedModel, dry_run, plan
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.sql.statements import CreateModel, DropModel, ExplainModel, Passthrough, Statement
from graphlearn.storage.artifacts import Artifact, fold
from graphlearn.storage.runs import RunFolder
from graphlearn.storage.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

    from graphlearn.jobs.request import DropResult, ModelResult

    Result: TypeAlias = duckdb.DuckDBPyRelation | ModelResult | DropResult | None
    Show: TypeAlias = Callable[[Statement, Result], None]

Overrides: TypeAlias = Mapping[str, object]
"""Values given outside the SQL, by name. The name of a variable that the SQL sets replaces its value; any other is an
option of models, "kg.medical.dim" of that model only. A str is SQL, but text where the SQL sets a text or where it is
a bare word; other values are taken as they are."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the models of a text are to be trained; see `Session.sql`."""

    force: bool = False
    resume: str | None = None
    overrides: Overrides | None = None


def connect(database: str | Path = ":memory:", *, read_only: bool = False, emit: Emit | None = None) -> Session:
    """Open a workspace: a DuckDB file, made if it is new, or one in memory.

    `emit` gets the events of jobs; without it, progress goes to stderr in notebooks and on terminals, and what is to be
    known about the answers of a model becomes a Python warning. Another process of GraphLearn that has the file open is
    waited for. Raises WorkspaceError when the file stays in use, is damaged, or cannot be opened.
    """
    return Session(Workspace.open(database, read_only=read_only, say=partial(_say, emit)), emit=emit)


class Session:
    """Runs SQL, DuckDB's and ours, against a workspace. Close it, or use it as a context manager."""

    def __init__(self, workspace: Workspace, *, emit: Emit | None = None) -> None:
        from graphlearn.jobs.functions import ModelReader

        self.workspace = workspace
        self._emit = emit
        tables = catalog_tables(workspace.folder)
        self._binder = Binder(workspace, ModelReader(workspace.folder), tables, warn=partial(_warn, emit))
        self._binder.offer_tables(tables)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection to the workspace."""
        return self.workspace.connection

    def sql(
        self, text: str, *, force: bool = False, resume: str | None = None, overrides: Overrides | None = None
    ) -> Result:
        """Run the statements of a text in order; returns what DuckDB returns for the last one.

        That is a lazy relation for a query. CREATE MODEL returns a ModelResult, EXPLAIN CREATE MODEL the plan as a
        relation, DROP MODEL a DropResult. Tables may be Python variables of the caller: data frames, Arrow tables,
        relations.

        `force` trains models that have not changed, too; `resume` is the id of a run to continue.
        Raises UserError, placed in the text, when a statement cannot be carried out; statements before it have run.
        """
        source = Source("<sql>", text)
        statements = parse(source)
        binder, overrides = self._bound_to(sys._getframe(1), statements, overrides)
        options = RunOptions(force=force, resume=resume, overrides=overrides)
        result: Result = None
        trained: list[ModelResult] = []
        with _noting(trained):
            for number, statement in enumerate(statements, 1):
                result = self._execute(binder, statement, options, lazy=number == len(statements))
                if isinstance(statement, CreateModel):
                    trained.append(cast("ModelResult", result))
            _ = self.connection  # open again after training, for whoever uses the connection itself
        return result

    def run_file(
        self,
        path: str | Path,
        *,
        select: Collection[str] | None = None,
        force: bool = False,
        resume: str | None = None,
        overrides: Overrides | None = None,
        show: Show | None = None,
    ) -> list[ModelResult]:
        """Check a whole job file, then run it. Returns what became of its models.

        `select` names the models to train, the others are left alone. `show` gets what each statement returns, as soon
        as it has run; the rows of a query are computed while `show` reads them.
        Raises UserError before anything runs, the first mistake with all others of the file in `.others`. A transaction
        that the file leaves open, by its end or by an error, is rolled back.
        """
        from graphlearn.jobs.request import ModelResult

        statements = _selected(self._read(path), select)
        binder, overrides = self._bound_to(None, statements, overrides)
        self._dry_run(binder, statements, overrides, resume)
        options = RunOptions(force=force, resume=resume, overrides=overrides)
        results: list[ModelResult] = []
        try:
            with _noting(results):
                for statement in statements:
                    result = self._execute(binder, statement, options, show)
                    if isinstance(result, ModelResult):
                        results.append(result)
        finally:
            if self.workspace.is_open and engine.in_transaction(self.connection):
                self.connection.rollback()
        return results

    def plan_file(self, path: str | Path, *, overrides: Overrides | None = None) -> list[PlannedModel]:
        """Check a whole job file and say what running it would do; nothing runs. Raises as `run_file` does."""
        statements = self._read(path)
        binder, overrides = self._bound_to(None, statements, overrides)
        self._dry_run(binder, statements, overrides, None)
        return plan(binder, statements, lambda name: _overrides_for(name, overrides))

    def close(self) -> None:
        """Close the workspace. May be called twice."""
        self.workspace.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<graphlearn session on {self.workspace.database or ':memory:'}>"

    def _bound_to(
        self, frame: FrameType | None, statements: list[Statement], overrides: Overrides | None
    ) -> tuple[Binder, Overrides]:
        """A binder that reads Python variables of a frame as tables, and the overrides that are about models.

        The other overrides are about variables that the statements set. Raises OptionError for those about nothing.
        """
        scope: Mapping[str, object] = {} if frame is None else ChainMap(frame.f_locals, frame.f_globals)
        known = {set_variable(s)[0] for s in statements if isinstance(s, Passthrough)}
        variables = {name.lower(): value for name, value in (overrides or {}).items() if name.lower() in known}
        rest = {name: value for name, value in (overrides or {}).items() if name.lower() not in known}
        _check_overrides(statements, rest)
        return replace(self._binder, scope=scope, variables=variables), rest

    def _read(self, path: str | Path) -> list[Statement]:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", help="check the path") from None
        try:
            return parse(Source(str(path), data.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}:{line} is not UTF-8", help="save the file as UTF-8 text") from None

    def _dry_run(self, binder: Binder, statements: list[Statement], overrides: Overrides, resume: str | None) -> None:
        """Refuse what would go wrong; see `dry_run`."""
        if resume is not None and not any(self._resumed(statement, resume) for statement in statements):
            raise UserError(f"run {resume} trained {self._model_of(resume)}, which the file does not create")
        if engine.in_transaction(self.connection):
            raise UserError("a transaction is open", help="COMMIT or ROLLBACK it first")
        dry_run(binder, statements, lambda name: _overrides_for(name, overrides))

    def _execute(
        self, binder: Binder, statement: Statement, options: RunOptions, show: Show | None = None, *, lazy: bool = False
    ) -> Result:
        """Run one statement. A query that is not `lazy` runs to its end even when nobody looks at its rows."""
        binder.look(statement)
        result: Result = None
        match statement:
            case CreateModel():
                result = self._create(binder, statement, options)
            case ExplainModel():
                result = self._explain(binder, statement, options)
            case DropModel():
                result = self._drop(statement)
            case Passthrough():
                query, names = binder.statement(statement)
                if lazy:
                    return engine.relation(self.connection, query, names)
                if show is None:
                    engine.rows(self.connection, query, names)
                    return None
                with engine.lazily(query, names):
                    show(statement, engine.relation(self.connection, query, names))
                return None
        if show is not None:
            show(statement, result)
        return result

    def _create(self, binder: Binder, create: CreateModel, options: RunOptions) -> ModelResult:
        from graphlearn.jobs.create import create_model, measure

        if engine.in_transaction(self.connection):
            raise in_transaction(create)
        emit, close = self._sink()
        try:
            bound = binder.model(create, _overrides_for(create.name, options.overrides))
            with binder.registered(bound), errors_of(bound):
                resume = self._resumed(create, options.resume)
                stored = resume is None and binder.reader.store.exists(create.name)
                request, sizes, fingerprint = bound.request, None, None
                if not (stored and create.if_not_exists):
                    self.workspace.check_not_training(create.name)  # before reading the input
                    sizes = measure(self.connection, request)
                    fingerprint = request.fingerprint(sizes.fingerprints)
                if stored:
                    unchanged = self._stored(binder, bound, fingerprint, options.force)
                    if unchanged is not None:
                        emit(_unchanged(unchanged))
                        return unchanged
                return create_model(
                    self.workspace, request, emit=emit, sizes=sizes, resume=resume, cursor=self.connection
                )
        finally:
            close()

    def _stored(self, binder: Binder, bound: BoundModel, fingerprint: str | None, force: bool) -> ModelResult | None:
        """What to return when the stored model is the one asked for; None when it is to be trained.

        Raises ModelExists when it is another one and may not be replaced, ArtifactError when it is damaged.
        """
        from graphlearn.jobs.request import ModelResult

        create, store = bound.create, binder.reader.store
        if create.if_not_exists:
            artifact = store.current(create.name)
        else:
            try:
                artifact = store.load(create.name)
            except ArtifactError as error:
                if create.or_replace or force:
                    return None
                raise error.at(create.at(create.name_span)) from None
            same = artifact.manifest.get("fingerprint") == fingerprint
            if not same and not create.or_replace:
                raise taken(create, "made from other data, or with other options")
            if force:
                return None
            if not same:
                older = self._trained_before(create.name, fingerprint)
                if older is None:
                    return None
                artifact = older
        return ModelResult.stored(artifact.model, artifact.version, artifact.manifest, status="unchanged")

    def _trained_before(self, model: str, fingerprint: str | None) -> Artifact | None:
        """An older version that was trained as it is now asked for, made the current one again; None without one."""
        store = self._binder.reader.store
        for artifact in reversed(store.versions(model)):
            if artifact.damage is None and artifact.manifest.get("fingerprint") == fingerprint:
                with suppress(ArtifactError), self.workspace.writing():
                    return store.make_current(model, artifact.version)
        return None

    def _explain(self, binder: Binder, statement: ExplainModel, options: RunOptions) -> duckdb.DuckDBPyRelation:
        from graphlearn.jobs.create import measure
        from graphlearn.jobs.machine import this_machine
        from graphlearn.jobs.registry import family

        bound = binder.model(statement.create, _overrides_for(statement.create.name, options.overrides))
        with binder.registered(bound), errors_of(bound):
            sizes = measure(self.connection, bound.request)
            plan = family(bound.request.family).plan(bound.request, sizes)
            return self.connection.from_arrow(plan.table(this_machine()))

    def _drop(self, statement: DropModel) -> DropResult:
        from graphlearn.jobs.request import DropResult

        store = self._binder.reader.store
        if statement.if_exists and not store.exists(statement.name):
            return DropResult(model=statement.name)
        with placed(statement.at(statement.name_span)):
            found = store.versions(statement.name)  # raises ModelNotFound with near names, before the lock is taken
        with self.workspace.writing():
            store.drop(statement.name)
        return DropResult(model=found[-1].model, versions=tuple(artifact.version for artifact in found))

    def _resumed(self, statement: Statement, resume: str | None) -> str | None:
        """The run to continue, for the statement that it is a run of."""
        if resume is None or not isinstance(statement, CreateModel):
            return None
        return resume if fold(self._model_of(resume)) == fold(statement.name) else None

    def _model_of(self, run: str) -> str:
        return str(RunFolder.open(self.workspace.folder, run).info().get("model"))

    def _sink(self) -> tuple[Emit, Callable[[], None]]:
        """Where the events of a job go, and what to call when it is over."""
        from graphlearn.sinks import choose_sink, is_lively

        if self._emit is not None:
            return self._emit, lambda: None
        ipython = sys.modules.get("IPython")
        if is_lively(sys.stderr) or (ipython is not None and ipython.get_ipython() is not None):
            sink = choose_sink(sys.stderr)
            return sink, sink.close
        return silent, lambda: None


@contextmanager
def _noting(results: Sequence[ModelResult]) -> Iterator[None]:
    """An error of the workspace, such as a file that cannot be opened again after training, says what is stored."""
    try:
        yield
    except WorkspaceError as error:
        if results:
            stored = ", ".join(f"{result.model} version {result.version}" for result in results)
            error.add_note(f"stored before that: {stored}")
        raise


def _say(emit: Emit | None, message: str) -> None:
    """Say something about the workspace: to `emit`, or to stderr."""
    if emit is not None:
        emit(Note(message=message))
    else:
        print(message, file=sys.stderr)


def _warn(emit: Emit | None, message: str, place: Place) -> None:
    """Say something about the rows of a statement: to `emit`, or as a Python warning at the place in the SQL."""
    if emit is not None:
        emit(Note(message=message, level="warning"))
    else:
        warnings.warn_explicit(message, UserWarning, filename=place.file, lineno=place.line, module="graphlearn")


def _unchanged(result: ModelResult) -> JobFinished:
    """The event of a model that was left as it is."""
    return JobFinished(
        run=result.run or "",
        model=result.model,
        status="unchanged",
        seconds=result.seconds,
        version=result.version,
        metrics=result.metrics,
    )


def _selected(statements: list[Statement], select: Collection[str] | None) -> list[Statement]:
    """All statements but the CREATE MODELs that are not selected. Raises UserError for a name that none creates."""
    if not select:
        return statements
    names = {fold(s.name): s.name for s in statements if isinstance(s, CreateModel)}
    for name in select:
        if fold(name) not in names:
            raise UserError(f"no statement creates a model {name}", help=did_you_mean(name, list(names.values())))
    wanted = {fold(name) for name in select}
    return [s for s in statements if not isinstance(s, CreateModel) or fold(s.name) in wanted]


def _overrides_for(model: str, overrides: Overrides | None) -> Overrides:
    """The overrides that concern a model, without its name in front."""
    found: dict[str, object] = {}
    for name, value in (overrides or {}).items():
        owner, _, key = name.rpartition(".")
        if not owner or fold(owner) == fold(model):
            found[key.lower()] = value
    return found


def _reads_variable(statements: list[Statement], name: str) -> bool:
    """Whether a statement holds getvariable('name') or $name."""
    for statement in statements:
        tokens = statement.tokens
        for i, token in enumerate(tokens[1:], 1):
            sign = tokens[i - 1].text == "$" or (i > 1 and tokens[i - 2].word == "GETVARIABLE")
            if sign and token.value.lower() == name.lower():
                return True
    return False


def _check_overrides(statements: list[Statement], overrides: Overrides | None) -> None:
    """Refuse overrides for models that none of the statements creates."""
    creates = [s.create if isinstance(s, ExplainModel) else s for s in statements]
    names = [s.name for s in creates if isinstance(s, CreateModel)]
    for name, value in (overrides or {}).items():
        owner, _, key = name.rpartition(".")
        if not owner and _reads_variable(statements, key):
            place = Place(file="--set", text=f"{name}={value}", start=0, length=len(name))
            help = f"write SET VARIABLE {key} = …; in front, which --set replaces, and read it by getvariable('{key}')"
            raise OptionError(
                f"no statement sets the variable {key}, which the SQL reads", key=key, place=place, help=help
            )
        if not names or (owner and fold(owner) not in map(fold, names)):
            place = Place(file="--set", text=f"{name}={value}", start=0, length=len(name))
            missing = f"a model {owner}" if owner and names else "a model"
            near = did_you_mean(owner, names) if owner and names else None
            raise OptionError(f"no statement creates {missing}", key=key, place=place, help=near)
