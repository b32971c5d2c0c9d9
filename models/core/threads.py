"""How many CPU threads torch uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(wanted: int) -> Iterator[None]:
    """Torch uses this many threads inside the context; 0 leaves the number as it is."""
    before = torch.get_num_threads()
    try:
        if wanted:
            torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)
