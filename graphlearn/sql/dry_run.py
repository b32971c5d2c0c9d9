"""The dry run: binds a whole file before any of it runs.

The statements are bound in order, inside a transaction that is rolled back: tables are created without rows, views and
settings normally; queries and changes of data are only explained; models are checked and recorded. Settings are
restored at the end. What is unknown before the file runs (a file that COPY will write, a table in a database that
ATTACH will open) is left to the run.

A workspace that is open read-only can be planned too: tables and views are then created in an empty database that comes
first in the search path. What a file alters in the workspace's own tables is left to the run.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from graphlearn.errors import (
    ArtifactError,
    GraphLearnError,
    InputError,
    ModelExists,
    ModelNotFound,
    Place,
    SqlError,
    UserError,
    raise_all,
)
from graphlearn.sql import engine
from graphlearn.sql.binding import Binder, BoundModel, errors_of, in_transaction, placed, taken
from graphlearn.sql.calls import find_calls
from graphlearn.sql.copies import SEVERAL_FILES, local_path, target_of
from graphlearn.sql.diagnose import MissingError
from graphlearn.sql.options import OUTSIDE
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.scratch import REFUSED, has_table, scratch
from graphlearn.sql.semicolon import SemicolonError
from graphlearn.sql.source import Token
from graphlearn.sql.statements import CreateModel, DropModel, ExplainModel, Passthrough, Statement
from graphlearn.sql.words import CATALOG, RESERVED
from graphlearn.storage.artifacts import ArtifactStore, fold
from graphlearn.storage.columns import literal, quoted
from graphlearn.storage.interrupt import to_the_end

if TYPE_CHECKING:
    from graphlearn.jobs.dataflow import Dataflow

_CHANGES_COLUMNS = frozenset(("ALTER", "DROP", "CREATE"))
"""First words of statements after which a table may have other columns, or none."""
_EXPLAINED = frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE_INTO", "COPY"))
_EXECUTED = frozenset(("CREATE", "DROP", "ALTER"))
_SETTINGS = frozenset(("SET", "VARIABLE_SET"))
_OPENING = frozenset(("COPY", "ATTACH", "LOAD", "INSTALL", "CALL", "EXECUTE", "PREPARE", "EXPORT", "PRAGMA"))
"""Kinds of statements whose effects, unknown to a dry run, later statements may need."""

_FILLING = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "ALTER", "WITH"))
"""First words of statements that may change data; a plan does not execute them."""

Overrides = Callable[[str], Mapping[str, object]]
"""From a model's name to the options given for it outside the file."""


Step = tuple[Rewritten, dict[str, object]]
"""A statement that a dry run has executed, and the objects it read."""


def dry_run(
    binder: Binder, statements: list[Statement], overrides: Overrides, *, read_only: bool = False
) -> list[BoundModel]:
    """Bind all statements without changing anything. Returns the models that they create.

    `read_only`: the database is, although the file may change it. Raises the first error, with the rest in its
    `others`.
    """
    bound: list[BoundModel] = []
    errors: list[GraphLearnError] = []
    done: list[Step] = []
    binder = replace(binder, dry_run=True, planned={})
    idle: dict[str, CreateModel] = {}
    made: list[Path] = []
    blind = False  # an earlier statement has effects that only the run will show
    broken: set[str] = set()  # names in statements with an error; what they would create is missing only for that
    altered = False  # an earlier statement would change stored tables
    transaction = False
    _offer_tables(binder, statements)
    with _rolled_back(binder.connection, read_only=read_only) as follow:
        for statement in statements:
            try:
                transaction = _in_transaction(statement, transaction)
                _check_used(binder, statement, overrides, idle)
                blind |= _one(binder, statement, overrides, bound, done)
                _check_target(binder, statement, made)
            except GraphLearnError as error:
                refused = read_only and REFUSED in error.message  # it binds, but must change nothing here
                altered |= refused and isinstance(statement, Passthrough) and statement.kind in _CHANGES_COLUMNS
                blind |= altered
                follows = altered and isinstance(error, SqlError | InputError)
                if isinstance(error, MissingError | ModelNotFound):
                    follows |= blind or _missing(error) in broken
                if not refused and not follows:
                    errors.append(error)
                if not refused:
                    broken |= _made(statement, error)
            if engine.is_aborted(binder.connection):
                _again(binder.connection, done)
            follow()
    raise_all(_once(errors))
    return bound


