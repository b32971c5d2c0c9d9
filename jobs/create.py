"""CREATE MODEL: from a request to a stored version, with a run folder that tells the story and can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from html import escape
from typing import TYPE_CHECKING, Any

from graphlearn.errors import GraphLearnError, Interrupted, JobError, UserError
from graphlearn.events import (
    CheckpointSaved,
    Emit,
    Evaluated,
    Event,
    JobFinished,
    JobStarted,
    PhaseStarted,
    Step,
    fan_out,
)
from graphlearn.jobs import checkpoint
from graphlearn.jobs.dataflow import Dataflow, execute
from graphlearn.jobs.families import family
from graphlearn.jobs.labels import GRAPH, LABELS, SERIES, metrics_line, title
from graphlearn.jobs.machine import memory_available
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.fingerprint import fingerprint
from graphlearn.storage.interrupt import interruptible, interruption
from graphlearn.storage.runs import RunFolder
from graphlearn.text import number
from graphlearn.types import Json

if TYPE_CHECKING:
    import duckdb

    from graphlearn.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A bound CREATE MODEL: `options` is the family's dataclass, `inputs` maps role -> SQL query."""

    name: str
    family: str
    options: Any
    inputs: dict[str, str]
    statement: str

    def definition(self) -> Json:
        """What makes two requests the same, data apart."""
        return {"family": self.family.lower(), "options": asdict(self.options), "inputs": self.inputs}


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What CREATE MODEL made. `status`: "done" or "unchanged"."""

    model: str
    family: str
    version: int
    status: str
    seconds: float = 0.0
    run: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    counts: Json = field(default_factory=dict)
    verdict: str = ""
    """How the model compares with its baselines, where it has some."""

    def __repr__(self) -> str:
        if self.status == "unchanged":
            return f"model {self.model} version {self.version}: unchanged"
        line = f"model {self.model} version {self.version}: {self.family}, trained in {self.seconds:.1f} s"
        if any(name in self.metrics for name in (*SERIES, *GRAPH)):
            return "; ".join([line, metrics_line(self.metrics, ", "), *([self.verdict] if self.verdict else [])])
        figures = ", ".join(f"{LABELS[k]} {v:.3f}" for k, v in self.metrics.items() if k in LABELS)
        return f"{line}; filtered test {figures}" if figures else line

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        fields = {"model": self.model, "type": self.family, "version": self.version, "status": self.status}
        shown = {**fields, **{name: f"{value:.4g}" for name, value in self.metrics.items()}}
        if any(name in self.metrics for name in SERIES):
            figures = {title(name): number(self.metrics[name]) for name in SERIES if name in self.metrics}
            shown = {**fields, **figures, "beside the baselines": self.verdict}
        elif any(name in self.metrics for name in GRAPH):
            figures = {title(name): number(value) for name, value in self.metrics.items()}
            shown = {**fields, **figures, "beside the baselines": self.verdict}
        head = "".join(f"<th>{escape(name)}</th>" for name in shown)
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in shown.values())
        return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"


@dataclass(frozen=True, kw_only=True)
class DropResult:
    """What DROP MODEL removed: the numbers of the versions, none when IF EXISTS found no model."""

    model: str
    versions: tuple[int, ...] = ()

    def __repr__(self) -> str:
        if not self.versions:
            return f"model {self.model}: there is none"
        return (
            f"model {self.model}: dropped, version{'s' * (len(self.versions) > 1)} {', '.join(map(str, self.versions))}"
        )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a family's `compile` gets: the request, a cursor that sees its tables, and where the run lives.

    `run` and `store` are None when the plan is only to be looked at. `rows` are known row counts by role.
    """

    request: ModelRequest
    cursor: duckdb.DuckDBPyConnection
    run: RunFolder | None = None
    store: ArtifactStore | None = None
    resume: bool = False
    fingerprint: str = ""
    started: float = 0.0


