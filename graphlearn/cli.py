"""The command line. Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 not started, 130 stopped.

`models`, `show` and `runs` read only the artifact folder, so they work while another process trains.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphlearn import __version__
from graphlearn.errors import GraphLearnError, Interrupted, UserError, WorkspaceError
from graphlearn.running import (
    COMMAND,
    SHOWN,
    Printer,
    check_syntax,
    chosen,
    draw,
    exit_codes,
    is_among,
    note_command,
    offer_resume,
    progress,
    read_settings,
    say,
    way_on,
)

if TYPE_CHECKING:
    from graphlearn.events import Emit
    from graphlearn.session import Session
    from graphlearn.sql.source import Source
    from graphlearn.sql.statements import Statement

HARMLESS = frozenset({"SET", "RESET", "COPY", "LOAD", "INSTALL", "ATTACH", "DETACH", "USE"})
"""First words of other statements that do not change the database."""
WRITES = frozenset({"CALL", "PRAGMA", "INSERT", "UPDATE", "DELETE", "MERGE", "NEXTVAL", "DATABASE"})
"""Words with which a query may change the database all the same."""
_TEMPORARY = frozenset({"TEMP", "TEMPORARY"})
PATIENCE = 10.0
"""Seconds that a query waits for a process that has the database open; stored models answer without it."""


class Reporting(click.Group):
    """A command group that prints GraphLearn's errors and exits with their exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as typed; see `typed`."""
        ctx.meta[COMMAND] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see `GraphLearnError.exit_code`."""
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            stream = getattr(sys, name)
            if stream is None:  # the shell closed it
                setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
            elif mode == "w" and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # print rows even on a terminal without Unicode
        try:
            check_environment()
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except GraphLearnError as error:
            report(error)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, RuntimeError) as error:
            if isinstance(error, RuntimeError) and str(error) != "Query interrupted":  # as DuckDB calls Ctrl-C
                raise
            report(Interrupted("interrupted", help="run the same command again"))
            ctx.exit(Interrupted.exit_code)
        except (ImportError, MemoryError) as error:
            from graphlearn.storage.memory import lack_of_memory

            lack = lack_of_memory(error)
            assert lack is not None
            report(lack)
            ctx.exit(lack.exit_code)
        except OSError as error:
            from graphlearn.storage.files import translate

            known = translate(error, "")
            if known is None:
                raise
            if error.filename is None:
                known = GraphLearnError(f"the output could not be written: {error.strerror}")
            report(known)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what stdout still holds cannot be written either
            ctx.exit(known.exit_code)


def check_environment() -> None:
    """Raise UserError for a variable that names a folder in another encoding than UTF-8, which DuckDB refuses."""
    for name in ("HOME", "TMPDIR", "TEMP", "TMP"):
        try:
            os.environ.get(name, "").encode()
        except UnicodeError:
            raise UserError(f"the environment variable {name} is not UTF-8", help="set it to another folder") from None


def report(error: GraphLearnError) -> None:
    """Print an error and the others found in the same file."""
    for one in (error, *error.others):
        click.echo(one.render(), err=True)
        for note in getattr(one, "__notes__", ()):
            click.echo(f"  = note: {note}", err=True)


def folder_of(workspace: str) -> Path:
    """The artifact folder of a workspace that must exist. Raises WorkspaceError."""
    from graphlearn.storage.workspace import folder_of as artifact_folder
    from graphlearn.storage.workspace import path_of

    path = path_of(workspace)
    folder = artifact_folder(path)
    if not path.exists() and not folder.exists():
        here = sorted(p.name for p in Path().glob("*.duckdb"))
        known = f"found here: {', '.join(here)}" if here else "`graphlearn run FILE` creates it"
        raise WorkspaceError(f"workspace {workspace} does not exist", help=f"specify one with --workspace; {known}")
    return folder


workspace_option = click.option(
    "--workspace",
    "-w",
    default="kg.duckdb",
    show_default=True,
    envvar="GRAPHLEARN_WORKSPACE",
    metavar="FILE",
    help="The DuckDB file. Models and runs are stored in a folder next to it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a model option (dim=400, kg.medical.dim=400) or the value of a SET VARIABLE in the file.",
)


@click.group(cls=Reporting, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="graphlearn")
def main() -> None:
    """Graph learning that lives next to your SQL: a model is a materialized view of a graph query."""


@main.command()
@files_argument
@workspace_option
@click.option("--select", multiple=True, metavar="MODEL", help="Train only this model; may be repeated.")
@click.option("--resume", metavar="RUN", help="Continue a run that was stopped; `graphlearn runs` lists them.")
@set_option
@click.option("--on", "where", default="local", show_default=True, help="Where to run; only local is supported.")
@json_option
@click.option("--force", is_flag=True, help="Train even if nothing has changed.")
@click.option("--quiet", "-q", is_flag=True, help="Print only errors and query results.")
@click.option("--picture/--no-picture", default=True, help="Draw report.png for each run (requires matplotlib).")
def run(
    *,
    files: tuple[Path, ...],
    workspace: str,
    select: tuple[str, ...],
    resume: str | None,
    settings: tuple[str, ...],
    where: str,
    as_json: bool,
    force: bool,
    quiet: bool,
    picture: bool,
) -> None:
    """Check job files, then run them. Models that have not changed are not trained again."""
    from graphlearn.events import fan_out
    from graphlearn.session import connect

    if where != "local":
        raise UserError(f"cannot run on {where!r}", help="this version supports only local; omit --on")
    overrides = read_settings(settings)
    created = check_syntax(files)
    with (
        progress(as_json=as_json, quiet=quiet) as emit,
        connect(workspace, emit=fan_out(note_command, emit)) as session,
        exit_codes(session),
    ):
        printer = Printer(session, "rows" if as_json else "box")
        talk = not quiet and not as_json
        if talk and resume is None and not force:
            offer_resume(session, [name for names in created.values() for name in names])
        for path in chosen(created, select, resume, session):
            try:
                results = session.run_file(
                    path,
                    select=[name for name in select if len(files) == 1 or is_among(name, created[path])],
                    force=force,
                    resume=resume,
                    overrides=overrides,
                    show=printer.show,
                )
            except Interrupted as stopped:
                stopped.help = way_on(session.workspace.folder, stopped.run)
                raise
            for result in results:
                if picture:
                    draw(session, result, talk)


@main.command()
@files_argument
@workspace_option
@set_option
@json_option
def plan(files: tuple[Path, ...], workspace: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check job files and show what a run would do; nothing runs."""
    from graphlearn.events import silent
    from graphlearn.jobs.machine import this_machine
    from graphlearn.printing import to_json_line
    from graphlearn.session import connect
    from graphlearn.storage.workspace import path_of

    overrides, machine = read_settings(settings), this_machine()
    check_syntax(files)
    stored = path_of(workspace).exists()
    with connect(workspace if stored else ":memory:", read_only=stored, emit=silent) as session:
        for path in files:
            for planned in session.plan_file(path, overrides=overrides):
                state = "unchanged" if planned.unchanged else "to train"
                if as_json:
                    operators = planned.plan.table(machine).to_pylist() if planned.plan is not None else None
                    record = {"model": planned.name, "family": planned.family, "unchanged": planned.unchanged}
                    click.echo(to_json_line({**record, "file": str(path), "operators": operators}))
                    continue
                click.echo(f"{planned.name} ({planned.family}): {state}")
                text = (
                    planned.plan.text(machine) if planned.plan is not None else "its input is only known during the run"
                )
                click.echo("".join(f"  {line}\n" for line in text.splitlines()))


