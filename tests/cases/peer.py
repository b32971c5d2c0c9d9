"""A second process that a test controls step by step, without sleeping."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PROGRAM = """
import json, sys
scope = {}
for line in sys.stdin:
    scope["answer"] = None
    try:
        exec(json.loads(line), scope)
        said = {"answer": scope["answer"]}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)
"""


class Peer:
    """Runs pieces of Python in another process and returns what they assign to `answer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def begin(self, code: str) -> None:
        """Start a piece without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """Wait for the piece that was started and return its answer. Raises RuntimeError with its error."""
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        if "error" in said:
            raise RuntimeError(said["error"])
        return said["answer"]

    def run(self, code: str) -> Any:
        """Run a piece to its end."""
        self.begin(code)
        return self.end()

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._process.kill()
        self._process.wait()


@contextmanager
def peer(start: str = "") -> Iterator[Peer]:
    """A process that has run `start`. It is killed at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            made = Peer(process)
            made.run(start)
            yield made
        finally:
            process.kill()
