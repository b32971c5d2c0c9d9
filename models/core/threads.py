"""The number of CPU threads that torch uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from graphlearn.processors import cores


@contextmanager
def threads(wanted: int) -> Iterator[None]:
    """Inside the block, torch uses this many threads; 0 keeps the number, but for processors that it may not use."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(wanted or min(before, cores()))
        yield
    finally:
        torch.set_num_threads(before)
