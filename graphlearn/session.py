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
from graphlearn.events import Emit, Event, JobFinished, JobStarted, Note, fan_out, silent
from graphlearn.processors import spin_briefly
from graphlearn.sql import engine
from graphlearn.sql.binding import Binder, BoundModel, errors_of, in_transaction, placed, set_variable, taken
from graphlearn.sql.copies import whole_file
from graphlearn.sql.dry_run import PlannedModel, dry_run, plan
from graphlearn.sql.options import OUTSIDE
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.sql.statements import CreateModel, DropModel, ExplainModel, Passthrough, Statement
from graphlearn.sql.words import CATALOG
from graphlearn.storage.artifacts import Artifact, fold
from graphlearn.storage.runs import RunFolder
from graphlearn.storage.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

    from graphlearn.jobs.request import DropResult, ModelResult

    Result: TypeAlias = duckdb.DuckDBPyRelation | ModelResult | DropResult | None
    Show: TypeAlias = Callable[[Statement, Result], None]

Overrides: TypeAlias = Mapping[str, object]
"""Values given outside the SQL, by name. The name is that of a variable that the SQL sets, or of a model option
("kg.medical.dim": of that model only). A str is a SQL expression, unless it is a bare word or the SQL sets the variable
to a text; then it is text. Other values are used as they are."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to train the models of a text; see `Session.sql`."""

    force: bool = False
    resume: str | None = None
    overrides: Overrides | None = None


def connect(database: str | Path = ":memory:", *, read_only: bool = False, emit: Emit | None = None) -> Session:
    """Open a workspace: a DuckDB file, created if it does not exist, or an in-memory one.

    `emit` is called with the events of jobs. Without it, notebooks and terminals show progress on stderr, and warnings
    about the answers of a model become Python warnings. If another GraphLearn process has the file open, this waits for
    it. Raises WorkspaceError if the file remains in use, is damaged, or cannot be opened.
    """
    return Session(Workspace.open(database, read_only=read_only, say=partial(_say, emit)), emit=emit)


