"""What `graphlearn models`, `show` and `runs` print. Reads the artifact folder only, never the DuckDB file."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import cast

import click

from graphlearn.catalog import LiveTable, catalog_tables
from graphlearn.jobs.dhan.listing import baseline_of as graph_baseline
from graphlearn.jobs.dhan.listing import graph_fields, is_graph, print_graph_metrics
from graphlearn.jobs.kge.metrics import read_metrics
from graphlearn.jobs.labels import LABELS, metrics_line
from graphlearn.jobs.net3.listing import baseline_of, is_series, print_series_metrics, series_fields
from graphlearn.printing import print_fields, print_table, to_json_line
from graphlearn.sinks import duration
from graphlearn.storage.artifacts import ArtifactStore, fold
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.triples.snapshot import RELATIONS
from graphlearn.text import number
from graphlearn.types import Json

RELATIONS_SHOWN = 20


def rows_of(folder: Path, table: str) -> list[Json]:
    """A system table as records, with its JSON columns read."""
    read = cast("LiveTable", catalog_tables(folder)[table]).read()
    rows: list[Json] = read.to_pylist()
    for row in rows:
        for name in ("metrics", "options"):
            if isinstance(row.get(name), str):
                row[name] = json.loads(row[name])
    return rows


def print_models(folder: Path, *, as_json: bool) -> None:
    """One line a model: its current version."""
    rows = rows_of(folder, "models")
    if as_json:
        _lines(rows)
    elif not rows:
        click.echo("no model is stored yet; CREATE MODEL makes one", err=True)
    else:
        series = [row for row in rows if row["series"] is not None]
        graphs = [row for row in rows if row["edges"] is not None]
        triples = [row for row in rows if row not in series and row not in graphs]
        listed = [(_print_triple_models, triples), (_print_series_models, series), (_print_graph_models, graphs)]
        for i, (show, some) in enumerate((show, some) for show, some in listed if some):
            if i:
                sys.stdout.write("\n")
            show(some)


def _print_triple_models(rows: list[Json]) -> None:
    names = ("train_triples", "entities", "mrr", "hits_at_10")
    print_table(
        ("model", "type", "version", "triples", "entities", "test MRR", "Hits@10", "made", ""),
        [
            (
                row["model"],
                row["family"],
                row["version"],
                *(row[n] for n in names),
                moment(row["created_at"]),
                _damage(row),
            )
            for row in rows
        ],
    )


def _print_series_models(rows: list[Json]) -> None:
    """RMSE is of the test part, or of the validation part where there is none."""
    print_table(
        ("model", "type", "version", "task", "series", "steps", "of", "RMSE", "RMSE (z)", "best baseline", "made", ""),
        [
            (
                *(row[name] for name in ("model", "family", "version")),
                (row["options"] or {}).get("task", ""),
                *(row[name] for name in ("series", "steps", "freq", "rmse", "z_rmse")),
                baseline_of(Path(row["path"])),
                moment(row["created_at"]),
                _damage(row),
            )
            for row in rows
        ],
    )


def _print_graph_models(rows: list[Json]) -> None:
    """The figures of a model are those of its test part (NMI, ARI: of all labelled nodes)."""
    print_table(
        ("model", "type", "version", "learns", "nodes", "edges", "measured", "beside it", "made", ""),
        [
            (
                *(row[name] for name in ("model", "family", "version")),
                (row["options"] or {}).get("target") or "embeddings",
                *(row[name] for name in ("nodes", "edges")),
                metrics_line(dict(list((row["metrics"] or {}).items())[:2]), ", "),
                graph_baseline(Path(row["path"])),
                moment(row["created_at"]),
                _damage(row),
            )
            for row in rows
        ],
    )


def _damage(row: Json) -> str:
    return f"damaged: {row['damage']}" if row["damage"] else ""


def print_runs(folder: Path, model: str | None, *, as_json: bool) -> None:
    """One line a run, newest first."""
    rows = rows_of(folder, "runs")
    if model is not None:
        rows = [row for row in rows if fold(str(row["model"])) == fold(model)]
    if as_json:
        _lines(rows)
    elif not rows:
        click.echo("no run yet" if model is None else f"no run of {model} yet", err=True)
    else:
        units = {row["unit"] or "triples" for row in rows}
        names = {_figure(row) for row in rows}
        one = len(units) == 1 and len(names) == 1
        speed, figure = (f"{min(units)}/s", LABELS[min(names)]) if one else ("a second", "measured")
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


def _figure(row: Json) -> str:
    return next((name for name in ("rmse", "macro_f1", "nmi") if row[name] is not None), "mrr")


def _measured(row: Json, *, with_names: bool) -> tuple[object, object]:
    """Speed and metric of a run; with their names where runs of several kinds stand in one table."""
    speed, name = row["triples_per_second"], _figure(row)
    speed = None if speed is None else round(speed)
    if not with_names:
        return speed, row[name]
    return (
        None if speed is None else f"{speed:,} {row['unit'] or 'triples'}",
        None if row[name] is None else f"{LABELS[name]} {number(row[name])}",
    )


def _remark(row: Json) -> str:
    if row["eta_seconds"] is not None:
        return f"{duration(row['eta_seconds'])} left"
    if row["resumable"]:
        return "can be resumed"
    return str(row["message"] or "") if row["status"] == "failed" else ""


def print_model(folder: Path, model: str, version: int | None, *, as_json: bool) -> None:
    """Everything about one version, verified. Raises ModelNotFound, ArtifactError when it is damaged."""
    store = ArtifactStore(folder)
    artifact = store.load(model, version)
    manifest = artifact.manifest
    if as_json:
        click.echo(to_json_line({**manifest, "path": str(artifact.path)}))
        return
    versions = [a.version for a in store.versions(model)]
    series, graph = is_series(artifact.path), is_graph(artifact.path)
    counts, options = manifest.get("counts", {}), manifest.get("options", {})
    print_fields(
        {
            "model": artifact.model,
            "type": manifest.get("family"),
            "version": str(artifact.version)
            + (f" (stored: {', '.join(map(str, versions))})" if len(versions) > 1 else ""),
            "made": moment(datetime.fromisoformat(manifest["created_at"])),
            "run": manifest.get("run"),
            **(series_fields(artifact) if series else {}),
            **(graph_fields(artifact) if graph else {}),
            "entities": f"{counts['entities']:,} ({manifest.get('entity_type')})" if "entities" in counts else None,
            "relations": f"{counts['relations']:,} ({manifest.get('relation_type')})"
            if "relations" in counts
            else None,
            "triples": ", ".join(f"{counts[s]:,} {s}" for s in ("train", "valid", "test") if s in counts) or None,
            "size": f"{sum(file['bytes'] for file in manifest['files'].values()) / 1e6:,.1f} MB",
            "files": artifact.path,
            "options": ", ".join(f"{key} = {value}" for key, value in options.items()),
            "statement": manifest.get("statement"),
        }
    )
    if series:
        print_series_metrics(artifact.path, manifest.get("protocol"))
    elif graph:
        print_graph_metrics(artifact.path, manifest.get("protocol"))
    else:
        _print_metrics(artifact.path, manifest.get("protocol"))


def _print_metrics(path: Path, protocol: str | None) -> None:
    if not (path / "metrics.parquet").exists():
        return
    rows = read_metrics(path / "metrics.parquet")
    names = ("mrr", "mr", "hits_at_1", "hits_at_3", "hits_at_10", "count")
    titles = ("MRR", "MR", "Hits@1", "Hits@3", "Hits@10", "queries")  # a triple asks two: for its head, its tail
    overall = [row for row in rows if row["relation"] < 0]
    if not overall:
        return
    sys.stdout.write(f"\nmetrics ({protocol})\n" if protocol else "\nmetrics\n")
    print_table(("split", "side", *titles), [(r["split"], r["side"], *(r[n] for n in names)) for r in overall])
    split = "test" if any(row["split"] == "test" for row in rows) else "valid"
    each = [row for row in rows if row["relation"] >= 0 and row["side"] == "both" and row["split"] == split]
    each.sort(key=lambda row: -row["count"])
    if not each:
        return
    keys = Dictionary(path / RELATIONS).keys
    more = f", the {RELATIONS_SHOWN} most frequent of {len(each):,}" if len(each) > RELATIONS_SHOWN else ""
    sys.stdout.write(f"\nby relation ({split} split, both sides{more})\n")
    print_table(
        ("relation", *titles),
        [(str(keys[row["relation"]].as_py()), *(row[name] for name in names)) for row in each[:RELATIONS_SHOWN]],
    )


def moment(time: datetime | None) -> str:
    """A point in time as local date and time, to the second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time is not None else ""


def _lines(rows: list[Json]) -> None:
    for row in rows:
        click.echo(to_json_line(row))
