"""Binding: resolves the models, options, inputs and table functions that a statement names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from graphlearn.errors import (
    GraphLearnError,
    InputError,
    ModelExists,
    ModelNotFound,
    OptionError,
    Place,
    SqlError,
    UserError,
    did_you_mean,
)
from graphlearn.jobs.registry import table_functions, takes_keys
from graphlearn.sql import engine
from graphlearn.sql.calls import Call, calls_inside, find_calls
from graphlearn.sql.diagnose import Fault, around
from graphlearn.sql.options import constant, override_place, read_options
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Token
from graphlearn.sql.statements import CreateModel, InputText, Passthrough, Statement
from graphlearn.sql.words import CATALOG, NO_ALIAS
from graphlearn.storage.artifacts import fold
from graphlearn.storage.columns import literal, quoted
from graphlearn.storage.interrupt import INTERRUPTED, interruption
from graphlearn.storage.memory import check_address_space

if TYPE_CHECKING:
    from graphlearn.catalog import LiveTable
    from graphlearn.jobs.family import Role
    from graphlearn.jobs.functions import ModelReader
    from graphlearn.jobs.request import ModelRequest
    from graphlearn.storage.workspace import Workspace


@dataclass(frozen=True)
class BoundModel:
    """A CREATE MODEL that can run. `names` are the Python objects that its queries read as tables."""

    create: CreateModel
    request: ModelRequest
    columns: dict[str, dict[str, str]]
    names: dict[str, object]


@dataclass
class Binder:
    """Binds statements on the user's connection. `tables` makes the system tables, also with
    the columns of the TYPE names that it is called with. `scope` the user's Python variables,
    `variables` the values that replace those of SET VARIABLE (a str is text if the statement sets a text). `warn` is
    called with warnings about the rows of a call and the place of the call.

    `dry_run`: nothing is computed and tables stay empty. `planned` maps folded names to what earlier statements would
    do to the models: the bound model, or None if it would be dropped.
    """

    workspace: Workspace
    reader: ModelReader
    tables: Callable[[Collection[str]], Mapping[str, LiveTable]]
    scope: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, object] = field(default_factory=dict)
    warn: Callable[[str, Place], None] = lambda _, __: None
    dry_run: bool = False
    planned: dict[str, BoundModel | None] = field(default_factory=dict)
    _state: list[str] = field(default_factory=list)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The user's connection, with its temporary tables, variables and open transaction."""
        return self.workspace.connection

    def names(self, tokens: Iterable[Token]) -> dict[str, object]:
        """The Python variables that a statement with these tokens may read as tables."""
        words = {t.value for t in tokens if t.kind in ("name", "quoted")}
        return {word: self.scope[word] for word in words if word in self.scope}

    def offer_tables(self, words: Iterable[str], also: Collection[str] = ()) -> None:
        """Register the system tables among `words` as temporary views, unless the user has a table of that name.

        `also`: the TYPE names of models that are not stored yet.
        """
        wanted = {word.lower() for word in words} & set(CATALOG)
        tables = self.tables(also) if wanted else {}
        for name in wanted:
            found = self.connection.execute(
                "SELECT temporary, false FROM duckdb_tables() WHERE lower(table_name) = $1 AND (temporary OR "
                "(database_name, schema_name) = (current_database(), current_schema())) UNION ALL "
                "SELECT temporary, temporary FROM duckdb_views() WHERE lower(view_name) = $1 AND (temporary OR "
                "(database_name, schema_name) = (current_database(), current_schema()))",
                [name],
            ).fetchall()
            ours, users = any(mine for _, mine in found), any(not mine for _, mine in found)
            if ours and users:
                self.connection.unregister(name)
            elif not users and not (ours and self._keeps(name, tables[name].schema.names)):
                self.connection.register(name, tables[name])

    def _keeps(self, view: str, columns: list[str]) -> bool:
        """Whether a registered table has these columns, or cannot be replaced because a transaction is open."""
        found = self.connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE database_name = 'temp' AND lower(table_name) = $1 "
            "ORDER BY column_index",
            [view],
        ).fetchall()
        return [name for (name,) in found] == columns or engine.in_transaction(self.connection)

    def statement(self, statement: Passthrough) -> tuple[Rewritten, dict[str, object]]:
        """One of DuckDB's statements with its table functions resolved, and the objects it reads."""
        calls = find_calls(statement)
        words = {t.word for t in statement.tokens[:6]}
        if calls and statement.kind == "CREATE" and words & {"VIEW", "MACRO", "FUNCTION"}:
            name = calls[0].function
            raise SqlError(
                f"a view or macro cannot contain {name}()",
                place=statement.place(calls[0].span[0], len(name)),
                help="store the rows in a table: CREATE TABLE … AS FROM " + name + "(…)",
            )
        if calls:  # a mistake in the text comes before one in a call
            engine.statement_type(self.connection, statement.verbatim())
        query, names = self.resolve(statement.verbatim(), calls)
        name, value = set_variable(statement)
        if name in self.variables:
            given = self.variables[name]
            is_text = isinstance(given, str) and [t.kind for t in value] == ["string"]
            query = query.replace(value[0].start, value[-1].end, literal(str(given)) if is_text else str(given))
        return query, names

    def resolve(self, query: Rewritten, calls: list[Call], prefix: str = "_") -> tuple[Rewritten, dict[str, object]]:
        """The query with each call replaced by the name of an object, and the objects that it reads, by name."""
        names = self.names(query.tokens)
        for number, call in enumerate(calls, 1):
            name = f"{prefix}_{call.function}_{number}"
            names[name] = self._source(call)
            alias = "" if call.alias else f" AS {quoted(call.function)}"
            query = query.replace(*call.span, name + alias)
        return query, names

    def model(self, create: CreateModel, overrides: Mapping[str, object] | None = None) -> BoundModel:
        """Check name, type, options, roles and columns. Raises UserError at the place of the first mistake."""
        from graphlearn.jobs.registry import family
        from graphlearn.jobs.request import ModelRequest

        self._check_name(create)
        with placed(create.at(create.family_span)):
            kind = family(create.family)
            check_address_space()
        options = read_options(self.connection, create, kind.options_type, overrides)
        roles = _roles(create, kind.roles(options, [text.role for text in create.inputs if text.role]))
        inputs: dict[str, str] = {}
        queries: dict[str, Rewritten] = {}
        columns: dict[str, dict[str, str]] = {}
        names: dict[str, object] = {}
        for role, text in roles.items():
            calls = find_calls(Passthrough(create.source, *text.span, "SELECT"))
            if calls:
                engine.statement_type(self.connection, create.verbatim(text.span))
            query, read = self.resolve(create.verbatim(text.span), calls, f"__{role}")
            columns[role] = engine.columns(self.connection, query, read)
            used = self._used(query, read)
            _check_rereadable(query, used)
            names |= used
            inputs[role], queries[role] = query.text, query
        for role, query in queries.items():
            try:
                kind.check(role, columns, options)
            except InputError as error:
                raise error.at(_column_place(query, columns[role], error.message)) from None
            except OptionError as error:
                raise error.at(_option_place(create, error)) from None
        try:
            for name, reason in kind.unused(columns, options).items():
                options.refuse([name], reason, "leave it out")
            if getattr(options, "device", None) == "cuda":
                from graphlearn.models.core.device import choose_device

                choose_device("cuda")  # raises without a GPU; only this case pays for importing torch
        except OptionError as error:
            raise error.at(_option_place(create, error, overrides)) from None
        request = ModelRequest(
            name=create.name, family=create.family, options=options, inputs=inputs, statement=create.text
        )
        return BoundModel(create, request, columns, names)

    @contextmanager
    def registered(self, bound: BoundModel) -> Iterator[None]:
        """Inside the block, the Python objects that a model reads are temporary views on the user's connection."""
        with ExitStack() as stack:
            for name, value in bound.names.items():
                with suppress(duckdb.Error):  # a variable with the same name as a column
                    self.connection.register(name, value)
                    stack.callback(self.connection.unregister, name)
            yield

    def exists(self, model: str) -> bool:
        """Whether the model exists, or will exist when the statement runs."""
        key = fold(model)
        return self.planned[key] is not None if key in self.planned else self.reader.store.exists(model)

    def _used(self, query: Rewritten, names: dict[str, object]) -> dict[str, object]:
        """The objects that the query may read: those it names, unless a table has that name."""
        words = {token.value for token in query.tokens}
        return {
            name: value
            for name, value in names.items()
            if isinstance(value, engine.Watched) or (name in words and not engine.is_table(self.connection, name))
        }

    def _check_name(self, create: CreateModel) -> None:
        if create.name.lower() in CATALOG:
            raise UserError(
                f"{create.name} is the name of a system table",
                place=create.at(create.name_span),
                help="choose another name for the model",
            )
        parts = [part.lower() for part in create.name.split(".")]
        found = self.connection.execute(
            "SELECT 'table', database_name, schema_name, table_name, temporary FROM duckdb_tables() UNION ALL "
            "SELECT 'view', database_name, schema_name, view_name, temporary FROM duckdb_views() WHERE NOT internal"
        ).fetchall()
        current = self.connection.execute("SELECT current_database(), current_schema()").fetchall()[0]
        for kind, database, schema, name, temporary in found:
            full = [str(part).lower() for part in (database, schema, name)]
            near = temporary or (database, schema) == current if len(parts) == 1 else True
            if near and full[-len(parts) :] == parts:
                raise UserError(
                    f"{create.name} is the name of a {kind}",
                    place=create.at(create.name_span),
                    help="choose another name for the model",
                )

    def _source(self, call: Call) -> engine.Watched:
        """The rows of a call. Errors are placed at the argument that caused them."""
        from graphlearn.jobs import functions
        from graphlearn.jobs.registry import family

        place = call.source.place
        named = {
            key: constant(self.connection, Rewritten.verbatim(call.source, *value))
            for key, (_, value) in call.named.items()
        }
        try:
            argument, cursor = self._argument(call)
        except SqlError:
            self._check_function(call)
            raise
        with placed(place(call.span[0], len(call.function))):
            try:
                at = place(*_span(call.span))
                asked = functions.Call(call.function, argument, named, cursor, lambda text: self.warn(text, at))
                planned = self.planned.get(fold(call.model))
                if planned is not None:
                    request = planned.request
                    shape = family(request.family).shape(request, planned.columns)
                    source = functions.planned(request, shape, asked)
                elif fold(call.model) in self.planned:
                    raise ModelNotFound(f'model "{call.model}" is dropped by an earlier statement')
                else:
                    source = self.reader.open(call.model, asked)
                    source = source.empty() if self.dry_run else source
            except OptionError as error:
                raise error.at(_named_place(call, error)) from None
            except InputError as error:
                raise error.at(place(*_span(call.argument)) if call.argument else None) from None
            except GraphLearnError as error:
                about_model = not isinstance(error, UserError) or isinstance(error, ModelNotFound)
                raise error.at(place(*_span(call.model_span)) if about_model else None) from None
        return engine.Watched(source, place(*_span(call.span)))

    def _check_function(self, call: Call) -> None:
        """Raise UserError if the model exists and has no such function, whatever its argument."""
        from graphlearn.jobs import functions

        planned = self.planned.get(fold(call.model))
        family_name, options = "", {}
        if planned is not None:
            family_name, options = planned.request.family.lower(), asdict(planned.request.options)
        else:
            with suppress(GraphLearnError):
                artifact = self.reader.store.load(call.model)
                family_name, options = functions.family_of(artifact), dict(functions.options_of(artifact))
        if family_name:
            with placed(call.source.place(call.span[0], len(call.function))):
                functions.function_of(family_name, call.function, options)

    def _argument(self, call: Call) -> tuple[str | None, Callable[[], duckdb.DuckDBPyConnection]]:
        """The SQL of the relation that a call reads, and a factory of cursors that can run it."""
        query = _keys(call) if takes_keys(call.function) else call.question()
        if query is None:
            return None, self.cursor
        inner = calls_inside(call)
        query, names = self.resolve(query, inner)
        try:
            engine.columns(self.connection, query, names)
        except SqlError as error:
            raise _about_around(call, error) or error from None
        if self.dry_run:
            rows = engine.arrow(self.connection, "FROM (" + query + "\n) LIMIT 0", names)
        elif inner or not self._is_shared(query):
            rows = engine.arrow(self.connection, query, names)
        else:
            return query.text, self.cursor

        def cursor() -> duckdb.DuckDBPyConnection:
            made = self.cursor()
            made.register("__question", rows)
            return made

        return "FROM __question", cursor

    def _is_shared(self, query: Rewritten) -> bool:
        """Whether another cursor can run the query: no temporary tables, Python objects or uncommitted data."""
        if engine.in_transaction(self.connection):
            return False
        temporary = self.connection.execute(
            "SELECT lower(table_name) FROM duckdb_tables() WHERE temporary "
            "UNION ALL SELECT lower(view_name) FROM duckdb_views() WHERE temporary AND NOT internal"
        ).fetchall()
        if {name for (name,) in temporary} & {token.value.lower() for token in query.tokens}:
            return False
        cursor = self.cursor()
        try:
            engine.columns(cursor, query)
        except GraphLearnError:
            return False
        finally:
            cursor.close()
        return True

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor with the search path and variables that the user's connection had at the last call of `look`."""
        cursor = self.workspace.cursor()
        for setting in self._state:
            cursor.execute(setting)
        return cursor

    def look(self, statement: Statement) -> None:
        """Before each statement: register the system tables that it names, and save the state for new cursors.

        Only the relation of a table function is read by a cursor of its own, so other statements save no state.
        """
        self._state = []
        if engine.is_aborted(self.connection):
            return
        words = {token.value.lower() for token in statement.tokens}
        self.offer_tables(words)
        if words & set(table_functions()):
            self._state = self._settings()

    def _settings(self) -> list[str]:
        """Statements that give a new cursor the search path, time zone and variables of the user's connection."""
        found: list[str] = []
        path = self.connection.execute("SELECT current_setting('search_path')").fetchall()[0][0]
        if path:
            found.append(f"SET search_path = {literal(path)}")
        zone = self.connection.execute("SELECT current_setting('TimeZone')").fetchall()[0][0]
        found.append(f"SET SESSION TimeZone = {literal(zone)}")
        variables = self.connection.execute("SELECT name, value, type FROM duckdb_variables()").fetchall()
        for name, value, type_name in variables:
            typed = "NULL" if type_name == '"NULL"' else f"{literal(value)}::{type_name}"
            found.append(f"SET VARIABLE {quoted(name)} = {typed}")
        return found


def set_variable(statement: Passthrough) -> tuple[str, list[Token]]:
    """Name (lower case) and value tokens of SET VARIABLE name = value; an empty name for other statements."""
    tokens = statement.tokens
    if statement.kind == "SET" and len(tokens) > 4 and tokens[1].word == "VARIABLE":
        return tokens[2].value.lower(), tokens[4:]
    return "", []


@contextmanager
def placed(place: Place) -> Iterator[None]:
    """Give errors raised inside the block this place, unless they have one."""
    try:
        yield
    except GraphLearnError as error:
        raise error.at(place) from None


@contextmanager
def errors_of(bound: BoundModel) -> Iterator[None]:
    """Place the errors that a job raises inside the block in the user's statement."""
    create = bound.create
    try:
        yield
    except InputError as error:
        wanted = [text for text in create.inputs if not error.role or fold(text.role or error.role) == fold(error.role)]
        raise error.at(create.verbatim(wanted[0].span).place() if wanted else create.place()) from None
    except OptionError as error:
        raise error.at(_option_place(create, error)) from None
    except UserError as error:
        raise error.at(create.place()) from None
    except INTERRUPTED as error:
        raise interruption(error) from None
    except duckdb.Error as error:
        query = create.verbatim(create.inputs[0].span if len(create.inputs) == 1 else None)
        raise replace(Fault.from_exception(error), start=None).error(query) from None