def _once(errors: list[GraphLearnError]) -> list[GraphLearnError]:
    """The errors, but only one for each option given outside the file, which may be wrong for every model."""
    seen: set[Place] = set()
    found = []
    for error in errors:
        outside = error.place is not None and error.place.file == OUTSIDE
        if error.place is None or not outside or error.place not in seen:
            found.append(error)
        if error.place is not None:
            seen.add(error.place)
    return found


def _offer_tables(binder: Binder, statements: list[Statement]) -> None:
    """Register the system tables with the columns that they will have when the statements have run."""
    words = {token.value.lower() for statement in statements for token in statement.tokens} & set(CATALOG)
    binder.offer_tables(words, [s.family for s in statements if isinstance(s, CreateModel)])


def _made(statement: Statement, error: GraphLearnError) -> set[str]:
    """The folded names that a statement with an error would have created."""
    if isinstance(statement, CreateModel):
        return {fold(statement.name)}
    tokens = statement.tokens
    if isinstance(error, SemicolonError) or tokens[0].word in ("COPY", "ATTACH"):
        made = tokens
    elif tokens[0].word == "CREATE":
        made = list(takewhile(lambda token: token.word != "AS" and token.text != "(", tokens))
    else:
        made = []
    return _names(made)


def _missing(error: GraphLearnError) -> str:
    """The folded name at the place of an error about something missing."""
    place = error.place
    return "" if place is None else fold(place.text[place.start : place.start + place.length].strip("\"'"))


def _again(connection: duckdb.DuckDBPyConnection, done: list[Step]) -> None:
    """Start a new transaction after an error has aborted one, and repeat the steps done in it."""
    connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    for query, names in done:
        engine.rows(connection, query, names)


@dataclass(frozen=True)
class PlannedModel:
    """What a run would do for one CREATE MODEL. `plan` is None if it depends on data that only the run creates.

    `unchanged`: the stored model already matches the statement, so the run would not train it.
    """

    name: str
    family: str
    statement: str
    unchanged: bool
    plan: Dataflow | None


def plan(
    binder: Binder, statements: list[Statement], overrides: Overrides, *, read_only: bool = False
) -> list[PlannedModel]:
    """The plans of the models in a file that `dry_run` has accepted. Inputs are counted; nothing is changed.

    Tables that the file creates from queries become views, so that their rows are counted without being stored.
    `read_only`: the database is, although the file may change it. Raises the error that a run would raise for a model
    and its inputs, unless they depend on data that only the run creates.
    """
    found: list[PlannedModel] = []
    done: list[Step] = []
    unknown: set[str] = set()  # folded names of tables whose rows only the run will know
    blind = False  # an earlier statement may have any effect
    binder = replace(binder, dry_run=True, planned={})
    _offer_tables(binder, statements)
    with _rolled_back(binder.connection, read_only=read_only) as follow:
        for statement in statements:
            if isinstance(statement, Passthrough):
                blind |= statement.kind in _OPENING
                derived = bool(find_calls(statement)) or not unknown.isdisjoint(_names(statement.tokens))
                if statement.kind in _FILLING or (derived and statement.kind in ("CREATE", "SET")):
                    unknown |= _changed(statement)
                try:
                    done += _preview(binder, statement, read_only)
                except GraphLearnError:  # it passed the dry run, so this error depends on data
                    unknown |= _changed(statement)
            elif isinstance(statement, CreateModel):
                read = (token for text in statement.inputs for token in statement.verbatim(text.span).tokens)
                settled = not blind and unknown.isdisjoint(_names(read))
                found.append(_planned(binder, statement, overrides(statement.name), settled=settled))
            if engine.is_aborted(binder.connection):
                _again(binder.connection, done)
            follow()
    return found


