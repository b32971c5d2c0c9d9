"""TensorBoard event files."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO

from graphlearn.events import Evaluated, Event, JobFinished, JobStarted, Step


class TensorBoardSink:
    """Loss, speed and metrics as TensorBoard event files, in `tensorboard/` of the run folder or in a given folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._writer: Any = None
        self._file: BinaryIO | None = None
        self._step = 0

    def __call__(self, event: Event) -> None:
        match event:
            case JobStarted():
                self.close()
                self._open(self._folder or Path(event.folder) / "tensorboard")
            case Step():
                self._step = (event.epoch - 1) * event.steps + event.step
                self._scalar("train/loss", event.loss, event)
                self._scalar("train/examples_per_second", event.examples_per_second, event)
            case Evaluated():
                for name, value in event.metrics.items():
                    self._scalar(f"{event.split}/{name}", value, event)
            case JobFinished():
                self.close()
            case _:
                pass

    def _open(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.summary.writer.record_writer import RecordWriter

        from graphlearn.storage.files import open_regular, own_folder

        if self._folder is None:
            own_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        # not SummaryWriter: its thread prints a traceback when the folder is removed, and opens the file at every write
        self._file = open(open_regular(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")  # noqa: SIM115
        self._writer = RecordWriter(self._file)
        self._writer.write(Record(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def _scalar(self, name: str, value: float, event: Event) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is not None and math.isfinite(value):
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self._writer.write(Record(wall_time=event.time, step=self._step, summary=summary).SerializeToString())
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            self._file.close()
        self._writer = self._file = None
