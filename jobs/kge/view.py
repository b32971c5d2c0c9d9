"""What lists and `graphlearn show` say about a stored knowledge-graph embedding."""

from __future__ import annotations

from graphlearn.jobs.family import Summary, SummaryTable
from graphlearn.jobs.metrics import read_metrics
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.triples.snapshot import RELATIONS
from graphlearn.types import Json

SHOWN = {"mrr": "MRR", "mr": "MR", "hits_at_1": "Hits@1", "hits_at_3": "Hits@3", "hits_at_10": "Hits@10"}
RELATIONS_SHOWN = 20


def summary(artifact: Artifact) -> Summary:
    """Counts and metrics of a version."""
    manifest = artifact.manifest
    counts, metrics = manifest.get("counts", {}), manifest.get("metrics", {})
    return Summary(
        listed={
            "triples": counts.get("train"),
            "entities": counts.get("entities"),
            "test MRR": metrics.get("mrr"),
            "Hits@10": metrics.get("hits_at_10"),
        },
        fields={
            "entities": _counted(counts, "entities", manifest.get("entity_type")),
            "relations": _counted(counts, "relations", manifest.get("relation_type")),
            "triples": ", ".join(f"{counts[s]:,} {s}" for s in ("train", "valid", "test") if s in counts) or None,
        },
        tables=_tables(artifact, manifest.get("protocol")),
    )


def _counted(counts: Json, name: str, type_name: str | None) -> str | None:
    return f"{counts[name]:,} ({type_name})" if name in counts else None


def _tables(artifact: Artifact, protocol: str | None) -> list[SummaryTable]:
    rows = read_metrics(artifact.path)
    overall = [row for row in rows if row["relation"] < 0]
    if not overall:
        return []
    names, titles = (*SHOWN, "count"), (*SHOWN.values(), "queries")  # two per triple: for its head and for its tail
    found = [
        SummaryTable(
            f"metrics ({protocol})" if protocol else "metrics",
            ("split", "side", *titles),
            [(row["split"], row["side"], *(row[name] for name in names)) for row in overall],
        )
    ]
    split = "test" if any(row["split"] == "test" for row in rows) else "valid"
    each = [row for row in rows if row["relation"] >= 0 and row["side"] == "both" and row["split"] == split]
    each.sort(key=lambda row: -row["count"])
    if each:
        keys = Dictionary(artifact.path / RELATIONS).keys
        more = f", the {RELATIONS_SHOWN} most frequent of {len(each):,}" if len(each) > RELATIONS_SHOWN else ""
        found.append(
            SummaryTable(
                f"by relation ({split} split, both sides{more})",
                ("relation", *titles),
                [
                    (str(keys[row["relation"]].as_py()), *(row[name] for name in names))
                    for row in each[:RELATIONS_SHOWN]
                ],
            )
        )
    return found