def _names(tokens: Iterable[Token]) -> set[str]:
    """The folded names, and strings, among the tokens."""
    words = RESERVED | {"REPLACE", "EXISTS"}
    return {fold(t.value) for t in tokens if t.kind in ("name", "quoted", "string") and t.word not in words}


def _changed(statement: Passthrough) -> set[str]:
    """The folded names of what the statement may create or change: those before its query or values."""
    query = {"AS", "SELECT", "VALUES", "SET", "USING"} | ({"FROM"} if statement.kind != "DELETE" else set())
    if statement.kind == "WITH":
        return _names(statement.tokens)
    return _names(takewhile(lambda token: token.word not in query and token.text != "(", statement.tokens[1:]))


def _planned(binder: Binder, create: CreateModel, overrides: Mapping[str, object], *, settled: bool) -> PlannedModel:
    """See `plan`. `settled`: what statements before have created is known, as far as the inputs name it."""
    from graphlearn.jobs.create import measure
    from graphlearn.jobs.registry import family

    binder.look(create)
    store, dataflow, fingerprint = binder.reader.store, None, None
    stored = store.exists(create.name)
    kept = create.if_not_exists and stored
    try:
        bound = binder.model(create, overrides)
        with binder.registered(bound), errors_of(bound):
            request, kind = bound.request, family(create.family)
            sizes = measure(binder.connection, request)
            if settled:  # what does not fit into the memory is still planned
                kind.fits(request, sizes, sys.maxsize)
            dataflow = kind.plan(request, sizes)
            fingerprint = request.fingerprint(sizes.fingerprints)
        binder.planned[fold(create.name)] = bound
    except UserError:
        computed = any(find_calls(Passthrough(create.source, *text.span, "SELECT")) for text in create.inputs)
        if settled and not computed and not kept:  # a run does not read the inputs of a model that it keeps
            raise
    unchanged = kept or (dataflow is not None and stored and _is_stored(store, create, fingerprint))
    return PlannedModel(create.name, create.family, create.text, unchanged, dataflow)


def _is_stored(store: ArtifactStore, create: CreateModel, fingerprint: str | None) -> bool:
    """Whether a version that can be used has this fingerprint; without OR REPLACE, it must be the current one."""
    with suppress(ArtifactError):
        versions = store.versions(create.name) if create.or_replace else [store.current(create.name)]
        return any(a.damage is None and a.manifest.get("fingerprint") == fingerprint for a in versions)
    return False


def _preview(binder: Binder, statement: Passthrough, read_only: bool) -> list[Step]:
    """Run a statement that creates tables or changes settings; a table from a query becomes a view."""
    binder.look(statement)
    query, names = binder.statement(statement)
    tokens = statement.tokens
    words = [t.word for t in tokens]
    kind = engine.statement_type(binder.connection, query)
    steps: list[Step] = []
    if _creates_from_query(words):
        table = tokens[words.index("TABLE")]
        name = words.index("TABLE") + (4 if words[words.index("TABLE") + 1 :][:3] == ["IF", "NOT", "EXISTS"] else 1)
        last = name
        while last + 2 < len(tokens) and tokens[last + 1].text == ".":
            last += 2
        if "REPLACE" in words[:3] and (not read_only or has_table(binder.connection, tokens[last].value)):
            old = statement.verbatim((tokens[name].start, tokens[last].end))
            steps.append(("DROP TABLE IF EXISTS " + old, {}))
        query = query.replace(table.start, table.end, "VIEW")
    if kind in _SETTINGS or (kind in _EXECUTED and "SECRET" not in words[:6]):
        steps.append((query, names))
    for step in steps:
        engine.rows(binder.connection, *step)
    return steps


