"""Queries that Ctrl-C stops immediately."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import duckdb

T = TypeVar("T")


INTERRUPTED = (duckdb.InterruptException, RuntimeError)
"""What DuckDB raises after Ctrl-C; see `interruption`."""


def interruption(error: Exception) -> BaseException:
    """KeyboardInterrupt for an error that DuckDB raises after Ctrl-C; other errors unchanged."""
    stopped = isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted"
    return KeyboardInterrupt() if stopped else error


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """The result of `work`, which runs queries on the connection.

    DuckDB checks for signals only between queries. In the main thread, `work` therefore runs in a second thread, and
    Ctrl-C interrupts the query and raises KeyboardInterrupt here.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1, "query") as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise
