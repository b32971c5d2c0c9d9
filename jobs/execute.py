"""Runs a dataflow: operators in topological order, their tasks in this process or wherever the executor sends them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from graphlearn.events import Emit, PhaseFinished, PhaseStarted
from graphlearn.jobs.dataflow import Data, Dataflow, Operator
from graphlearn.jobs.heartbeat import Heartbeat

if TYPE_CHECKING:
    import duckdb

    from graphlearn.jobs.machine import Machine
    from graphlearn.storage.workspace import Workspace


@dataclass(frozen=True)
class Driver:
    """What only the driver (the process that started the run) has: the user's connection and a writable workspace."""

    workspace: Workspace
    cursor: duckdb.DuckDBPyConnection


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a task gets besides its data: where to send events, the run's id and folder and, on the driver, `driver`.

    `job`: the fingerprint of the job. `resume`: continue from the newest checkpoint. `started`: time.perf_counter() at
    the start of the run.
    """

    emit: Emit
    run: str
    folder: Path
    job: str = ""
    resume: bool = False
    started: float = 0.0
    driver: Driver | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder of training states."""
        return self.folder / "checkpoints"

    @property
    def cursor(self) -> duckdb.DuckDBPyConnection:
        """The user's connection, for tasks that need `database`."""
        assert self.driver is not None
        return self.driver.cursor

    @property
    def workspace(self) -> Workspace:
        """The workspace, for tasks that need `workspace`."""
        assert self.driver is not None
        return self.driver.workspace


Executor: TypeAlias = Callable[[Operator, Data, Context], Data]
"""Runs the task of an operator on its inputs and returns the outputs."""


def run_here(operator: Operator, data: Data, context: Context) -> Data:
    """The executor of a local run: it runs the task in this process."""
    return operator.task.run(data, context)


def execute(
    dataflow: Dataflow,
    context: Context,
    *,
    keep: tuple[str, ...] = (),
    executor: Executor = run_here,
    machine: Machine | None = None,
) -> Data:
    """Run all operators in order; returns the data named in `keep`.

    Data is dropped after its last use. Once no further operator needs the database, the workspace releases its file, so
    that other processes can open it while this one trains. `machine`: the one that the operators run on, whose costs
    are recorded, except those of a resumed run, which does only a part of the work.
    """
    heartbeat = Heartbeat(context.emit)
    context = replace(context, emit=heartbeat.emit)
    order = list(dataflow.ordered())
    last = {name: i for i, o in enumerate(order) for name in o.inputs}
    reading = max((i for i, o in enumerate(order) if o.needs.database), default=-1)
    data: Data = {}
    with ExitStack() as stack:
        for i, operator in enumerate(order):
            if not operator.reports_itself:
                context.emit(PhaseStarted(phase=operator.name))
            cost = dataflow.cost(operator, machine) if machine is not None else None
            started, cpu_started = time.perf_counter(), time.process_time()
            with heartbeat.phase(operator.name, cost.seconds if cost is not None else None):
                outputs = executor(operator, {name: data[name] for name in operator.inputs}, context)
            missing = set(operator.outputs) - set(outputs)
            assert not missing, f"{operator.name} did not produce {missing}"
            data |= outputs
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
            if machine is not None and cost is not None and cost.estimated is not None and not context.resume:
                measured = seconds if cost.device == "cuda" else cpu
                machine.costs.add(operator.kind(cost.device), cost.estimated, measured)
            detail = operator.task.describe(outputs)
            context.emit(PhaseFinished(phase=operator.name, seconds=seconds, cpu_seconds=cpu, detail=detail))
            del outputs
            for name in [n for n, reader in last.items() if reader == i and n not in keep]:
                data.pop(name, None)
            if i == reading and context.driver is not None:
                stack.enter_context(context.driver.workspace.released())
    return {name: data[name] for name in keep if name in data}
