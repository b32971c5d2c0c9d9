"""The system tables, which list stored models and runs. Every scan reads the workspace folder.

Their columns include the metrics and counts of the families that have a model or run in the folder (of all families
while there is none), so that a workspace of one kind of model does not show the columns of others.

`models` has one row per model (its current version), `model_versions` one per version, `runs` one per run, and
`training_info` one per finished epoch and evaluation of every run, including running ones.

These keys of a manifest are shown: family, options, statement, fingerprint, run, seconds, metrics ({split: {name:
value}} or {name: value}), verdict and counts (of the ingest). Keys that are missing or of another type show as NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from graphlearn.jobs.family import Count, Family
from graphlearn.jobs.registry import families, family, is_family
from graphlearn.storage.artifacts import Artifact, ArtifactStore
from graphlearn.storage.files import disk_errors, dump_json
from graphlearn.storage.runs import RunFolder, list_runs
from graphlearn.types import Json

_TIME = pa.timestamp("us", tz="UTC")
_HEAD = [("model", pa.string()), ("family", pa.string()), ("version", pa.int64())]
TABLES = ("models", "model_versions", "training_info", "runs")


def schemas(kinds: Sequence[type[Family]]) -> dict[str, pa.Schema]:
    """The columns of the system tables, including those of the metrics and counts of these families."""
    metrics = [(name, pa.float64()) for name in metric_names(kinds)]
    counts = {count.column: count.type for kind in kinds for count in kind.counts}
    version = [
        *metrics,
        ("created_at", _TIME),
        *counts.items(),
        ("verdict", pa.string()),  # a sentence that compares the model with its baselines
        ("metrics", pa.json_()),
        ("options", pa.json_()),
        ("statement", pa.string()),
        ("fingerprint", pa.string()),
        ("run", pa.string()),
        ("seconds", pa.float64()),
        ("bytes", pa.int64()),
        ("path", pa.string()),
        ("damage", pa.string()),
    ]
    return {
        "models": pa.schema([*_HEAD, ("versions", pa.int64()), *version]),
        "model_versions": pa.schema([*_HEAD, ("is_current", pa.bool_()), *version]),
        "training_info": pa.schema(
            [
                ("run", pa.string()),
                ("model", pa.string()),
                ("kind", pa.string()),  # 'epoch' or 'evaluation'
                ("time", _TIME),
                ("seconds", pa.float64()),  # since the start of the run, excluding the pauses before it was resumed
                ("epoch", pa.int64()),
                ("step", pa.int64()),
                ("loss", pa.float64()),
                ("examples_per_second", pa.float64()),  # see `unit`
                ("unit", pa.string()),
                ("split", pa.string()),
                *metrics,
                ("best", pa.bool_()),
                ("metrics", pa.json_()),
            ]
        ),
        "runs": pa.schema(
            [
                ("run", pa.string()),
                ("model", pa.string()),
                ("family", pa.string()),
                ("status", pa.string()),
                ("started_at", _TIME),
                ("finished_at", _TIME),
                ("seconds", pa.float64()),
                ("epoch", pa.int64()),
                ("epochs", pa.int64()),
                ("step", pa.int64()),
                ("loss", pa.float64()),
                ("examples_per_second", pa.float64()),
                ("unit", pa.string()),
                ("eta_seconds", pa.float64()),
                ("version", pa.int64()),
                *metrics,
                ("metrics", pa.json_()),
                ("message", pa.string()),
                ("resumable", pa.bool_()),
                ("pid", pa.int64()),
                ("path", pa.string()),
            ]
        ),
    }


def metric_names(kinds: Sequence[type[Family]]) -> list[str]:
    """The metrics of families in order of declaration; headline metrics are followed by the bounds of intervals."""
    found: dict[str, None] = {}
    for metric in (metric for kind in kinds for metric in kind.metrics):
        found |= dict.fromkeys([metric.name, *(metric.bounds if metric.headline and metric.interval else ())])
    return list(found)


def present(folder: Path, also: Iterable[str] = ()) -> list[type[Family]]:
    """The families with a model or run in a folder, and those of the TYPE names `also`; all of them if that is none.

    Folders that may not be read count as empty: reading the tables raises the error, and other queries need none.
    """
    listed = [*also]
    with suppress(PermissionError):
        listed += [str(artifact.manifest.get("family")) for artifact in ArtifactStore(folder).models()]
    with suppress(PermissionError):
        listed += [str(info.get("family")) for info in list_runs(folder)]
    found = {name.lower() for name in listed}
    return [kind for kind in families() if found.intersection(kind.names)] or families()


class LiveTable:
    """A table that is computed at every scan. To register it as a view: `connection.register("runs", table)`."""

    def __init__(self, schema: pa.Schema, rows: Callable[[], Iterable[Json]]) -> None:
        self.schema = schema
        self._rows = rows

    def read(self) -> pa.Table:
        """The current rows. Raises WorkspaceError if they may not be read."""
        with disk_errors("the workspace"):
            rows = [
                {field.name: _fit(row.get(field.name), field.type) for field in self.schema} for row in self._rows()
            ]
        return pa.Table.from_pylist(rows, schema=self.schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.read().__arrow_c_stream__(requested_schema)


def catalog_tables(folder: Path, also: Iterable[str] = ()) -> dict[str, LiveTable]:
    """The system tables of a workspace folder (which need not exist), by name. `also`: see `present`."""
    sources: dict[str, Callable[[], Iterable[Json]]] = {
        "models": lambda: _models(folder),
        "model_versions": lambda: _model_versions(folder),
        "training_info": lambda: _training_info(folder),
        "runs": lambda: _runs(folder),
    }
    columns = schemas(present(folder, also))
    return {name: LiveTable(columns[name], rows) for name, rows in sources.items()}


def _models(folder: Path) -> Iterator[Json]:
    store = ArtifactStore(folder)
    for artifact in store.models():
        yield {**_version_row(artifact), "versions": len(artifact.versions)}


def _model_versions(folder: Path) -> Iterator[Json]:
    store = ArtifactStore(folder)
    for current in store.models():
        for artifact in store.history(current):
            yield {**_version_row(artifact), "is_current": artifact.version == current.version}


def _version_row(artifact: Artifact) -> Json:
    manifest = artifact.manifest
    counts = _dict(manifest.get("counts"))
    metrics = _dict(manifest.get("metrics"))
    files = _dict(manifest.get("files"))
    return {
        **{key: manifest.get(key) for key in ("family", "created_at", "statement", "fingerprint", "run", "seconds")},
        **_headline(metrics),
        "model": artifact.model,
        "version": artifact.version,
        **{count.column: counts.get(count.key) for count in _counts(manifest)},
        "verdict": manifest.get("verdict") or None,
        "metrics": metrics or None,
        "options": manifest.get("options"),
        "bytes": sum(_fit(_dict(file).get("bytes"), pa.int64()) or 0 for file in files.values()) if files else None,
        "path": str(artifact.path),
        "damage": artifact.damage,
    }


def _counts(manifest: Json) -> tuple[Count, ...]:
    """The counts declared by the version's family; none if the family is not installed."""
    name = str(manifest.get("family"))
    return family(name).counts if is_family(name) else ()


