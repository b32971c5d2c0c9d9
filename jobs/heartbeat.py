"""Reports phases that report nothing themselves, so that no phase is silent for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from graphlearn.events import Emit, Event, PhaseRunning

FIRST, EVERY = 2.0, 5.0
"""Seconds of silence before the first report of a phase, and before each later one."""


class Heartbeat:
    """Passes events on, one at a time, and emits `PhaseRunning` while a phase runs and no other event is emitted."""

    def __init__(self, emit: Emit, *, first: float = FIRST, every: float = EVERY) -> None:
        self._emit, self._first, self._every = emit, first, every
        self._lock = threading.RLock()
        self._last = time.monotonic()

    def emit(self, event: Event) -> None:
        """Pass an event on."""
        with self._lock:
            self._emit(event)
            self._last = time.monotonic()

    @contextmanager
    def phase(self, name: str, expected_seconds: float | None) -> Iterator[None]:
        """Inside the block, the phase runs."""
        done = threading.Event()
        self._last = time.monotonic()
        thread = threading.Thread(target=self._beat, args=(name, expected_seconds, done), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, phase: str, expected: float | None, done: threading.Event) -> None:
        started, silence = time.monotonic(), self._first
        with suppress(Exception):  # an event that cannot be recorded fails the run when the phase emits its next one
            while not done.wait(max(0.01, self._last + silence - time.monotonic())):
                with self._lock:
                    now = time.monotonic()
                    if now - self._last >= silence and not done.is_set():
                        self.emit(PhaseRunning(phase=phase, seconds=now - started, expected_seconds=expected))
                        silence = self._every
