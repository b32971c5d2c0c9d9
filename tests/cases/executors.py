"""An executor that runs tasks in another process, to show that tasks and data can be sent."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from graphlearn.events import silent
from graphlearn.jobs.dataflow import Data, Operator, Task
from graphlearn.jobs.execute import Context, Executor, run_here


def run_there(task: Task, data: Data, run: str, folder: Path) -> Data:
    """What the other process does; events are not sent back."""
    return task.run(data, Context(emit=silent, run=run, folder=folder))


@contextmanager
def spawned(sent: list[str]) -> Iterator[Executor]:
    """Runs the tasks that do not need the driver in a spawned process, and notes the names of their operators."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        def execute(operator: Operator, data: Data, context: Context) -> Data:
            if operator.needs.driver:
                return run_here(operator, data, context)
            sent.append(operator.name)
            return pool.submit(run_there, operator.task, data, context.run, context.folder).result()

        yield execute
