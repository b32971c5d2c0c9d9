"""The command line: data to stdout, messages to stderr, exit codes 0 done, 1 failed, 2 could not start, 130 stopped.

`models`, `show` and `runs` read the artifact folder only, so they work while another process trains.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from graphlearn import __version__
from graphlearn.errors import GraphLearnError, Interrupted, UserError, WorkspaceError, did_you_mean

if TYPE_CHECKING:
    from graphlearn.events import Emit, Event
    from graphlearn.jobs.create import ModelResult
    from graphlearn.printing import Format
    from graphlearn.session import Result, Session
    from graphlearn.sql.source import Source
    from graphlearn.sql.statements import Statement

SHOWN = frozenset(
    {"SELECT", "FROM", "WITH", "VALUES", "TABLE", "DESCRIBE", "DESC", "SHOW", "SUMMARIZE"}
    | {"PRAGMA", "PIVOT", "UNPIVOT", "CALL", "EXPLAIN", "("}
)
"""First words of statements whose result a run prints."""
HARMLESS = frozenset({"SET", "RESET", "COPY", "LOAD", "INSTALL", "ATTACH", "DETACH", "USE"})
"""First words of other statements that change nothing in the database."""
COMMAND = "command.json"
"""In a run's folder: the words of the command that began it, and the folder it was typed in."""


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


def say(message: str) -> None:
    """A message for people."""
    click.echo(message, err=True)


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


class Printer:
    """Prints what statements return. Rows are computed while they are printed; Ctrl-C stops that."""

    def __init__(self, session: Session, form: Format | Literal["rows"]) -> None:
        self.session = session
        self.form = form

    def show(self, statement: Statement, result: Result) -> None:
        """Print the rows of a query or a plan in a job; what other statements return says nothing."""
        from graphlearn.sql.statements import ExplainModel, Passthrough

        if isinstance(statement, ExplainModel) or (isinstance(statement, Passthrough) and statement.kind in SHOWN):
            self.print(result)

    def print(self, result: Result) -> None:
        """Print rows, a plan of DuckDB's, or what became of a model."""
        from graphlearn.jobs.create import DropResult, ModelResult
        from graphlearn.printing import print_explained, print_relation, print_rows_event, to_json_line
        from graphlearn.storage.interrupt import interruptible

        if isinstance(result, ModelResult | DropResult):
            click.echo(repr(result) if self.form == "box" else to_json_line(vars(result)))
        elif result is None or result.columns == ["Success"]:
            return
        elif self.form == "rows":
            interruptible(self.session.connection, lambda: print_rows_event(result))
        elif self.form == "box" and result.columns == ["explain_key", "explain_value"]:
            print_explained(result)
        else:
            form = self.form
            interruptible(self.session.connection, lambda: print_relation(result, form))


@contextmanager
def progress(*, as_json: bool, quiet: bool) -> Iterator[Emit]:
    """Where events go: TensorBoard files when installed, and JSON lines, a live view or plain lines."""
    from graphlearn.events import fan_out
    from graphlearn.sinks import Sink, choose_sink, json_sink, tensorboard_sink

    sinks: list[Sink] = []
    if as_json:
        sinks.append(json_sink(sys.stdout))
    elif not quiet:
        sinks.append(choose_sink(sys.stderr))
    if (board := tensorboard_sink()) is not None:
        sinks.append(board)
    try:
        yield fan_out(*sinks)
    finally:
        for sink in sinks:
            sink.close()


def read_settings(settings: tuple[str, ...]) -> dict[str, object]:
    """key=value pairs as a mapping. Raises UserError for one without a key or an equals sign, or a key given twice."""
    found: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"--set takes KEY=VALUE, not {setting!r}", help="for example --set dim=400")
        if key in found:
            raise UserError(f"--set {key} is given twice", help="leave one of them out")
        found[key] = value
    return found


def check_syntax(files: tuple[Path, ...]) -> dict[Path, list[str]]:
    """Read and parse all files before the first one runs; a mistake in the last must not wait for the first.

    Returns the models that each file creates. Of a single file, DuckDB's own statements are left to the session.
    """
    import duckdb

    from graphlearn.errors import raise_all
    from graphlearn.sql.engine import statement_type
    from graphlearn.sql.statements import CreateModel, Passthrough

    created: dict[Path, list[str]] = {}
    errors: list[GraphLearnError] = []
    with duckdb.connect() as connection:
        for path in files:
            try:
                statements = statements_of(path)
                created[path] = [s.name for s in statements if isinstance(s, CreateModel)]
                for statement in statements if len(files) > 1 else ():
                    if isinstance(statement, Passthrough):
                        statement_type(connection, statement.verbatim())
            except GraphLearnError as error:
                errors.append(error)
    raise_all(errors)
    return created


