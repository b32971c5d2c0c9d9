"""Where events go: a live view on a terminal, plain lines in a pipe, JSON lines for programs, TensorBoard files.

A sink is an `Emit` with `close()`. Every sink accepts every event at any time; `choose_sink` picks one for a stream.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from graphlearn.sinks.json_lines import JsonSink
from graphlearn.sinks.live import RichSink
from graphlearn.sinks.plain import PlainSink
from graphlearn.sinks.sink import Sink
from graphlearn.sinks.tensorboard import TensorBoardSink

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "JsonSink",
    "PlainSink",
    "RichSink",
    "Sink",
    "TensorBoardSink",
    "choose_sink",
    "is_lively",
    "json_sink",
    "plain_sink",
    "rich_sink",
    "tensorboard_sink",
]


def plain_sink(stream: TextIO) -> PlainSink:
    """Lines of text, for logs and pipes."""
    return PlainSink(stream)


def rich_sink(console: Console) -> RichSink:
    """A live view on a terminal."""
    return RichSink(console)


def json_sink(stream: TextIO) -> JsonSink:
    """JSON lines, for programs."""
    return JsonSink(stream)


def tensorboard_sink(folder: Path | None = None) -> TensorBoardSink | None:
    """TensorBoard files in `folder` (default: `tensorboard/` in each run's folder). None if the package is missing."""
    return TensorBoardSink(folder) if find_spec("tensorboard") is not None else None


def is_lively(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def choose_sink(stream: TextIO) -> RichSink | PlainSink:
    """The live view if the stream is a terminal, plain lines otherwise. Colours respect NO_COLOR."""
    if is_lively(stream):
        from rich.console import Console

        return rich_sink(Console(file=stream))
    return plain_sink(stream)
