"""The command line: data to stdout, messages to stderr, exit codes 0 done, 1 failed, 2 could not start, 130 stopped.

`models`, `show` and `runs` read the artifact folder only, so they work while another process trains.
"""

from __future__ import annotations

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
    is_among,
    note_command,
    offer_resume,
    progress,
    read_settings,
    resume_command,
    say,
)

if TYPE_CHECKING:
    from graphlearn.events import Emit
    from graphlearn.session import Session
    from graphlearn.sql.source import Source
    from graphlearn.sql.statements import Statement

HARMLESS = frozenset({"SET", "RESET", "COPY", "LOAD", "INSTALL", "ATTACH", "DETACH", "USE"})
"""First words of other statements that change nothing in the database."""
WRITES = frozenset({"CALL", "PRAGMA", "INSERT", "UPDATE", "DELETE", "MERGE", "NEXTVAL", "DATABASE"})
"""Words with which a query may change the database all the same."""
PATIENCE = 5.0
"""Seconds that a query waits for a process that has the database open; stored models answer without it."""


class Reporting(click.Group):
    """A group of commands whose errors are printed as the user's file and a fix, with their exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as typed; see `typed`."""
        ctx.meta[COMMAND] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see `GraphLearnError.exit_code`."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without Unicode still gets its rows
        try:
            return super().invoke(ctx)
        except GraphLearnError as error:
            report(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            report(Interrupted("interrupted", help="the same command starts again"))
            ctx.exit(Interrupted.exit_code)


def report(error: GraphLearnError) -> None:
    """Print an error, and the others of the same file."""
    for one in (error, *error.others):
        click.echo(one.render(), err=True)
        for note in getattr(one, "__notes__", ()):
            click.echo(f"  = note: {note}", err=True)


def folder_of(workspace: str) -> Path:
    """The artifact folder of a workspace that must exist. Raises WorkspaceError."""
    from graphlearn.storage.workspace import folder_of as beside

    path = Path(workspace).expanduser()
    folder = beside(path)
    if not path.exists() and not folder.exists():
        here = sorted(p.name for p in Path().glob("*.duckdb"))
        known = f"here: {', '.join(here)}" if here else "`graphlearn run FILE` makes it"
        raise WorkspaceError(f"there is no workspace {workspace}", help=f"name one with --workspace; {known}")
    return folder


workspace_option = click.option(
    "--workspace",
    "-w",
    default="kg.duckdb",
    show_default=True,
    envvar="GRAPHLEARN_WORKSPACE",
    metavar="FILE",
    help="The DuckDB file; models and runs lie in a folder beside it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, for machines.")
files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace an option of a model (dim=400, kg.medical.dim=400) or a value that SET VARIABLE gives in the file.",
)


@click.group(cls=Reporting, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="graphlearn")
def main() -> None:
    """Graph learning that lives next to your SQL: a model is a materialized view of a graph query."""


@main.command()
@files_argument
@workspace_option
@click.option("--select", multiple=True, metavar="MODEL", help="Train this model only; may be given again.")
@click.option("--resume", metavar="RUN", help="Continue a run that was stopped; `graphlearn runs` lists them.")
@set_option
@click.option("--on", "where", default="local", show_default=True, help="Where to run: local, this process.")
@json_option
@click.option("--force", is_flag=True, help="Train also what has not changed.")
@click.option("--quiet", "-q", is_flag=True, help="No messages but errors; results of queries are still printed.")
@click.option("--picture/--no-picture", default=True, help="Draw report.png for each run (needs matplotlib).")
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
    """Check whole job files, then run them. What has not changed is not trained again."""
    from graphlearn.events import fan_out
    from graphlearn.session import connect

    if where != "local":
        raise UserError(f"cannot run on {where!r}", help="this version runs on local only; leave --on out")
    overrides = read_settings(settings)
    created = check_syntax(files)
    with (
        progress(as_json=as_json, quiet=quiet) as emit,
        connect(workspace, emit=fan_out(note_command, emit)) as session,
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
                stopped.help = f"continue with: {resume_command(session.workspace.folder, stopped.run)}"
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
    """Check whole job files and show what running them would do; nothing runs."""
    from graphlearn.events import silent
    from graphlearn.jobs.machine import this_machine
    from graphlearn.printing import to_json_line
    from graphlearn.session import connect

    overrides, machine = read_settings(settings), this_machine()
    check_syntax(files)
    database = workspace if Path(workspace).expanduser().exists() else ":memory:"
    with connect(database, emit=silent) as session:
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
                    planned.plan.text(machine) if planned.plan is not None else "its input is made by the file itself"
                )
                click.echo("".join(f"  {line}\n" for line in text.splitlines()))


