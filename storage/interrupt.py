"""Queries that Ctrl-C stops immediately, and work that it does not leave half done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import duckdb

T = TypeVar("T")


INTERRUPTED = (duckdb.InterruptException, RuntimeError)
"""What DuckDB raises after Ctrl-C; see `interruption`."""
_AGAIN = 0.1
"""Seconds after which a query is interrupted again: it may not have begun before."""


def interruption(error: Exception) -> BaseException:
    """KeyboardInterrupt for an error that DuckDB raises after Ctrl-C; other errors unchanged."""
    stopped = isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted"
    return KeyboardInterrupt() if stopped else error


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """The result of `work`, which runs queries on the connection.

    DuckDB checks for signals only between queries. In the main thread, `work` therefore runs in a second thread, and
    Ctrl-C interrupts the query and raises KeyboardInterrupt here, when the connection is no longer in use.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[T] = Future()
    try:
        threading.Thread(target=_fulfil, args=(future, work), name="query").start()
        return future.result()
    except KeyboardInterrupt:
        while not future.cancel() and not future.done():  # cancelled if the thread has not begun
            connection.interrupt()
            wait([future], _AGAIN)
        raise


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


def to_the_end(work: Callable[[], object]) -> None:
    """Do work that may be repeated, such as cleaning up, completely: after Ctrl-C it is done again.

    Raises KeyboardInterrupt then.
    """
    try:
        work()
    except KeyboardInterrupt:
        work()
        raise
    except INTERRUPTED as error:
        stopped = interruption(error)
        if stopped is not error:
            work()
        raise stopped from None
