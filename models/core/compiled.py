"""How CPU kernels are compiled: by numba, on first call, without the GIL and on one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on first call. Fast maths may reorder sums, never across threads: results repeat exactly."""
    return cast(
        F, numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp", "afn"})(function)
    )