def fingerprint_request(cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> str:
    """A digest of the definition and of the rows of every input, whatever their order. One scan of each input."""
    data = {role: fingerprint(cursor, sql) for role, sql in sorted(request.inputs.items())}
    text = json.dumps([request.definition(), data], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def plan_model(cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Dataflow:
    """The dataflow of a request, with estimates; counts the rows of its inputs, runs nothing else."""
    return family(request.family).compile(Bound(request=request, cursor=cursor))


def create_model(
    workspace: Workspace,
    request: ModelRequest,
    *,
    emit: Emit,
    fingerprint: str | None = None,
    resume: str | None = None,
    cursor: duckdb.DuckDBPyConnection | None = None,
) -> ModelResult:
    """Train, evaluate and publish a new version of the model.

    `resume` is the id of a run of the same job to continue. Raises ResourceError before anything starts when the job
    cannot fit, Interrupted with the run's id when stopped by a signal, JobError or what went wrong otherwise.
    """
    started = time.perf_counter()
    cursor = cursor if cursor is not None else workspace.cursor()
    print_ = fingerprint or interruptible(cursor, lambda: fingerprint_request(cursor, request))
    interruptible(cursor, lambda: plan_model(cursor, request)).check_memory(memory_available())
    store = ArtifactStore(workspace.folder)
    with workspace.training(request.name), ExitStack() as phases:
        run = _open_run(workspace, request, print_, resume)
        done = _published(store, request.name, run.id)
        if done is not None:
            run.update(status="done", version=done.version, metrics=done.metrics)
            run.close()
            return done
        tell = fan_out(_recorder(run), emit)
        run.update(family=request.family.lower())
        try:
            bound = Bound(
                request=request,
                cursor=cursor,
                run=run,
                store=store,
                resume=resume is not None,
                fingerprint=print_,
                started=started,
            )
            resumed_at = _steps_done(run) if resume is not None else None
            dataflow = interruptible(cursor, lambda: family(request.family).compile(bound))
            tell(
                JobStarted(
                    run=run.id,
                    model=request.name,
                    family=request.family.lower(),
                    folder=str(run.path),
                    options=asdict(request.options),
                    resumed_at=resumed_at,
                )
            )
            outputs = execute(dataflow, fan_out(_locks(workspace, phases), tell), keep=("version", "metrics", "counts"))
        except BaseException as error:
            raise _ended(error, run, tell, request, started) from error
        seconds = time.perf_counter() - started
        version, metrics = int(outputs["version"]), dict(outputs["metrics"])
        run.update(status="done", version=version, metrics=metrics)
        tell(
            JobFinished(
                run=run.id, model=request.name, status="done", seconds=seconds, version=version, metrics=metrics
            )
        )
        run.close()
    return ModelResult(
        model=request.name,
        family=request.family.lower(),
        version=version,
        status="done",
        seconds=seconds,
        run=run.id,
        metrics=metrics,
        counts=dict(outputs.get("counts", {})),
        verdict=_verdict(store, request.name, version),
    )


def _locks(workspace: Workspace, phases: ExitStack) -> Emit:
    """Close the database file when training begins, and take the writer's lock when publishing does."""

    def change(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "train":
            phases.enter_context(workspace.released())
        elif isinstance(event, PhaseStarted) and event.phase == "publish":
            phases.enter_context(workspace.writing())

    return change


def _verdict(store: ArtifactStore, model: str, version: int) -> str:
    """The sentence of a stored version about its baselines, empty without one."""
    found = (a.manifest.get("verdict") for a in store.versions(model) if a.version == version)
    return next(found, None) or ""


def _open_run(workspace: Workspace, request: ModelRequest, print_: str, resume: str | None) -> RunFolder:
    if resume is None:
        config = {"model": request.name, "fingerprint": print_, **request.definition()}
        return RunFolder.create(workspace.folder, request.name, request.statement, config)
    run = RunFolder.open(workspace.folder, resume)
    config = json.loads((run.path / "config.json").read_text())
    if config.get("model") != request.name:
        raise UserError(
            f'run "{resume}" trained model "{config.get("model")}", not "{request.name}"',
            help=f"select it with --select {config.get('model')}, or leave --resume out",
        )
    if config.get("fingerprint") != print_:
        raise UserError(
            f'run "{resume}" cannot be resumed: the job or its input has changed since',
            help="leave --resume out to train from the start",
        )
    if run.info().get("status") == "done":
        raise UserError(f'run "{resume}" is done', help="there is nothing to resume; --force trains again")
    run.update(status="running", message=None)
    return run


def _steps_done(run: RunFolder) -> int | None:
    """Optimiser steps at the newest checkpoint, None without one."""
    path = checkpoint.newest(run.checkpoints)
    return None if path is None else int(path.name)


def _published(store: ArtifactStore, model: str, run_id: str) -> ModelResult | None:
    """The version that the run had stored before it was killed, if it got that far."""
    if not store.exists(model):
        return None
    artifact = store.versions(model)[-1]
    if artifact.manifest.get("run") != run_id:
        return None
    manifest = artifact.manifest
    return ModelResult(
        model=model,
        family=manifest["family"],
        version=artifact.version,
        status="done",
        run=run_id,
        metrics=manifest.get("metrics", {}),
        counts=manifest.get("counts", {}),
        verdict=manifest.get("verdict") or "",
    )


def _recorder(run: RunFolder) -> Callable[[Event], None]:
    """Writes every event to the run folder, and the latest figures to run.json."""

    def record(event: Event) -> None:
        run.append(event)
        if isinstance(event, Step):
            run.update(
                epoch=event.epoch,
                epochs=event.epochs,
                step=event.step,
                loss=event.loss,
                triples_per_second=event.triples_per_second,
                unit=event.unit,
                eta_seconds=event.eta_seconds,
            )
        elif isinstance(event, Evaluated):
            run.update(metrics=event.metrics)
        elif isinstance(event, CheckpointSaved):
            run.update(checkpoint=event.path)

    return record


def _ended(error: BaseException, run: RunFolder, tell: Emit, request: ModelRequest, started: float) -> BaseException:
    """Note the end of a run that failed or was interrupted; returns the error to raise."""
    if isinstance(error, Exception):
        error = interruption(error)
    stopped = isinstance(error, KeyboardInterrupt | Interrupted)
    if stopped:
        again = f"--resume {run.id}" if run.has_checkpoint else "the same command"
        error = Interrupted(f"interrupted; run {run.id} can continue", run=run.id, help=f"continue with {again}")
    elif not isinstance(error, GraphLearnError) and isinstance(error, MemoryError):
        error = JobError("out of memory", help="lower dim or batch_size, or take a larger machine")
    status = "interrupted" if stopped else "failed"
    message = error.message if isinstance(error, GraphLearnError) else f"{type(error).__name__}: {error}"
    try:
        run.update(status=status, message=message)
        tell(
            JobFinished(
                run=run.id,
                model=request.name,
                status=status,
                seconds=time.perf_counter() - started,
                message=message,
            )
        )
    except GraphLearnError as second:  # a full disk must not hide the first error
        error.add_note(f"while noting the end of the run: {second.message}")
    run.close()
    return error
