"""Compilation of CPU kernels by numba: on first call, without the GIL, single-threaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on first call. Fast maths may reorder sums, but not across threads, so results are reproducible."""
    return cast(
        F, numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp", "afn"})(function)
    )