def in_transaction(create: CreateModel) -> SqlError:
    """The error for CREATE MODEL in an open transaction."""
    return SqlError(
        "CREATE MODEL cannot run inside a transaction",
        place=create.place(),
        help="COMMIT or ROLLBACK first; publishing a model cannot be rolled back",
    )


def taken(create: CreateModel, why: str = "") -> ModelExists:
    """The error for a model name that is taken."""
    return ModelExists(
        f"model {create.name} already exists" + (f": {why}" if why else ""),
        place=create.at(create.name_span),
        help="write CREATE OR REPLACE MODEL to train a new version of it",
    )


def _roles(create: CreateModel, roles: tuple[Role, ...]) -> dict[str, InputText]:
    """The inputs by role. Raises InputError for roles that the family does not have and for missing ones."""
    known = [role.name for role in roles]
    found: dict[str, InputText] = {}
    for text in create.inputs:
        written = text.role or known[0]
        role = next((name for name in known if fold(name) == fold(written)), None)
        if role is None:
            place = create.at(text.role_span)
            help = did_you_mean(written, known)
            raise InputError(f"{create.family} has no role {written}", role=written, place=place, help=help)
        found[role] = text
    for spec in roles:
        if spec.required and spec.name not in found:
            help = f"add {spec.name} AS (SELECT {', '.join(spec.columns)} FROM …)"
            place = create.at(create.family_span)
            raise InputError(f"{create.family} needs an input {spec.name}", role=spec.name, place=place, help=help)
    return found