@main.command()
@click.argument("sql")
@workspace_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header.")
def query(sql: str, workspace: str, as_json: bool, as_csv: bool) -> None:
    """Run SQL against the workspace and print the result of the last statement; - reads the SQL from stdin.

    While another process holds the database, only the system tables and table functions on stored models are available.
    """
    if as_json and as_csv:
        raise click.UsageError("--json cannot be combined with --csv")
    if sql == "-":
        sql = sys.stdin.read()
    from graphlearn.sql.engine import lazily
    from graphlearn.sql.rewrite import Rewritten
    from graphlearn.sql.source import Source

    source = Source("<sql>", sql)
    with (
        query_events() as emit,
        open_for_query(workspace, source, emit) as session,
        exit_codes(session),
        lazily(Rewritten.verbatim(source, 0, len(sql)), {}),
    ):
        Printer(session, "json" if as_json else "csv" if as_csv else "box").print(session.sql(sql))


@contextmanager
def query_events() -> Iterator[Emit]:
    """Where the events of a query go: a live view on a terminal, otherwise warnings on stderr."""
    from graphlearn.events import Note
    from graphlearn.sinks import choose_sink, is_lively

    if is_lively(sys.stderr):
        sink = choose_sink(sys.stderr)
        try:
            yield sink
        finally:
            sink.close()
    else:
        yield (
            lambda event: (
                say(f"warning: {event.message}") if isinstance(event, Note) and event.level != "info" else None
            )
        )


