"""The version of a knowledge graph that a new version continues: keys, facts and their splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.triples.snapshot import ENTITIES, RELATIONS, Codes, read_facts
from graphlearn.types import IdArray, Split, Triples


@dataclass(frozen=True)
class TripleBase:
    """Dictionaries and facts of a stored version, including facts that have been removed. shape: codes: [n]"""

    entities: Dictionary
    relations: Dictionary
    facts: Triples
    codes: Codes

    @classmethod
    def read(cls, folder: Path) -> TripleBase:
        """Read the base from a version's folder. Raises ArtifactError if a file is missing or damaged."""
        entities, relations = Dictionary(folder / ENTITIES), Dictionary(folder / RELATIONS)
        facts, codes, _ = read_facts(folder)
        return cls(entities, relations, facts, codes)

    def table(self) -> pa.Table:
        """The facts and their positions (row, known_head, known_relation, known_tail), to be registered with DuckDB."""
        facts = self.facts
        columns = [np.arange(len(facts), dtype=np.int64), facts.heads, facts.relations, facts.tails]
        return pa.table([pa.array(c) for c in columns], ["row", "known_head", "known_relation", "known_tail"])

    def settle(self, rows: IdArray, codes: Codes) -> Codes:
        """Split codes of facts with positions `rows` in this base (-1: new); known facts keep theirs. shape: [n]"""
        settled: Codes = np.where(rows >= 0, self.codes[rows], codes)
        return settled

    def without(self, rows: IdArray) -> dict[Split, Triples]:
        """The facts at all other positions, by split, ordered by (relation, head, tail). shape: rows: [n]"""
        gone = np.ones(len(self.facts), np.bool_)
        gone[rows[rows >= 0]] = False
        facts, codes = self.facts[gone], self.codes[gone]
        order = np.lexsort((facts.tails, facts.heads, facts.relations))
        facts, codes = facts[order], codes[order]
        return {split: facts[codes == split.code] for split in Split}
