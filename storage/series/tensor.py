"""A series as a dense array, with the axis and keys to translate positions back to stamps and keys; also as files.

series.npy      float32 [T, N1, ..., NM], NaN where not observed      time.parquet    (id, key) the stamps
mode_<i>.parquet   (id, key) the keys of a mode, by id                series.json     everything else
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.errors import ArtifactError, OptionError, did_you_mean
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.files import disk_errors, read_json, write_json
from graphlearn.storage.series.axis import TimeAxis
from graphlearn.storage.series.report import SeriesReport
from graphlearn.storage.stored import damaged_if_unreadable, read_array
from graphlearn.types import FloatArray, Json

VALUES = "series.npy"
TIMES = "time.parquet"
SERIES = "series.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Mode:
    """One mode of the tensor: the user's `keys` in id order. `name` is its column, None for a series without keys."""

    name: str | None
    keys: Dictionary
    _file: IO[bytes] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def label(self) -> str:
        """The name for messages."""
        return self.name or "series"


@dataclass(frozen=True, kw_only=True)
class SeriesTensor:
    """A dense series: `values` [T, N1, ..., NM], float32, NaN where not observed; read-only, mapped from a file.

    A series without keys has one mode of size 1 whose name is None. Until `write`, the array and the keys are in
    unnamed temporary files, which disappear with the process. `borders`: the first steps of the validation and test
    splits, once they are known; later versions keep them.
    """

    values: FloatArray
    axis: TimeAxis
    modes: tuple[Mode, ...]
    time_name: str
    value_name: str
    report: SeriesReport
    fingerprint: str
    borders: tuple[int, int] | None = None
    _file: IO[bytes] | None = field(default=None, repr=False, compare=False)

    def mode(self, name: str) -> int:
        """The number of a mode, from 0 (its axis in `values` is one more). Raises OptionError for an unknown name."""
        names = [mode.label for mode in self.modes]
        for i, known in enumerate(names):
            if known.lower() == name.lower():
                return i
        raise OptionError(f"the series has no mode {name}", key="modes", help=did_you_mean(name, names))

    def write(self, folder: Path) -> None:
        """Write series.npy, time.parquet, mode_<i>.parquet and series.json into an existing folder.

        Raises WorkspaceError when the disk is full or the folder is not writable.
        """
        with disk_errors(folder):
            _copy(self._file, Path(str(getattr(self.values, "filename", ""))), folder / VALUES)
            for i, mode in enumerate(self.modes):
                _copy(mode._file, mode.keys.path, folder / _mode_file(i))
            ids = pa.array(np.arange(len(self.axis)), pa.int64())
            pq.write_table(pa.table({"id": ids, "key": self.axis.stamps()}), folder / TIMES, compression="zstd")
            write_json(
                folder / SERIES,
                {
                    "format_version": FORMAT_VERSION,
                    "shape": list(self.values.shape),
                    "axis": self.axis.to_json(),
                    "modes": [mode.name for mode in self.modes],
                    "time": self.time_name,
                    "value": self.value_name,
                    "report": self.report.to_json(),
                    "fingerprint": self.fingerprint,
                    "borders": self.borders,
                },
            )

    def manifest(self) -> Json:
        """The keys that it adds to a version's manifest."""
        return {"data_fingerprint": self.fingerprint, "counts": self.report.to_json()}

    def close(self) -> None:
        """Release the temporary files, which `write` needs; `values` remain valid."""
        for file in (self._file, *(mode._file for mode in self.modes)):
            if file is not None:
                file.close()


def read_series(folder: Path) -> SeriesTensor:
    """Read a series written by `SeriesTensor.write`, with its values mapped read-only.

    Raises ArtifactError if a file is missing, damaged or of a newer version.
    """
    with damaged_if_unreadable(folder / SERIES, "series"):
        stored = read_json(folder / SERIES)
        if stored["format_version"] > FORMAT_VERSION:
            raise ArtifactError(
                f"the series in {folder} is from a newer GraphLearn", help="upgrade: pip install -U graphlearn"
            )
        modes = tuple(Mode(name, Dictionary(folder / _mode_file(i))) for i, name in enumerate(stored["modes"]))
        axis = TimeAxis.from_json(stored["axis"])
        values = read_array(folder / VALUES, np.float32, (len(axis), *(len(mode) for mode in modes)))
        borders = stored["borders"]
        if borders is not None and not (
            [type(border) for border in borders] == [int, int] and 0 <= borders[0] <= borders[1] <= len(axis)
        ):
            raise ValueError(f"borders are {borders}")
        names = [stored["time"], stored["value"], *(mode.name for mode in modes if mode.name is not None)]
        if not modes or not all(isinstance(name, str) for name in (*names, stored["fingerprint"])):
            raise ValueError("a column has no name")
        return SeriesTensor(
            values=values,
            axis=axis,
            modes=modes,
            time_name=stored["time"],
            value_name=stored["value"],
            report=SeriesReport.from_json(stored["report"]),
            fingerprint=stored["fingerprint"],
            borders=None if borders is None else (borders[0], borders[1]),
        )


def _mode_file(i: int) -> str:
    return f"mode_{i}.parquet"


def _copy(file: IO[bytes] | None, stored: Path, target: Path) -> None:
    """Copy an open temporary file, or the stored one, to a target."""
    with open(target, "wb") as out, open(stored, "rb") if file is None else open(os.dup(file.fileno()), "rb") as source:
        source.seek(0)
        shutil.copyfileobj(source, out, 1 << 22)