def _training_info(folder: Path) -> Iterator[Json]:
    for info in list_runs(folder):
        run = RunFolder(folder / "runs" / str(info["run"]))
        for row in _history(run.events()):
            yield {**row, "run": run.id, "model": info.get("model")}


def _history(events: Iterable[Json]) -> list[Json]:
    """Epochs and evaluations of a run, without those that were lost in a crash and repeated after a resume."""
    rows: dict[tuple[object, ...], Json] = {}
    began, spent, step, total = None, 0.0, 0, 0
    for event in events:
        time, kind = _fit(event.get("time"), pa.float64()), event.get("event")
        if time is None:
            continue
        if kind == "job_started" or began is None:
            resumed = event.get("resumed_at")
            total = resumed if isinstance(resumed, int) else total
            rows = _until(rows, total)
            began, spent = time, max((row["seconds"] for row in rows.values()), default=0.0)
        common: Json = {"time": time, "seconds": spent + time - began, "epoch": _fit(event.get("epoch"), pa.int64())}
        if kind == "step":
            step = event["step"] if isinstance(event.get("step"), int) else step
            epoch, steps = (_fit(event.get(key), pa.int64()) for key in ("epoch", "steps"))
            total = ((epoch or 1) - 1) * (steps or 0) + step
            rows = _until(rows, total)
            if event.get("epoch_done"):
                speed = {key: event.get(key) for key in ("loss", "examples_per_second", "unit")}
                _put(rows, {**common, **speed, "kind": "epoch", "step": step, "total": total, "split": None})
        elif kind == "evaluated":
            metrics = _dict(event.get("metrics"))
            shown = {"split": event.get("split"), "best": event.get("best"), "metrics": metrics or None}
            _put(rows, {**common, **_headline(metrics), **shown, "kind": "evaluation", "step": step, "total": total})
    return list(rows.values())


def _until(rows: dict[tuple[object, ...], Json], total: int) -> dict[tuple[object, ...], Json]:
    """The rows up to a step, counted from the start of training; later ones were lost in a crash."""
    return {key: row for key, row in rows.items() if row["total"] <= total}


def _put(rows: dict[tuple[object, ...], Json], row: Json) -> None:
    """Append a row, removing an earlier one of the same epoch or evaluation."""
    key = (row["kind"], row["epoch"], str(row["split"]))
    rows.pop(key, None)
    rows[key] = row


def _runs(folder: Path) -> Iterator[Json]:
    for info in list_runs(folder):
        run = RunFolder(folder / "runs" / str(info["run"]))
        started, finished = parse_time(info.get("started_at")), parse_time(info.get("finished_at"))
        running = info.get("status") == "running"
        end = finished or (datetime.now(UTC) if running else None)
        metrics = _dict(info.get("metrics"))
        yield {
            **info,
            **_headline(metrics),
            "metrics": metrics or None,
            "seconds": (end - started).total_seconds() if end and started else None,
            "eta_seconds": info.get("eta_seconds") if running else None,
            "resumable": run.resumable,
            "path": str(run.path),
        }


def _headline(metrics: Json) -> Json:
    """The headline metrics: of the test split, else of the validation split, else of a flat {name: value}."""
    chosen = next((metrics[split] for split in ("test", "valid") if isinstance(metrics.get(split), dict)), metrics)
    return {name: chosen.get(name) for name in metric_names(families())}


def _dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def parse_time(value: object) -> datetime | None:
    """A time from ISO text or Unix seconds; None if it is neither, or so far away that a time zone cannot hold it."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value, UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return found if MINYEAR < found.year < MAXYEAR else None


def _fit(value: Any, wanted: pa.DataType) -> Any:
    """The value as the column's type, None if it has another type, so that unknown files never break the catalog."""
    if value is None:
        return None
    if wanted == pa.json_():
        try:
            return dump_json(value)
        except RecursionError:
            return None
    if pa.types.is_timestamp(wanted):
        return parse_time(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_int64(wanted):
        return value if isinstance(value, int) and number and abs(value) < 1 << 63 else None
    if pa.types.is_float64(wanted):
        return float(value) if number and abs(value) < 1e308 else None
    if pa.types.is_boolean(wanted):
        return value if isinstance(value, bool) else None
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else None