def _in_transaction(statement: Statement, before: bool) -> bool:
    """Whether a transaction is open after this statement. Raises SqlError for CREATE MODEL in a transaction."""
    if before and isinstance(statement, CreateModel):
        raise in_transaction(statement)
    word = statement.kind if isinstance(statement, Passthrough) else ""
    return word in ("BEGIN", "START") or (before and word not in ("COMMIT", "ROLLBACK", "END", "ABORT"))


def _one(binder: Binder, statement: Statement, overrides: Overrides, bound: list[BoundModel], done: list[Step]) -> bool:
    """Bind one statement. Returns whether its effects are unknown until the run."""
    binder.look(statement)
    match statement:
        case CreateModel():
            try:
                model = binder.model(statement, overrides(statement.name))
            except MissingError:
                binder.planned.pop(fold(statement.name), None)
                raise
            check_taken(binder, model)
            bound.append(model)
            if not (statement.if_not_exists and binder.exists(statement.name)):
                binder.planned[fold(statement.name)] = model
        case ExplainModel():
            binder.model(statement.create, overrides(statement.create.name))
        case DropModel():
            if not binder.exists(statement.name) and not statement.if_exists:
                with placed(statement.at(statement.name_span)):
                    binder.reader.store.versions(statement.name)
            binder.planned[fold(statement.name)] = None
        case Passthrough():
            return _passthrough(binder, statement, done)
    return False


def check_taken(binder: Binder, model: BoundModel) -> None:
    """Refuse CREATE MODEL if the stored model certainly differs: it has another type or other options."""
    create, store = model.create, binder.reader.store
    if create.or_replace or create.if_not_exists or not binder.exists(create.name):
        return
    planned = binder.planned.get(fold(create.name))
    if planned is not None:
        raise taken(create, "an earlier statement of this file creates it")
    stored = store.current(create.name)
    if stored.damage is not None:  # the run refuses it, unless it trains the model again
        return
    manifest = stored.manifest
    same = manifest.get("family") == create.family and manifest.get("options") == _plain(asdict(model.request.options))
    if "options" in manifest and not same:
        raise taken(create)


def _check_used(binder: Binder, statement: Statement, overrides: Overrides, idle: dict[str, CreateModel]) -> None:
    """Refuse CREATE OR REPLACE MODEL for a model that an earlier statement trains and no statement in between uses.

    `idle` maps folded names to the CREATE MODELs so far whose models no later statement reads or drops.
    """
    tokens = statement.tokens
    opaque = isinstance(statement, Passthrough) and statement.kind in ("EXECUTE", "CALL", "PREPARE")
    if opaque or any(t.value.lower() in CATALOG for t in tokens):
        idle.clear()
    for name in {fold(t.value) for t in tokens if t.kind == "string"}:
        idle.pop(name, None)
    if isinstance(statement, DropModel):
        idle.pop(fold(statement.name), None)
    if not isinstance(statement, CreateModel) or (statement.if_not_exists and binder.exists(statement.name)):
        return
    first = idle.get(fold(statement.name))
    idle[fold(statement.name)] = statement
    planned = binder.planned.get(fold(statement.name))
    if first is None or planned is None or not statement.or_replace:
        return
    if planned.request.definition() != binder.model(statement, overrides(statement.name)).request.definition():
        raise ModelExists(
            f"line {first.place().line} also trains {statement.name}, and nothing uses it before it is replaced here",
            place=statement.at(statement.name_span),
            help="remove one of the two statements or rename one of the models",
        )


