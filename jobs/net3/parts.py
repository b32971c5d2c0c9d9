"""The data that a version stores in addition to weights, series and metrics.

graph_<mode>.parquet     source, target, weight: the edges of a mode, as ids of its entries
intervals.safetensors    step_<h>: scores of the validation split, from which prediction intervals follow; floor, spread
series_errors.safetensors    <split>/<method>: sums of the errors of each series, of the model and the best baseline
recovered.npy            float32 [T, N1, ..., NM], the value of every cell (task = 'recover')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.errors import ArtifactError
from graphlearn.jobs.net3.metrics import METHOD
from graphlearn.storage.files import disk_errors
from graphlearn.storage.stored import (
    RETRAIN,
    check_array,
    damaged_if_unreadable,
    ids_of,
    read_array,
    read_parquet,
    read_tensors,
)
from graphlearn.types import DoubleArray, FloatArray, Json

if TYPE_CHECKING:
    from graphlearn.models.net3.conformal import Conformal
    from graphlearn.models.net3.network.mode_products import Graph
    from graphlearn.models.net3.training.training import SeriesTraining
    from graphlearn.storage.artifacts import Artifact

INTERVALS = "intervals.safetensors"
RECOVERED = "recovered.npy"
SERIES_ERRORS = "series_errors.safetensors"
PLACES = ("spread", "floor")
"""The arrays of intervals with a value per series."""


def graph_file(mode: int) -> str:
    """The name of the file with the edges of a mode."""
    return f"graph_{mode}.parquet"


@dataclass(frozen=True)
class ModeGraphs:
    """Edges by the number of their mode."""

    edges: Mapping[int, Graph]

    def write(self, folder: Path) -> None:
        """One file per graph. Raises WorkspaceError when the disk is full."""
        for mode, (source, target, weight) in self.edges.items():
            table = pa.table({"source": source, "target": target, "weight": weight})
            with disk_errors(folder):
                pq.write_table(table, folder / graph_file(mode), compression="zstd")

    def manifest(self) -> Json:
        """The modes that have a graph."""
        return {"graphs": sorted(self.edges)}


def read_graphs(artifact: Artifact, sizes: Sequence[int]) -> dict[int, Graph]:
    """The graphs of a version; `sizes`: the keys of each mode. Raises ArtifactError for edges of other keys."""
    found: dict[int, Graph] = {}
    for mode in modes_with_graphs(artifact):
        path = artifact.path / graph_file(mode)
        table = read_parquet(path, "graph", ("source", "target", "weight"))
        with damaged_if_unreadable(path, "graph"):
            weight = table.column("weight").to_numpy()
            check_array(weight, "weight", np.float32, None)
            found[mode] = (*(ids_of(table, name, sizes[mode]) for name in ("source", "target")), weight)
    return found


def modes_with_graphs(artifact: Artifact) -> list[int]:
    """The numbers of the modes that have a graph. Raises ArtifactError."""
    modes = artifact.manifest.get("graphs")
    if not isinstance(modes, list) or not all(type(mode) is int and mode >= 0 for mode in modes):
        raise ArtifactError(f"the manifest of {artifact.model} lists no valid graphs", help=RETRAIN)
    return modes


@dataclass(frozen=True)
class Intervals:
    """Scores of the validation split, from which prediction intervals follow."""

    conformal: Conformal

    def write(self, folder: Path) -> None:
        """Raises WorkspaceError when the disk is full."""
        from safetensors.numpy import save_file

        found = {f"step_{step}": row for step, row in enumerate(self.conformal.scores, 1)}
        found |= {name: x for name in PLACES if (x := getattr(self.conformal, name)) is not None}
        with disk_errors(folder):
            save_file({name: np.ascontiguousarray(x, np.float32) for name, x in found.items()}, folder / INTERVALS)

    def manifest(self) -> Json:
        """Nothing."""
        return {}


def read_intervals(folder: Path, shape: tuple[int, ...]) -> Conformal:
    """The intervals of a version. shape: of the series, [N1, ..., NM]"""
    from graphlearn.models.net3.conformal import Conformal

    found = read_tensors(folder / INTERVALS, "np")
    with damaged_if_unreadable(folder / INTERVALS, "file"):
        places = {name: found.pop(name, None) for name in PLACES}
        scores = [found[f"step_{h}"] for h in range(1, len(found) + 1)]
        for row in scores:
            check_array(row, "the scores", np.float32, None)
        for name, array in places.items():
            if array is not None:
                check_array(array, name, np.float32, *shape)
        return Conformal(scores, **places)


@dataclass(frozen=True)
class SeriesErrors:
    """Sums of the errors of each series on a split, by method; see `Metrics.series`. shape: sums: [N, S] each"""

    split: str
    sums: Mapping[str, DoubleArray]

    def write(self, folder: Path) -> None:
        """Raises WorkspaceError when the disk is full."""
        from safetensors.numpy import save_file

        found = {f"{self.split}/{method}": np.ascontiguousarray(sums) for method, sums in self.sums.items()}
        with disk_errors(folder):
            save_file(found, folder / SERIES_ERRORS)

    def manifest(self) -> Json:
        """Nothing."""
        return {}


def read_series_errors(folder: Path, count: int) -> list[tuple[str, str, DoubleArray]]:
    """(method, split, sums) of a version with `count` series, the model first. shape: sums: [N, S]"""
    if not (folder / SERIES_ERRORS).exists():
        return []
    found = []
    for name, sums in read_tensors(folder / SERIES_ERRORS, "np").items():
        with damaged_if_unreadable(folder / SERIES_ERRORS, "file"):
            check_array(sums, "the sums", np.float64, count, None)
            split, method = name.split("/", maxsplit=1)
        found.append((method, split, sums))
    return sorted(found, key=lambda part: (part[0] != METHOD, part[0]))


@dataclass(frozen=True)
class Recovered:
    """The value of every cell, known or not. shape: values: [T, N1, ..., NM]"""

    values: FloatArray

    @classmethod
    def by(cls, training: SeriesTraining) -> Recovered:
        """The cells that a trained recovery predicts, at least the floor, computed in batches of time steps."""
        steps, size = len(training.values), max(1, training.options.batch_size)
        first = 0 if training.options.recovery == "smooth" else -training.options.window
        found = np.empty(training.values.shape, np.float32)
        for lo in range(0, steps, size):
            batch = np.arange(lo, min(lo + size, steps))
            found[lo : lo + size] = np.maximum(training.predict(batch + first)[:, 0], training.floor)
        return cls(found)

    def write(self, folder: Path) -> None:
        """Raises WorkspaceError when the disk is full."""
        with disk_errors(folder):
            np.save(folder / RECOVERED, self.values)

    def manifest(self) -> Json:
        """Nothing."""
        return {}


def read_recovered(folder: Path, shape: tuple[int, ...]) -> FloatArray:
    """The cells of a version, mapped from its file. shape: [T, N1, ..., NM]"""
    return read_array(folder / RECOVERED, np.float32, shape)
