"""An executor that runs every task that does not need the driver in a separate process, as a cluster would."""

from __future__ import annotations

import pickle
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from graphlearn.jobs.dataflow import Data, Operator
from graphlearn.jobs.execute import Context, run_here


def spawned(operator: Operator, data: Data, context: Context) -> Data:
    """The outputs of the task, which is pickled with its inputs; events are passed on as they occur."""
    if operator.needs.driver:
        return run_here(operator, data, context)
    here, there = get_context("spawn").Pipe()
    payload = pickle.dumps((operator.task, data, replace(context, emit=None, driver=None)))  # type: ignore[arg-type]
    child = get_context("spawn").Process(target=_work, args=(there, payload))
    child.start()
    there.close()
    try:
        while True:
            kind, value = pickle.loads(here.recv_bytes())
            if kind == "event":
                context.emit(value)
            elif kind == "error":
                raise value
            else:
                return dict(value)
    finally:
        child.join()


def _work(pipe: Connection, payload: bytes) -> None:
    def send(kind: str, value: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, value)))

    task, data, context = pickle.loads(payload)
    try:
        send("done", task.run(data, replace(context, emit=lambda event: send("event", event))))
    except BaseException as error:
        send("error", error)