def chosen(
    created: dict[Path, list[str]], select: tuple[str, ...], resume: str | None, session: Session
) -> Iterator[Path]:
    """Of several files, those that create a selected model or the one to resume; a single file is always taken."""
    from graphlearn.storage.runs import RunFolder

    wanted = list(select)
    if resume is not None:
        wanted.append(str(RunFolder.open(session.workspace.folder, resume).info().get("model")))
    known = [name for names in created.values() for name in names]
    for name in wanted if len(created) > 1 else ():
        if not is_among(name, known):
            raise UserError(f"no file creates a model {name}", help=did_you_mean(name, known))
    for path, names in created.items():
        if len(created) == 1 or not wanted or any(is_among(name, names) for name in wanted):
            yield path


def is_among(name: str, names: list[str]) -> bool:
    """Whether a model is among others, compared as DuckDB compares names."""
    from graphlearn.storage.artifacts import fold

    return fold(name) in map(fold, names)


def statements_of(path: Path) -> list[Statement]:
    """The statements of a job file. Raises UserError when it cannot be read, SqlError when it does not parse."""
    from graphlearn.sql.parser import parse
    from graphlearn.sql.source import Source

    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", help="check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason}", help="save the file as UTF-8 text") from None
    return parse(Source(str(path), text))


def offer_resume(session: Session, models: list[str]) -> None:
    """Name the newest run of each model when it was stopped and can be continued."""
    from graphlearn.storage.artifacts import fold
    from graphlearn.storage.runs import RunFolder, list_runs

    newest = {fold(str(info.get("model"))): info for info in reversed(list_runs(session.workspace.folder))}
    for model in models:
        info = newest.get(fold(model), {})
        stopped = RunFolder.open(session.workspace.folder, str(info["run"])) if info else None
        if stopped is not None and stopped.resumable:
            at = f" in epoch {info['epoch']} of {info['epochs']}" if info.get("epoch") else ""
            say(f"note: run {stopped.id} was {info['status']}{at}")
            say(f"      to continue it instead: {resume_command(session.workspace.folder, stopped.id)}")


def typed() -> list[str]:
    """The words of the running command, without the program's name."""
    words: list[str] = click.get_current_context().meta[COMMAND]
    return words


def note_command(event: Event) -> None:
    """When a run begins, store the command in its folder: --set and the like are part of what a resume needs."""
    from graphlearn.events import JobStarted

    if isinstance(event, JobStarted) and event.resumed_at is None:
        from graphlearn.storage.files import disk_errors, write_json

        with disk_errors(event.folder):
            write_json(Path(event.folder) / COMMAND, {"words": typed(), "folder": str(Path.cwd())})


def resume_command(folder: Path, run_id: str | None) -> str:
    """The command that continues a run: the one that began it, or the running one where that is not known.

    That command itself when no checkpoint was written yet.
    """
    from graphlearn.storage.files import read_json
    from graphlearn.storage.runs import RunFolder

    run = RunFolder.open(folder, run_id) if run_id is not None else None
    begun: dict[str, Any] = {}
    if run is not None:
        with suppress(OSError, ValueError):
            begun = read_json(run.path / COMMAND)
    words, home = begun.get("words") or typed(), begun.get("folder") or str(Path.cwd())
    kept = [
        word
        for i, word in enumerate(words)
        if not word.startswith("--resume=") and "--resume" not in (word, words[i - 1] if i else "")
    ]
    if run is not None and run.has_checkpoint:
        kept += ["--resume", run.id]
    program = Path(sys.argv[0]).name
    prefix = [program] if program == "graphlearn" else ["python", "-m", "graphlearn.cli"]
    there = "" if home == str(Path.cwd()) else f"cd {shlex.quote(home)} && "
    return there + shlex.join([*prefix, *kept])