class Session:
    """Runs SQL, including GraphLearn's statements, on a workspace. Close it, or use it as a context manager."""

    def __init__(self, workspace: Workspace, *, emit: Emit | None = None) -> None:
        from graphlearn.jobs.functions import ModelReader

        spin_briefly()
        self.workspace = workspace
        self.has_started = False
        """Whether a statement of this session has run, or a job has started."""
        self._emit = emit
        tables = partial(catalog_tables, workspace.folder)
        self._binder = Binder(workspace, ModelReader(workspace.folder), tables, warn=partial(_warn, emit))
        self._binder.offer_tables(CATALOG)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection to the workspace."""
        return self.workspace.connection

    def sql(
        self, text: str, *, force: bool = False, resume: str | None = None, overrides: Overrides | None = None
    ) -> Result:
        """Run the statements of a text in order; returns the result of the last one.

        A query returns a lazy relation, CREATE MODEL a ModelResult, EXPLAIN CREATE MODEL the plan as a relation, DROP
        MODEL a DropResult. Statements can read Python variables of the caller as tables: data frames, Arrow tables,
        relations.

        `force`: also train models that have not changed. `resume`: the id of a run to continue.
        Raises UserError, placed in the text, for the first statement that fails; the statements before it have run.
        """
        self._check_open()
        source = Source("<sql>", text)
        statements = parse(source)
        binder, overrides = self._bound_to(sys._getframe(1), statements, overrides)
        options = RunOptions(force=force, resume=resume, overrides=overrides)
        result: Result = None
        trained: list[ModelResult] = []
        with _noting(trained):
            for number, statement in enumerate(statements, 1):
                result = self._execute(binder, statement, options, lazy=number == len(statements))
                self.has_started |= _does_something(statement)
                if isinstance(statement, CreateModel):
                    trained.append(cast("ModelResult", result))
            _ = self.connection  # reopens the file after training, for users of the connection
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
        """Check a whole job file, then run it. Returns the results of its CREATE MODEL statements.

        `select`: the models to train, all by default. `show` is called with the result of each statement when it has
        run; the rows of a query are computed while `show` reads them.
        If the check finds mistakes, nothing runs: raises UserError for the first one, with the others in `.others`. A
        transaction that the file leaves open, at its end or after an error, is rolled back.
        """
        from graphlearn.jobs.request import ModelResult

        self._check_open()
        statements = _selected(self._read(path), select)
        binder, overrides = self._bound_to(None, statements, overrides)
        self._dry_run(binder, statements, overrides, resume)
        options = RunOptions(force=force, resume=resume, overrides=overrides)
        results: list[ModelResult] = []
        try:
            with _noting(results):
                for statement in statements:
                    self.has_started |= _does_something(statement)  # it has passed the dry run
                    result = self._execute(binder, statement, options, show)
                    if isinstance(result, ModelResult):
                        results.append(result)
        finally:
            if self.workspace.is_open and engine.in_transaction(self.connection):
                self.connection.rollback()
        return results

    def plan_file(self, path: str | Path, *, overrides: Overrides | None = None) -> list[PlannedModel]:
        """Check a whole job file and return what running it would do; nothing runs. Raises as `run_file` does."""
        self._check_open()
        statements = self._read(path)
        binder, overrides = self._bound_to(None, statements, overrides)
        read_only = self.workspace.read_only
        self._dry_run(binder, statements, overrides, None, read_only=read_only)
        return plan(binder, statements, lambda name: _overrides_for(name, overrides), read_only=read_only)

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
        """A binder that reads Python variables of a frame as tables, and the overrides of model options.

        The other overrides are values of variables, which the binder gets. Raises OptionError for an override that
        matches neither, and SqlError for a value that SQL cannot contain.
        """
        scope: Mapping[str, object] = {} if frame is None else ChainMap(frame.f_locals, frame.f_globals)
        known = {set_variable(s)[0] for s in statements if isinstance(s, Passthrough)}
        variables = {name.lower(): value for name, value in (overrides or {}).items() if name.lower() in known}
        rest = {name: value for name, value in (overrides or {}).items() if name.lower() not in known}
        for name, value in variables.items():
            Source(OUTSIDE, f"{name}={value}").check_characters()
        _check_overrides(statements, rest)
        return replace(self._binder, scope=scope, variables=variables), rest

    def _note_start(self, event: Event) -> None:
        self.has_started |= isinstance(event, JobStarted)

    def _check_open(self) -> None:
        if self.workspace.is_closed:
            raise UserError("the session is closed", help="open another one: graphlearn.connect(…)")

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

    def _dry_run(
        self,
        binder: Binder,
        statements: list[Statement],
        overrides: Overrides,
        resume: str | None,
        *,
        read_only: bool = False,
    ) -> None:
        """Raise the errors that a run would end in; see `dry_run`."""
        if resume is not None and not any(self._resumed(statement, resume) for statement in statements):
            raise UserError(f"run {resume} trained {self._model_of(resume)}, which the file does not create")
        if engine.in_transaction(self.connection):
            raise UserError("a transaction is open", help="COMMIT or ROLLBACK it first")
        dry_run(binder, statements, lambda name: _overrides_for(name, overrides), read_only=read_only)

    def _execute(
        self, binder: Binder, statement: Statement, options: RunOptions, show: Show | None = None, *, lazy: bool = False
    ) -> Result:
        """Run one statement. A query that is not `lazy` runs to its end even if its rows are not used."""
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
                with whole_file(self.connection, statement, query) as query:
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
        from graphlearn.jobs.heartbeat import Heartbeat

        if engine.in_transaction(self.connection):
            raise in_transaction(create)
        emit, close = self._sink()
        try:
            bound = binder.model(create, _overrides_for(create.name, options.overrides))
            read = bound.request.inputs.values()
            with binder.registered(bound), errors_of(bound), self.workspace.reading(read):
                resume = self._resumed(create, options.resume)
                stored = resume is None and binder.reader.store.exists(create.name)
                request, sizes, fingerprint = bound.request, None, None
                if not (stored and create.if_not_exists):
                    self.workspace.check_not_training(create.name)  # before reading the input
                    with Heartbeat(emit).phase(
                        "measure", None
                    ):  # the run, which has phases too, may turn out unnecessary
                        sizes = measure(self.connection, request)
                    fingerprint = request.fingerprint(sizes.fingerprints)
                if stored:
                    unchanged = self._stored(binder, bound, fingerprint, options.force)
                    if unchanged is not None:
                        emit(_unchanged(unchanged))
                        return unchanged
                tell = fan_out(self._note_start, emit)
                return create_model(
                    self.workspace, request, emit=tell, sizes=sizes, resume=resume, cursor=self.connection
                )
        finally:
            close()

    def _stored(self, binder: Binder, bound: BoundModel, fingerprint: str | None, force: bool) -> ModelResult | None:
        """The result if the stored model already matches the statement; None if it must be trained.

        Raises ModelExists if it differs and must not be replaced, ArtifactError if it is damaged.
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
        return ModelResult.stored(artifact, status="unchanged")

    def _trained_before(self, model: str, fingerprint: str | None) -> Artifact | None:
        """Make an older version with this fingerprint current again and return it; None if there is none."""
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
            found = store.versions(statement.name)  # raises ModelNotFound with similar names, before the lock is taken
        with self.workspace.writing():
            store.drop(statement.name)
        return DropResult(model=found[-1].model, versions=tuple(artifact.version for artifact in found))

    def _resumed(self, statement: Statement, resume: str | None) -> str | None:
        """The run to continue, if it is a run of this statement's model."""
        if resume is None or not isinstance(statement, CreateModel):
            return None
        return resume if fold(self._model_of(resume)) == fold(statement.name) else None

    def _model_of(self, run: str) -> str:
        return RunFolder.open(self.workspace.folder, run).model

    def _sink(self) -> tuple[Emit, Callable[[], None]]:
        """A function that receives the events of a job, and one to call at its end."""
        from graphlearn.sinks import choose_sink, is_lively

        if self._emit is not None:
            return self._emit, lambda: None
        ipython = sys.modules.get("IPython")
        if is_lively(sys.stderr) or (ipython is not None and ipython.get_ipython() is not None):
            sink = choose_sink(sys.stderr)
            return sink, sink.close
        return silent, lambda: None


