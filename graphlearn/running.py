"""What `graphlearn run` adds to a session: checking files together, showing events, pictures, offering to resume."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from graphlearn.errors import GraphLearnError, Interrupted, UserError, did_you_mean, printable

if TYPE_CHECKING:
    from graphlearn.events import Emit, Event
    from graphlearn.jobs.request import ModelResult
    from graphlearn.printing import Format
    from graphlearn.session import Result, Session
    from graphlearn.sql.statements import Statement

SHOWN = frozenset(
    {"SELECT", "FROM", "WITH", "VALUES", "TABLE", "DESCRIBE", "DESC", "SHOW", "SUMMARIZE"}
    | {"PRAGMA", "PIVOT", "UNPIVOT", "CALL", "EXECUTE", "EXPLAIN", "("}
)
"""First words of statements whose result a run prints."""
LONGEST_COMMAND = 1 << 20
"""Bytes of command.json."""
COMMAND = "command.json"
"""File in a run's folder: the arguments of the command that started it and the folder it was started in."""


def say(message: str) -> None:
    """Print a message to stderr. Parts of it may come from a run folder that somebody else wrote."""
    click.echo(printable(message), err=True)


class Printer:
    """Prints the results of statements. Rows are computed while they are printed, until Ctrl-C."""

    def __init__(self, session: Session, form: Format | Literal["rows"]) -> None:
        self.session = session
        self.form = form

    def show(self, statement: Statement, result: Result) -> None:
        """Print the rows of a query or a plan in a job; other statements print nothing."""
        import duckdb

        from graphlearn.sql.statements import ExplainModel, Passthrough

        if isinstance(statement, Passthrough) and statement.kind == "EXECUTE":
            counted = isinstance(result, duckdb.DuckDBPyRelation) and result.columns == ["Count"]
            if not counted:  # the number of rows that a prepared INSERT or UPDATE has changed
                self.print(result)
        elif isinstance(statement, ExplainModel) or (isinstance(statement, Passthrough) and statement.kind in SHOWN):
            self.print(result)

    def print(self, result: Result) -> None:
        """Print rows, one of DuckDB's plans, or the outcome for a model."""
        from graphlearn.jobs.request import DropResult, ModelResult
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
def exit_codes(session: Session) -> Iterator[None]:
    """Give errors raised inside the block exit code 1 if something has run: 2 says that nothing was started."""
    try:
        yield
    except Interrupted:
        raise
    except GraphLearnError as error:
        if session.has_started:
            error.exit_code = 1
        raise


@contextmanager
def progress(*, as_json: bool, quiet: bool) -> Iterator[Emit]:
    """Where events go: JSON lines, a live view or plain lines, and TensorBoard files if TensorBoard is installed."""
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
    """key=value pairs as a mapping. Raises UserError for a pair without key or equals sign, and for a repeated key."""
    found: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"--set takes KEY=VALUE, not {setting!r}", help="for example --set dim=400")
        if key in found:
            raise UserError(f"--set {key} is given twice", help="remove one of them")
        found[key] = value
    return found


def check_syntax(files: tuple[Path, ...]) -> dict[Path, list[str]]:
    """Read and parse all files before the first one runs, so that mistakes in later files are found early.

    Returns the models that each file creates. In a single file, DuckDB's own statements are left to the session.
    """
    import duckdb

    from graphlearn.errors import raise_all
    from graphlearn.jobs.registry import family, is_family
    from graphlearn.sql.engine import statement_type
    from graphlearn.sql.statements import CreateModel, Passthrough
    from graphlearn.storage.memory import check_address_space

    created: dict[Path, list[str]] = {}
    errors: list[GraphLearnError] = []
    check_address_space()
    with duckdb.connect() as connection:
        for path in files:
            try:
                statements = statements_of(path)
                models = [s for s in statements if isinstance(s, CreateModel)]
                created[path] = [model.name for model in models]
                for model in models:  # imports what takes seconds before the database file is opened
                    _ = family(model.family).options_type if is_family(model.family) else None
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
    """The files that create a selected model or the one to resume; a single file is always chosen."""
    from graphlearn.storage.runs import RunFolder

    wanted = list(select)
    if resume is not None:
        wanted.append(RunFolder.open(session.workspace.folder, resume).model)
    known = [name for names in created.values() for name in names]
    for name in wanted if len(created) > 1 else ():
        if not is_among(name, known):
            raise UserError(f"no file creates a model {name}", help=did_you_mean(name, known))
    for path, names in created.items():
        if len(created) == 1 or not wanted or any(is_among(name, names) for name in wanted):
            yield path


def is_among(name: str, names: list[str]) -> bool:
    """Whether a model is among others; names compare as in DuckDB."""
    from graphlearn.storage.artifacts import fold

    return fold(name) in map(fold, names)


def statements_of(path: Path) -> list[Statement]:
    """The statements of a job file. Raises UserError if it cannot be read, SqlError if it does not parse."""
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
    """For each model, name the latest run if it was stopped and can be continued."""
    from graphlearn.storage.artifacts import fold
    from graphlearn.storage.runs import RunFolder, list_runs

    newest = {fold(str(info.get("model"))): info for info in reversed(list_runs(session.workspace.folder))}
    for model in models:
        info = newest.get(fold(model), {})
        stopped = RunFolder.open(session.workspace.folder, str(info["run"])) if info else None
        if stopped is not None and stopped.resumable:
            epoch, epochs = info.get("epoch"), info.get("epochs")
            at = f" in epoch {epoch} of {epochs}" if type(epoch) is int and type(epochs) is int and epoch else ""
            say(f"note: run {stopped.id} was {info['status']}{at}")
            say(f"      to continue it instead: {resume_command(session.workspace.folder, stopped.id)}")


def typed() -> list[str]:
    """The arguments of the current command, without the program's name."""
    words: list[str] = click.get_current_context().meta[COMMAND]
    return words


def note_command(event: Event) -> None:
    """When a run starts, store its command in the run folder: resuming needs the same --set and other options."""
    from graphlearn.events import JobStarted

    if isinstance(event, JobStarted) and event.resumed_at is None:
        from graphlearn.storage.files import disk_errors, write_json

        with disk_errors(event.folder):
            write_json(Path(event.folder) / COMMAND, {"words": typed(), "folder": str(Path.cwd())})


def way_on(folder: Path, run_id: str | None) -> str:
    """How to go on after an interruption, with the command."""
    from graphlearn.storage.runs import RunFolder

    saved = run_id is not None and RunFolder.open(folder, run_id).has_checkpoint
    return f"{'continue' if saved else 'start again'} with: {resume_command(folder, run_id)}"


def resume_command(folder: Path, run_id: str | None) -> str:
    """The command that continues a run: the one that started it (or the current one, if unknown) plus --resume.

    Without --resume if no checkpoint was written yet. A command that was given in another folder, or for other files or
    another workspace than the current one, is not repeated: whoever wrote the run folder may have made it up.
    """
    from graphlearn.storage.files import read_json
    from graphlearn.storage.runs import RunFolder

    run = RunFolder.open(folder, run_id) if run_id is not None else None
    begun: dict[str, Any] = {}
    if run is not None:
        with suppress(OSError, ValueError, MemoryError):
            begun = read_json(run.path / COMMAND, longest=LONGEST_COMMAND)
    words, home = begun.get("words"), begun.get("folder")
    program = Path(sys.argv[0]).name
    prefix = [program] if program == "graphlearn" else ["python", "-m", "graphlearn"]
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        words = typed()
    elif run is not None and (home != str(Path.cwd()) or not _is_same_job(words)):
        return f"{' '.join(prefix)} run FILE{f' --resume {shlex.quote(run.id)}' if run.has_checkpoint else ''}"
    kept = [
        word
        for i, word in enumerate(words)
        if not word.startswith("--resume=") and "--resume" not in (word, words[i - 1] if i else "")
    ]
    if run is not None and run.has_checkpoint:
        kept += ["--resume", run.id]
    return shlex.join([*prefix, *kept])


def _is_same_job(words: list[str]) -> bool:
    """Whether a command runs files of the current command, and no others, in the same workspace."""
    now = click.get_current_context()
    if words == typed():
        return True
    if words[0] != now.command.name:
        return False
    then = now.command.make_context(words[0], words[1:], parent=now.parent, resilient_parsing=True).params
    files = then.get("files") or ()
    return bool(files) and set(files) <= set(now.params["files"]) and then["workspace"] == now.params["workspace"]


def draw(session: Session, result: ModelResult, talk: bool) -> None:
    """Draw the run's picture unless it exists, and print its path. A failure to draw does not fail the job."""
    from graphlearn.jobs.drawing import can_draw
    from graphlearn.report import PICTURE, draw_report
    from graphlearn.storage.artifacts import ArtifactStore
    from graphlearn.storage.runs import RunFolder

    store = ArtifactStore(session.workspace.folder)
    stored = store.versions(result.model) if store.exists(result.model) else []  # the file may drop the model later
    artifact = next((a for a in stored if a.version == result.version), None)
    run_id = result.run or (artifact.manifest.get("run") if artifact else None)
    if artifact is None or run_id is None:
        return
    try:
        run_folder = RunFolder.open(session.workspace.folder, str(run_id)).path  # the id may be from a crafted manifest
    except UserError:
        return
    path = run_folder / PICTURE
    if not path.exists():
        if not can_draw():
            if talk:
                say("no picture: matplotlib is not installed (pip install 'graphlearn[plot]')")
            return
        try:
            draw_report(run_folder, artifact.path)
        except Exception as error:  # the model is stored: warn and continue
            say(f"warning: the picture could not be drawn: {type(error).__name__}: {error}")
            return
    if talk and path.exists():
        say(f"picture of {result.model}: {os.path.relpath(path)}")