def _check_rereadable(query: Rewritten, names: Mapping[str, object]) -> None:
    """Raise InputError for an Arrow reader: the rows of a model's input are read more than once."""
    for token in query.tokens:
        if isinstance(names.get(token.value), pa.RecordBatchReader):
            raise InputError(
                f"{token.value} is an Arrow reader, which can be read only once",
                place=query.source.place(token.start, len(token.text)),
                help=f"read it into a table before: {token.value} = {token.value}.read_all()",
            )


def _column_place(query: Rewritten, columns: dict[str, str], message: str) -> Place:
    """The place for a message about columns: the first column that it names and the query writes, else the query."""
    required = ("head", "relation", "tail", "split")
    words = re.findall(r"\w+", message.casefold())
    named = [c for c in columns if c.casefold() in words]
    named.sort(key=lambda c: (c.lower() in required, words.index(c.casefold())))
    for column in named:
        for token in reversed(query.tokens):
            if token.value.casefold() == column.casefold():
                return query.source.place(token.start, len(token.text))
    return query.place()


def _option_place(create: CreateModel, error: OptionError, overrides: Mapping[str, object] | None = None) -> Place:
    """The place of the option's value, else of the family."""
    if overrides and error.key is not None and error.key in overrides:
        return override_place(error.key, overrides[error.key])
    spans = [option.value_span for option in create.options if option.key == error.key]
    return create.at(spans[0] if spans else create.family_span)