def _does_something(statement: Statement) -> bool:
    """Whether a statement computes or changes something as soon as it runs; CREATE MODEL does when its job starts."""
    if isinstance(statement, Passthrough):
        return statement.kind not in ("SET", "RESET", "USE", "LOAD")
    return isinstance(statement, DropModel)


@contextmanager
def _noting(results: Sequence[ModelResult]) -> Iterator[None]:
    """Add the models stored so far to an error of the workspace, such as a file that cannot be reopened."""
    try:
        yield
    except WorkspaceError as error:
        if results:
            stored = ", ".join(f"{result.model} version {result.version}" for result in results)
            error.add_note(f"already stored: {stored}")
        raise


def _say(emit: Emit | None, message: str) -> None:
    """Send a message about the workspace to `emit` or, without it, to stderr."""
    if emit is not None:
        emit(Note(message=message))
    else:
        print(message, file=sys.stderr)


def _warn(emit: Emit | None, message: str, place: Place) -> None:
    """Send a warning about a statement's rows to `emit` or, without it, as a Python warning placed in the SQL."""
    if emit is not None:
        emit(Note(message=message, level="warning"))
    else:
        warnings.warn_explicit(message, UserWarning, filename=place.file, lineno=place.line, module="graphlearn")


def _unchanged(result: ModelResult) -> JobFinished:
    """The event for an unchanged model."""
    return JobFinished(
        run=result.run or "",
        model=result.model,
        family=result.family,
        status="unchanged",
        seconds=result.seconds,
        version=result.version,
        metrics=result.metrics,
        split=result.split,
    )


def _selected(statements: list[Statement], select: Collection[str] | None) -> list[Statement]:
    """The statements without those CREATE MODELs that are not selected. Raises UserError for an unknown name."""
    if not select:
        return statements
    names = {fold(s.name): s.name for s in statements if isinstance(s, CreateModel)}
    for name in select:
        if fold(name) not in names:
            raise UserError(f"no statement creates a model {name}", help=did_you_mean(name, list(names.values())))
    wanted = {fold(name) for name in select}
    return [s for s in statements if not isinstance(s, CreateModel) or fold(s.name) in wanted]


def _overrides_for(model: str, overrides: Overrides | None) -> Overrides:
    """The overrides that apply to a model, without its name as a prefix."""
    found: dict[str, object] = {}
    for name, value in (overrides or {}).items():
        owner, _, key = name.rpartition(".")
        if not owner or fold(owner) == fold(model):
            found[key.lower()] = value
    return found


def _reads_variable(statements: list[Statement], name: str) -> bool:
    """Whether a statement contains getvariable('name') or $name."""
    for statement in statements:
        tokens = statement.tokens
        for i, token in enumerate(tokens[1:], 1):
            sign = tokens[i - 1].text == "$" or (i > 1 and tokens[i - 2].word == "GETVARIABLE")
            if sign and token.value.lower() == name.lower():
                return True
    return False


def _check_overrides(statements: list[Statement], overrides: Overrides | None) -> None:
    """Raise OptionError for overrides of models that no statement creates."""
    creates = [s.create if isinstance(s, ExplainModel) else s for s in statements]
    names = [s.name for s in creates if isinstance(s, CreateModel)]
    for name, value in (overrides or {}).items():
        owner, _, key = name.rpartition(".")
        if not owner and _reads_variable(statements, key):
            place = Place(file="--set", text=f"{name}={value}", start=0, length=len(name))
            help = f"add SET VARIABLE {key} = …; and read it with getvariable('{key}'); --set replaces its value"
            raise OptionError(
                f"no statement sets the variable {key}, which the SQL reads", key=key, place=place, help=help
            )
        if not names or (owner and fold(owner) not in map(fold, names)):
            place = Place(file="--set", text=f"{name}={value}", start=0, length=len(name))
            missing = f"a model {owner}" if owner and names else "a model"
            near = did_you_mean(owner, names) if owner and names else None
            raise OptionError(f"no statement creates {missing}", key=key, place=place, help=near)
