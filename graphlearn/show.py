"""The output of `graphlearn models`, `show` and `runs`. Reads only the artifact folder, never the DuckDB file."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

import click

from graphlearn.catalog import catalog_tables, parse_time
from graphlearn.errors import ArtifactError, GraphLearnError, printable
from graphlearn.jobs.family import Summary
from graphlearn.jobs.functions import family_of
from graphlearn.jobs.metrics import Metric, headline
from graphlearn.jobs.registry import family, is_family
from graphlearn.printing import print_fields, print_table, to_json_line
from graphlearn.storage.artifacts import Artifact, ArtifactStore, fold, newest, reading, wrong_object
from graphlearn.storage.columns import sql_literal
from graphlearn.text import LARGE, duration
from graphlearn.types import Json


def rows_of(folder: Path, table: str) -> list[Json]:
    """A system table as records, with JSON columns parsed."""
    rows: list[Json] = catalog_tables(folder)[table].read().to_pylist()
    for row in rows:
        for name in ("metrics", "options"):
            if isinstance(row.get(name), str):
                row[name] = json.loads(row[name])
    return rows


def print_models(folder: Path, *, as_json: bool) -> None:
    """Print one line per model: its current version. Models with the same columns share a table."""
    if as_json:
        _lines(rows_of(folder, "models"))
        return
    tables: dict[tuple[str, ...], list[tuple[object, ...]]] = {}
    for artifact in ArtifactStore(folder).models():
        try:
            listed, damage = _summary(artifact).listed, artifact.damage
        except GraphLearnError as error:  # damage that only reading shows
            listed, damage = {}, error.message
        made = artifact.manifest.get("created_at")
        row = (artifact.model, artifact.manifest.get("family"), artifact.version, *listed.values())
        remark = f"unusable: {damage}" if damage else ""
        tables.setdefault(tuple(listed), []).append((*row, moment(parse_time(made)), remark))
    if not tables:
        click.echo("no model is stored yet; create one with CREATE MODEL", err=True)
    for i, (titles, rows) in enumerate(tables.items()):
        if i:
            sys.stdout.write("\n")
        print_table(("model", "type", "version", *titles, "made", ""), rows)


def _summary(artifact: Artifact) -> Summary:
    """The family's summary of a version; empty if the version is damaged or its family is not installed."""
    name = str(artifact.manifest.get("family"))
    if (damage := wrong_object(artifact.manifest)) is not None:
        raise ArtifactError(damage)
    with reading(artifact):
        return family(name).summary(artifact) if artifact.damage is None and is_family(name) else Summary()


def print_runs(folder: Path, model: str | None, *, as_json: bool) -> None:
    """Print one line per run, newest first."""
    rows = rows_of(folder, "runs")
    if model is not None:
        rows = [row for row in rows if fold(str(row["model"])) == fold(model)]
    if as_json:
        _lines(rows)
    elif not rows:
        click.echo("no run yet" if model is None else f"no run of {model} yet", err=True)
    else:
        units = {row["unit"] or "" for row in rows}
        shown = {metric for row in rows if (metric := _headline(row)) is not None}
        one = len(units) == 1 and len(shown) <= 1
        speed = f"{min(units)}/s" if one and min(units) else "per second"
        figure = next(iter(shown)).label if one and shown else "metric"
        print_table(
            ("run", "model", "status", "epoch", "loss", speed, figure, "started", "took", ""),
            [
                (
                    row["run"],
                    row["model"],
                    row["status"],
                    f"{row['epoch']}/{row['epochs']}" if row["epoch"] is not None else "",
                    row["loss"],
                    *_measured(row, with_names=not one),
                    moment(row["started_at"]),
                    duration(row["seconds"]) if row["seconds"] is not None else "",
                    _remark(row),
                )
                for row in rows
            ],
        )


def _headline(row: Json) -> Metric | None:
    """The headline metric of a run."""
    name = str(row["family"])
    return headline(_numbers(row["metrics"]), family(name).metrics) if is_family(name) else None


def _numbers(metrics: object) -> dict[str, float | None]:
    """The metrics that are finite numbers; run.json may hold anything."""
    known = metrics if isinstance(metrics, dict) else {}
    return {name: float(value) for name, value in known.items() if type(value) in (int, float) and abs(value) < 1e308}


def _measured(row: Json, *, with_names: bool) -> tuple[object, object]:
    """Speed and headline metric of a run, with their names if runs of several kinds share a table."""
    speed, metric = _numbers(row).get("examples_per_second"), _headline(row)
    value = _numbers(row["metrics"])[metric.name] if metric is not None else None
    if speed is not None and abs(speed) >= LARGE:
        speed = None
    if not with_names:
        return None if speed is None else round(speed), value
    return (
        None if speed is None else f"{speed:,.0f} {row['unit'] or ''}".strip(),
        None if metric is None or value is None else f"{metric.label} {metric.text(value)}",
    )


def _remark(row: Json) -> str:
    if row["eta_seconds"] is not None:
        return f"{duration(row['eta_seconds'])} left"
    if row["resumable"]:
        return "can be resumed"
    return (str(row["message"] or "").splitlines() or [""])[0] if row["status"] == "failed" else ""


def print_model(folder: Path, model: str, version: int | None, *, as_json: bool) -> None:
    """Verify a version and print everything about it. Raises ModelNotFound, or ArtifactError if it is damaged."""
    store = ArtifactStore(folder)
    artifact = store.load(model, version)
    manifest = artifact.manifest
    if as_json:
        click.echo(to_json_line({**manifest, "path": str(artifact.path)}))
        return
    versions = artifact.versions
    with reading(artifact):
        summary = family(family_of(artifact)).summary(artifact)
    stored = f" (stored: {newest(versions)})" if len(versions) > 1 else ""
    print_fields(
        {
            "model": artifact.model,
            "type": manifest.get("family"),
            "version": f"{artifact.version}{stored}",
            "made": moment(parse_time(manifest.get("created_at"))),
            "run": manifest.get("run"),
            **summary.fields,
            "size": f"{sum(file['bytes'] for file in manifest['files'].values()) / 1e6:,.1f} MB",
            "files": artifact.path,
            "options": ", ".join(f"{key} = {sql_literal(value)}" for key, value in manifest.get("options", {}).items()),
            "statement": manifest.get("statement"),
        }
    )
    for table in summary.tables:
        sys.stdout.write(f"\n{printable(table.title)}\n")
        print_table(table.header, table.rows)


def moment(time: datetime | None) -> str:
    """Local date and time, to the second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time is not None else ""


def _lines(rows: list[Json]) -> None:
    for row in rows:
        click.echo(to_json_line(row))