def _named_place(call: Call, error: OptionError) -> Place | None:
    spans = call.named.get(error.key or "")
    if spans is None:
        return None
    return call.source.place(*_span(spans[0] if "no argument" in error.message else spans[1]))


def _about_around(call: Call, error: SqlError) -> SqlError | None:
    """The error if the relation names a table or column of the surrounding query, None for other mistakes."""
    found = re.match(
        r'Referenced (?:table|column) "(.+)" (?:not found|was not found)|Table with name (\S+) does not', error.message
    )
    if found is None or error.place is None or not call.span[0] <= error.place.start < call.span[1]:
        return None
    name = (found[1] or found[2]).casefold()
    outside = call.around()
    named = [before for before, token in pairwise(outside) if token.value.casefold() == name]
    alias = any(t.text == ")" or t.word == "AS" or (t.word not in NO_ALIAS and t.kind != "operator") for t in named)
    column = "column" in error.message and (bool(named) or any(t.word == "LATERAL" for t in outside))
    if alias or column or (named and found[1]):
        return around(call.function, found[1] or found[2], error.place)
    return None


def _keys(call: Call) -> Rewritten | None:
    """The query that a function of keys reads: a table or subquery like the other functions, or constant keys."""
    if call.argument is None:
        return None
    argument = Rewritten.verbatim(call.source, *call.argument)
    first, *rest = argument.tokens
    named = first.kind in ("name", "quoted") and first.word != "NULL" and all(t.text == "." for t in rest[::2])
    if first.text == "(" or named:
        return call.question()
    if first.text == "[":
        return "SELECT unnest(" + argument + ") AS key"
    return "SELECT " + argument + " AS key"


def _span(span: tuple[int, int]) -> tuple[int, int]:
    """(start, length) of (start, end)."""
    return span[0], span[1] - span[0]
