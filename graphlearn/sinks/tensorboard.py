"""TensorBoard event files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from graphlearn.events import Evaluated, Event, JobFinished, JobStarted, Step


class TensorBoardSink:
    """Loss, speed and metrics as TensorBoard event files, in `tensorboard/` of the run folder or in a given folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._writer: Any = None
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
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def _scalar(self, name: str, value: float, event: Event) -> None:
        if self._writer is not None and math.isfinite(value):
            self._writer.add_scalar(name, value, self._step, walltime=event.time)

    def close(self) -> None:
        """Flush and close the file, unless its folder was removed."""
        if self._writer is not None and Path(self._writer.log_dir).exists():
            self._writer.close()
        self._writer = None
