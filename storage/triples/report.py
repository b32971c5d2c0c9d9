"""The report of an ingest: counts to check before trusting a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from graphlearn.text import counted
from graphlearn.types import Json


@dataclass(kw_only=True)
class IngestReport:
    """Counts of an ingest.

    rows = null_rows + duplicate_rows + leaked_rows + train + valid + test. `duplicate_rows` repeat a triple in its
    split, `leaked_rows` in a later one (train, valid, test). `unseen_entities` and `unseen_relations` occur only in
    valid or test. `moved_to_train`: held-out triples with an entity or relation that train would lack. `self_loops`
    (head = tail) are kept.

    Compared with earlier versions of the model: `removed` facts are no longer in the input, `vanished_entities` and
    `vanished_relations` (counted in `entities` and `relations`) no longer occur in any fact, and `kept_split` facts
    keep their split although the split column now differs.
    """

    rows: int = 0
    null_rows: int = 0
    duplicate_rows: int = 0
    leaked_rows: int = 0
    self_loops: int = 0
    moved_to_train: int = 0
    entities: int = 0
    relations: int = 0
    train: int = 0
    valid: int = 0
    test: int = 0
    unseen_entities: int = 0
    unseen_relations: int = 0
    removed: int = 0
    vanished_entities: int = 0
    vanished_relations: int = 0
    kept_split: int = 0

    def to_json(self) -> Json:
        """All counts by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> IngestReport:
        """The report from a manifest; ignores unknown names."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})

    def lines(self) -> list[str]:
        """The report as text, one line per count."""
        return [
            f"{self.rows:,} rows: {self.train:,} train, {self.valid:,} valid, {self.test:,} test triples",
            f"{self.entities:,} entities, {self.relations:,} relations",
            *(message for message, _ in self.notes()),
        ]

    def notes(self) -> list[tuple[str, str]]:
        """(message, level) of each count that the user should know about."""
        found = [
            (self.null_rows, "dropped {n} with a NULL head, relation or tail", "row", "warning"),
            (self.duplicate_rows, "dropped {n}", "duplicate row", "info"),
            (self.leaked_rows, "dropped {n}: the triple is in an earlier split too", "leaked row", "warning"),
            (self.self_loops, "kept {n}: head and tail are the same entity", "self-loop", "info"),
            (
                self.moved_to_train,
                "kept {n} in train, where an entity or relation would otherwise be missing",
                "held-out triple",
                "info",
            ),
            (self.unseen_entities, "{n} in valid or test only: ranked, but never trained", "entity", "warning"),
            (self.unseen_relations, "{n} in valid or test only: ranked, but never trained", "relation", "warning"),
            (self.removed, "{n} of earlier versions no longer in the input", "fact", "info"),
            (self.vanished_entities, "{n} no longer in any fact: kept, but not as candidates", "entity", "info"),
            (self.vanished_relations, "{n} no longer in any fact: kept", "relation", "info"),
            (
                self.kept_split,
                "kept {n} in the split of an earlier version although the split column now differs",
                "fact",
                "warning",
            ),
        ]
        return [(text.format(n=counted(n, noun)), level) for n, text, noun, level in found if n]