@main.command()
@click.argument("sql")
@workspace_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header on stdout.")
def query(sql: str, workspace: str, as_json: bool, as_csv: bool) -> None:
    """Run SQL against the workspace and print what the last statement returns; - reads the SQL from stdin.

    While another process holds the database, the system tables and the table functions over stored models still answer.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if sql == "-":
        sql = sys.stdin.read()
    from graphlearn.sql.engine import lazily
    from graphlearn.sql.rewrite import Rewritten
    from graphlearn.sql.source import Source

    source = Source("<sql>", sql)
    with (
        query_events() as emit,
        open_for_query(workspace, source, emit) as session,
        lazily(Rewritten.verbatim(source, 0, len(sql)), {}),
    ):
        Printer(session, "json" if as_json else "csv" if as_csv else "box").print(session.sql(sql))


@contextmanager
def query_events() -> Iterator[Emit]:
    """Where the events of a query go: a live view on a terminal, else warnings to stderr."""
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
    """A session on the workspace, or on its stored models alone while another process keeps the database open.

    A text that only reads opens the database read-only, so that several can read at once. Without the database, what
    the text would change or read of it is an error that says who has it open.
    """
    from graphlearn.session import Session
    from graphlearn.sql.diagnose import MissingError
    from graphlearn.sql.parser import parse
    from graphlearn.sql.statements import ExplainModel, Passthrough
    from graphlearn.storage.workspace import Workspace

    folder = folder_of(workspace) if workspace != ":memory:" else Path()
    statements = parse(source)
    reads = Path(workspace).expanduser().exists() and all(only_reads(statement) for statement in statements)
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
    say(f"note: {held.message}: its tables cannot be read; stored models and the system tables can")
    with Session(Workspace.without_tables(folder), emit=emit) as session:
        try:
            yield session
        except MissingError as error:
            if found := re.match(r"Table with name (\S+) does not exist", error.message):
                message = f"the table {found[1]} cannot be read: {held.message}"
                raise WorkspaceError(message, place=error.place, help=held.help) from None
            raise


def only_reads(statement: Statement) -> bool:
    """Whether a statement surely leaves the database as it is."""
    from graphlearn.sql.statements import ExplainModel, Passthrough

    if isinstance(statement, ExplainModel):
        return True
    words = {token.word for token in statement.tokens}
    loads = statement.tokens[0].word == "COPY" and "TO" not in words
    return (
        isinstance(statement, Passthrough)
        and statement.kind in SHOWN | HARMLESS
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
@click.option("--version", type=click.IntRange(min=1), help="A version; the current one unless told.")
@json_option
def show(model: str, workspace: str, version: int | None, as_json: bool) -> None:
    """Show a stored model: what it was trained on, its options, how good it is."""
    from graphlearn.show import print_model

    print_model(folder_of(workspace), model, version, as_json=as_json)


@main.command()
@workspace_option
@click.option("--model", help="Runs of this model only.")
@json_option
def runs(workspace: str, model: str | None, as_json: bool) -> None:
    """List the runs, newest first, those that are going on too."""
    from graphlearn.show import print_runs

    print_runs(folder_of(workspace), model, as_json=as_json)


@main.command()
@workspace_option
@json_option
def doctor(workspace: str, as_json: bool) -> None:
    """Versions, devices, memory and disk: what this machine has for GraphLearn."""
    from graphlearn.doctor import print_diagnosis

    print_diagnosis(Path(workspace).expanduser(), as_json=as_json)


if __name__ == "__main__":
    main()