def _check_target(binder: Binder, statement: Statement, made: list[Path]) -> None:
    """Refuse COPY to a file that cannot be created, which DuckDB would report only after computing the rows.

    `made` holds the targets of the COPYs so far: those that write several files create a folder.
    """
    if not isinstance(statement, Passthrough) or statement.kind != "COPY":
        return
    target = target_of(binder.connection, statement)
    path = local_path(binder.connection, target[1]) if target is not None else None
    if target is None or path is None:
        return
    tokens, name = target
    folder, several = path.parent, {t.word for t in statement.tokens} & SEVERAL_FILES
    problem, help = "", None
    if not folder.is_dir() and folder not in made:
        problem = f"there is no folder {folder}"
        help = f"create it first: mkdir -p {shlex.quote(str(folder))}; paths are relative to {Path.cwd()}"
        if folder.exists():
            problem, help = f"{folder} is a file", "choose another folder"
    elif path.is_dir() and not several:
        problem, help = f"{name} is a folder", f"write to a file in it: '{path / 'answers.parquet'}'"
    elif folder.is_dir() and not os.access(folder, os.W_OK):
        problem, help = f"the folder {folder} is not writable", "check its permissions"
    made.append(path)
    if problem:
        place = statement.at((tokens[0].start, tokens[-1].end))
        raise SqlError(f"COPY cannot write {name}: {problem}", place=place, help=help)


def _plain(options: dict[str, object]) -> object:
    return json.loads(json.dumps(options, default=str))


def _passthrough(binder: Binder, statement: Passthrough, done: list[Step]) -> bool:
    query, names = binder.statement(statement)
    kind = engine.statement_type(binder.connection, query)
    words = [t.word for t in statement.tokens]
    if kind in _EXPLAINED:
        engine.rows(binder.connection, "EXPLAIN " + query, names)
    elif (kind == "EXPLAIN" and "ANALYZE" not in words[:2]) or kind in _SETTINGS:
        engine.rows(binder.connection, query, names)
    elif kind in _EXECUTED and "SECRET" not in words[:6]:
        if _creates_from_query(words):
            query = query + "\nWITH NO DATA"
        engine.rows(binder.connection, query, names)
        done.append((query, names))
    return kind in _OPENING


def _creates_from_query(words: list[str]) -> bool:
    """Whether this is CREATE TABLE … AS query, not a table with a column list, a view or a macro."""
    if "TABLE" not in words[:5] or words[0] != "CREATE" or "MACRO" in words[:5] or "FUNCTION" in words[:5]:
        return False
    return "AS" in words[:12] and words[-2:] != ["NO", "DATA"] and words[-2:] != ["WITH", "DATA"]


@contextmanager
def _rolled_back(connection: duckdb.DuckDBPyConnection, *, read_only: bool) -> Iterator[Callable[[], None]]:
    """A transaction that is rolled back, and with it the settings and variables, which DuckDB does not roll back.

    With a scratch database if the stored one is `read_only`. Yields a function to call after each statement.
    """
    with scratch(connection) if read_only else nullcontext(lambda: None) as follow, _transaction(connection):
        yield follow


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    settings = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    variables = connection.execute("SELECT name, value, type FROM duckdb_variables()").fetchall()
    connection.execute("BEGIN")
    try:
        yield
    finally:
        to_the_end(lambda: _roll_back(connection, settings, variables))


def _roll_back(
    connection: duckdb.DuckDBPyConnection, settings: Mapping[str, str | None], variables: list[tuple[str, ...]]
) -> None:
    with suppress(duckdb.TransactionException):  # rolled back already
        connection.execute("ROLLBACK")
    now = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    for name, value in settings.items():
        if now.get(name) != value:
            with suppress(duckdb.Error):  # a setting that cannot be changed while the database is open
                connection.execute(f"SET {name} = {literal(value)}" if value is not None else f"RESET {name}")
    for (name,) in connection.execute("SELECT name FROM duckdb_variables()").fetchall():
        connection.execute(f"RESET VARIABLE {quoted(name)}")
    for name, value, type_name in variables:
        typed = "NULL" if type_name == '"NULL"' else f"{literal(value)}::{type_name}"
        connection.execute(f"SET VARIABLE {quoted(name)} = {typed}")
