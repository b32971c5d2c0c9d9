"""CREATE MODEL: from a request to a stored version, with a run folder that records the events and can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from graphlearn.errors import GraphLearnError, Interrupted, JobError, UserError
from graphlearn.events import CheckpointSaved, Emit, Evaluated, Event, JobFinished, JobStarted, Step, fan_out
from graphlearn.jobs import checkpoint
from graphlearn.jobs.execute import Context, Driver, Executor, execute, run_here
from graphlearn.jobs.family import Sizes
from graphlearn.jobs.machine import memory_available, this_machine
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest, ModelResult, measured_split
from graphlearn.jobs.train import PUBLISHED
from graphlearn.storage.artifacts import ArtifactStore, check_length
from graphlearn.storage.interrupt import interruptible, interruption
from graphlearn.storage.memory import check_address_space
from graphlearn.storage.runs import RunFolder, gone

if TYPE_CHECKING:
    import duckdb

    from graphlearn.storage.workspace import Workspace


def measure(cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Sizes:
    """The sizes and digests of the inputs. Ctrl-C interrupts the scan. See `Family.measure`."""
    return interruptible(cursor, lambda: family(request.family).measure(cursor, request))


def create_model(
    workspace: Workspace,
    request: ModelRequest,
    *,
    emit: Emit,
    sizes: Sizes | None = None,
    resume: str | None = None,
    cursor: duckdb.DuckDBPyConnection | None = None,
    executor: Executor = run_here,
) -> ModelResult:
    """Train, evaluate and publish a new version of the model.

    `sizes`: of the inputs, if they have been measured. `resume`: the id of a run of the same job to continue.

    Raises ResourceError before anything starts if the job does not fit in memory, WorkspaceError if another process is
    training the model, Interrupted with the run's id on a signal, and JobError or the original error otherwise.
    """
    started = time.perf_counter()
    check_address_space()
    cursor = cursor if cursor is not None else workspace.cursor()
    kind = family(request.family)
    sizes = sizes if sizes is not None else measure(cursor, request)
    kind.fits(request, sizes, memory_available())
    dataflow = kind.plan(request, sizes)
    check_length(request.name, request.statement, request.inputs)
    with workspace.training(request.name):
        fingerprint = request.fingerprint(sizes.fingerprints)
        run = _open_run(workspace, request, fingerprint, resume)
        done = _published(ArtifactStore(workspace.folder), request.name, run.id)
        if done is not None:
            run.update(status="done", version=done.version, metrics=done.metrics)
            run.close()
            return done
        tell = fan_out(_recorder(run), emit)
        run.update(family=request.family.lower())
        try:
            context = Context(
                emit=tell,
                run=run.id,
                folder=run.path,
                job=fingerprint,
                resume=resume is not None,
                started=started,
                driver=Driver(workspace, cursor),
            )
            tell(
                JobStarted(
                    run=run.id,
                    model=request.name,
                    family=request.family.lower(),
                    folder=str(run.path),
                    options=asdict(request.options),
                    resumed_at=_steps_done(run, fingerprint) if resume is not None else None,
                )
            )
            outputs = execute(dataflow, context, keep=PUBLISHED, executor=executor, machine=this_machine())
        except BaseException as error:
            raise _ended(error, run, tell, request, started) from error
        seconds = time.perf_counter() - started
        version, metrics = int(outputs["version"]), dict(outputs["metrics"])
        split = measured_split(ArtifactStore(workspace.folder).current(request.name).path)
        run.update(status="done", version=version, metrics=metrics)
        tell(
            JobFinished(
                run=run.id,
                model=request.name,
                family=request.family.lower(),
                status="done",
                seconds=seconds,
                version=version,
                metrics=metrics,
                split=split,
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
        split=split,
        counts=dict(outputs["counts"]),
        verdict=outputs["verdict"],
    )


def _open_run(workspace: Workspace, request: ModelRequest, print_: str, resume: str | None) -> RunFolder:
    if resume is None:
        config = {"model": request.name, "fingerprint": print_, **request.definition()}
        return RunFolder.create(workspace.folder, request.name, request.statement, config)
    run = RunFolder.open(workspace.folder, resume)
    config = run.config()
    if config["model"] != request.name:
        raise UserError(
            f'run "{resume}" trained model "{config["model"]}", not "{request.name}"',
            help=f"select it with --select {config['model']}, or omit --resume",
        )
    if config["fingerprint"] != print_:
        raise UserError(
            f'run "{resume}" cannot be resumed: the job or its input has changed since',
            help="omit --resume to train from the start",
        )
    if run.info().get("status") == "done":
        raise UserError(f'run "{resume}" is done', help="there is nothing to resume; to train again, use --force")
    run.update(status="running", message=None)
    return run


def _steps_done(run: RunFolder, job: str) -> int | None:
    """Optimiser steps taken before the newest checkpoint; None without one. Raises ArtifactError if it is unusable."""
    found = checkpoint.newest(run.checkpoints, run.id, job)
    return None if found is None else found.step


def _published(store: ArtifactStore, model: str, run: str) -> ModelResult | None:
    """The version that the run stored before it was killed, if it got that far."""
    if not store.exists(model):
        return None
    newest = store.versions(model)[-1]
    if newest.manifest.get("run") != run:
        return None
    return ModelResult.stored(newest, status="done", run=run)


def _recorder(run: RunFolder) -> Callable[[Event], None]:
    """Write every event to the run folder, and the latest figures to run.json."""

    def record(event: Event) -> None:
        run.append(event)
        if isinstance(event, Step):
            run.update(
                epoch=event.epoch,
                epochs=event.epochs,
                step=event.step,
                loss=event.loss,
                examples_per_second=event.examples_per_second,
                unit=event.unit,
                eta_seconds=event.eta_seconds,
            )
        elif isinstance(event, Evaluated):
            run.update(metrics=event.metrics)
        elif isinstance(event, CheckpointSaved):
            run.update(checkpoint=event.path)

    return record


def _ended(error: BaseException, run: RunFolder, tell: Emit, request: ModelRequest, started: float) -> BaseException:
    """Record the end of a run that failed or was interrupted; returns the error to raise."""
    if isinstance(error, Exception):
        error = interruption(error)
    stopped = isinstance(error, KeyboardInterrupt | Interrupted)
    if stopped:
        if run.has_checkpoint:
            what, again = f"run {run.id} can continue", f"continue with --resume {run.id}"
        else:
            what, again = "nothing was saved yet", "start again with the same command"
        error = Interrupted(f"interrupted; {what}", run=run.id, help=again)
    elif not isinstance(error, GraphLearnError) and isinstance(error, MemoryError):
        error = JobError("out of memory", help="lower dim or batch_size, or use a larger machine")
    status = "interrupted" if stopped else "failed"
    message = error.message if isinstance(error, GraphLearnError) else f"{type(error).__name__}: {error}"
    if run.removed:
        run.close()
        return gone(run.path)
    try:
        run.update(status=status, message=message)
        tell(
            JobFinished(
                run=run.id,
                model=request.name,
                family=request.family.lower(),
                status=status,
                seconds=time.perf_counter() - started,
                message=message,
            )
        )
    except GraphLearnError as second:  # a full disk must not hide the first error
        error.add_note(f"while recording the end of the run: {second.message}")
    run.close()
    return error