def draw(session: Session, result: ModelResult, talk: bool) -> None:
    """Draw the run's picture unless it is there, and say where. A picture that fails does not fail the job."""
    from graphlearn.report import PICTURE, can_draw, draw_report
    from graphlearn.storage.artifacts import ArtifactStore

    store = ArtifactStore(session.workspace.folder)
    stored = store.versions(result.model) if store.exists(result.model) else []  # the file may have dropped it again
    artifact = next((a for a in stored if a.version == result.version), None)
    run_id = result.run or (artifact.manifest.get("run") if artifact else None)
    if artifact is None or run_id is None:
        return
    run_folder = session.workspace.folder / "runs" / str(run_id)
    path = run_folder / PICTURE
    if not path.exists() and run_folder.exists():
        if not can_draw():
            if talk:
                say("no picture: it needs matplotlib (pip install 'graphlearn[plot]')")
            return
        try:
            draw_report(run_folder, artifact.path)
        except Exception as error:  # the model is stored: say what went wrong and go on
            say(f"warning: the picture could not be drawn: {type(error).__name__}: {error}")
            return
    if talk and path.exists():
        say(f"picture of {result.model}: {os.path.relpath(path)}")


@main.command()
@files_argument
@workspace_option
@set_option
@json_option
def plan(files: tuple[Path, ...], workspace: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check whole job files and show what running them would do; nothing runs."""
    from graphlearn.events import silent
    from graphlearn.printing import to_json_line
    from graphlearn.session import connect

    overrides = read_settings(settings)
    check_syntax(files)
    database = workspace if Path(workspace).expanduser().exists() else ":memory:"
    with connect(database, emit=silent) as session:
        for path in files:
            for planned in session.plan_file(path, overrides=overrides):
                state = "unchanged" if planned.unchanged else "to train"
                if as_json:
                    operators = planned.plan.table().to_pylist() if planned.plan is not None else None
                    record = {"model": planned.name, "family": planned.family, "unchanged": planned.unchanged}
                    click.echo(to_json_line({**record, "file": str(path), "operators": operators}))
                    continue
                click.echo(f"{planned.name} ({planned.family}): {state}")
                text = planned.plan.text() if planned.plan is not None else "its input is made by the file itself"
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
    """A session on the workspace, or on its stored models alone while another process holds the database.

    In the latter, what the text would change or read of the database is an error that says who holds it.
    """
    import duckdb

    from graphlearn.session import Session, connect
    from graphlearn.sql.diagnose import MissingError
    from graphlearn.sql.parser import parse
    from graphlearn.sql.statements import ExplainModel, Passthrough
    from graphlearn.storage.workspace import Workspace

    folder = folder_of(workspace) if workspace != ":memory:" else Path()
    try:
        opened = connect(workspace, emit=emit)
    except WorkspaceError as error:
        if "in use by" not in error.message:
            raise
        held = error
    else:
        with opened:
            yield opened
        return
    for statement in parse(source):
        reads = isinstance(statement, Passthrough) and statement.kind in SHOWN | HARMLESS
        if not reads and not isinstance(statement, ExplainModel):
            raise held.at(statement.place())
    say(f"note: {held.message}: its tables are out of reach, stored models and the system tables are not")
    with Session(Workspace(duckdb.connect(), None, folder, read_only=True), emit=emit) as session:
        try:
            yield session
        except MissingError as error:
            if found := re.match(r"Table with name (\S+) does not exist", error.message):
                message = f"{found[1]} is not within reach: {held.message}"
                raise WorkspaceError(message, place=error.place, help=held.help) from None
            raise


@main.command()
@workspace_option
@json_option
def models(workspace: str, as_json: bool) -> None:
    """List the stored models."""
    from graphlearn.listing import print_models

    print_models(folder_of(workspace), as_json=as_json)


@main.command()
@click.argument("model")
@workspace_option
@click.option("--version", type=click.IntRange(min=1), help="A version; the current one unless told.")
@json_option
def show(model: str, workspace: str, version: int | None, as_json: bool) -> None:
    """Show a stored model: what it was trained on, its options, how good it is."""
    from graphlearn.listing import print_model

    print_model(folder_of(workspace), model, version, as_json=as_json)


@main.command()
@workspace_option
@click.option("--model", help="Runs of this model only.")
@json_option
def runs(workspace: str, model: str | None, as_json: bool) -> None:
    """List the runs, newest first, those that are going on too."""
    from graphlearn.listing import print_runs

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