@contextmanager
def open_for_query(workspace: str, source: Source, emit: Emit) -> Iterator[Session]:
    """A session on the workspace, or only on its stored models while another process keeps the database open.

    A text that only reads opens the database read-only, so that several can read at once. Without the database, what
    the text would change or read of it is an error that names the process that has it open.
    """
    from graphlearn.session import Session
    from graphlearn.sql.diagnose import MissingError
    from graphlearn.sql.parser import parse
    from graphlearn.sql.statements import ExplainModel, Passthrough
    from graphlearn.storage.workspace import Workspace, path_of

    folder = folder_of(workspace) if workspace != ":memory:" else Path()
    statements = parse(source)
    reads = path_of(workspace).exists() and all(only_reads(statement) for statement in statements)
    try:
        opened = Workspace.open(workspace, read_only=reads, patience=PATIENCE, say=lambda text: say(f"note: {text}"))
    except WorkspaceError as error:
        if "in use by" not in error.message:
            raise
        held = error
    else:
        with Session(opened, emit=emit) as session:
            yield session
        return
    for statement in statements:
        harmless = isinstance(statement, Passthrough) and statement.kind in SHOWN | HARMLESS
        if not harmless and not isinstance(statement, ExplainModel):
            raise held.at(statement.place())
    say(f"note: {held.message}; its tables cannot be read now, only stored models and the system tables")
    with Session(Workspace.without_tables(folder), emit=emit) as session:
        try:
            yield session
        except MissingError as error:
            if found := re.match(r"Table with name (\S+) does not exist", error.message):
                message = f"the table {found[1]} cannot be read now: {held.message}"
                raise WorkspaceError(message, place=error.place, help=held.help) from None
            raise


def only_reads(statement: Statement) -> bool:
    """Whether a statement certainly does not change the database."""
    from graphlearn.sql.statements import ExplainModel, Passthrough

    if isinstance(statement, ExplainModel):
        return True
    words = {token.word for token in statement.tokens}
    temporary = statement.tokens[0].word == "CREATE" and not _TEMPORARY.isdisjoint(t.word for t in statement.tokens[:4])
    loads = statement.tokens[0].word == "COPY" and "TO" not in words
    return (
        isinstance(statement, Passthrough)
        and (temporary or statement.kind in SHOWN | HARMLESS)
        and words.isdisjoint(WRITES)
        and not loads
    )


@main.command()
@workspace_option
@json_option
def models(workspace: str, as_json: bool) -> None:
    """List the stored models."""
    from graphlearn.show import print_models

    print_models(folder_of(workspace), as_json=as_json)


@main.command()
@click.argument("model")
@workspace_option
@click.option("--version", type=click.IntRange(min=1), help="The version to show; by default, the current one.")
@json_option
def show(model: str, workspace: str, version: int | None, as_json: bool) -> None:
    """Show a stored model: its training data, options and metrics."""
    from graphlearn.show import print_model

    print_model(folder_of(workspace), model, version, as_json=as_json)


@main.command()
@workspace_option
@click.option("--model", help="List only runs of this model.")
@json_option
def runs(workspace: str, model: str | None, as_json: bool) -> None:
    """List the runs, newest first, including those in progress."""
    from graphlearn.show import print_runs

    print_runs(folder_of(workspace), model, as_json=as_json)


@main.command()
@workspace_option
@json_option
def doctor(workspace: str, as_json: bool) -> None:
    """Show versions, devices, memory and disk space of this machine."""
    from graphlearn.doctor import print_diagnosis
    from graphlearn.storage.workspace import path_of

    print_diagnosis(path_of(workspace), as_json=as_json)
