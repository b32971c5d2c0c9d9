"""JSON lines, for programs."""

from __future__ import annotations

from typing import TextIO

from graphlearn.events import Event, to_json
from graphlearn.storage.files import dump_json


class JsonSink:
    """One JSON object per line, flushed immediately."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        self._stream.write(dump_json(to_json(event)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Flush the stream."""
        self._stream.flush()
