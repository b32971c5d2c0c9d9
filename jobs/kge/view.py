"""What lists and `graphlearn show` say about a stored knowledge-graph embedding."""

from __future__ import annotations

from collections.abc import Sequence

from graphlearn.jobs.family import Summary, SummaryTable
from graphlearn.jobs.kge.metrics import METRICS
from graphlearn.jobs.metrics import HITS_AT_10, MRR, read_metrics
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.triples.snapshot import RELATIONS
from graphlearn.types import Json

SHOWN = tuple(metric for metric in METRICS if metric.name != "amri")
TITLES = (*(metric.title for metric in SHOWN), f"{MRR.label}, 95 %", "triples")
RELATIONS_SHOWN = 20


def summary(artifact: Artifact) -> Summary:
    """Counts, metrics and verdict of a version."""
    manifest = artifact.manifest
    counts, metrics = manifest.get("counts", {}), manifest.get("metrics", {})
    hits, rows = metrics.get(HITS_AT_10.name), read_metrics(artifact.path)
    split = _split(rows)
    return Summary(
        listed={
            "triples": counts.get("train"),
            "entities": counts.get("entities"),
            f"{split} {MRR.label}": metrics.get(MRR.name),
            HITS_AT_10.label: None if hits is None else HITS_AT_10.text(hits),
        },
        fields={
            "entities": _counted(counts, "entities", manifest.get("entity_type")),
            "relations": _counted(counts, "relations", manifest.get("relation_type")),
            "triples": ", ".join(f"{counts[s]:,} {s}" for s in ("train", "valid", "test") if s in counts) or None,
            "verdict": manifest.get("verdict") or None,
        },
        tables=_tables(artifact, rows, split),
    )


def _counted(counts: Json, name: str, type_name: str | None) -> str | None:
    return f"{counts[name]:,} ({type_name})" if name in counts else None


def _split(rows: Sequence[Json]) -> str:
    """The split that the metrics of a version describe: the test split or, if that is empty, the validation split."""
    return "valid" if rows and not any(row["split"] == "test" for row in rows) else "test"


def _tables(artifact: Artifact, rows: Sequence[Json], split: str) -> list[SummaryTable]:
    protocol = artifact.manifest.get("protocol")
    overall = [row for row in rows if row["relation"] < 0]
    if not overall:
        return []
    mine = str(artifact.manifest["family"])
    found = [
        SummaryTable(
            f"metrics ({protocol})" if protocol else "metrics",
            ("method", "split", "side", *TITLES),
            [(row.get("method", mine), row["split"], row["side"], *_cells(row)) for row in overall],
        )
    ]
    each = [row for row in rows if row["relation"] >= 0 and row["side"] == "both" and row["split"] == split]
    each = [row for row in each if row.get("method", mine) == mine]
    each.sort(key=lambda row: -row["count"])
    if each:
        keys = Dictionary(artifact.path / RELATIONS).keys
        more = f", the {RELATIONS_SHOWN} most frequent of {len(each):,}" if len(each) > RELATIONS_SHOWN else ""
        found.append(
            SummaryTable(
                f"by relation ({split} split, both sides{more})",
                ("relation", *TITLES, ""),
                [
                    (str(keys[row["relation"]].as_py()), *_cells(row), "too few to judge" if row.get("too_few") else "")
                    for row in each[:RELATIONS_SHOWN]
                ],
            )
        )
    return found


def _cells(row: Json) -> list[object]:
    """The metrics of a row, the interval of the MRR, and the number of triples."""
    low, high = (row.get(bound) for bound in MRR.bounds)
    interval = "" if low is None or high is None else f"{MRR.text(low)} to {MRR.text(high)}"
    return [*(row[metric.name] for metric in SHOWN), interval, triples_of(row)]


def triples_of(row: Json) -> int:
    """The number of triples behind a row of the metric table, whose `count` is the number of ranks."""
    return int(row["count"]) // (2 if row["side"] == "both" else 1)
