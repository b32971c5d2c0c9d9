"""The types of the domain.

A *triple* is (head, relation, tail). Users identify entities and relations by *keys* of any SQL type; the engine uses
dense ids from 0, which never leave it. Letters in shapes: B batch, N candidates, D dimensions, E entities, R relations.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NewType, TypeAlias

import numpy as np
import numpy.typing as npt

EntityId = NewType("EntityId", int)
RelationId = NewType("RelationId", int)
Epoch = NewType("Epoch", int)
Version = NewType("Version", int)

IdArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]
# int32 for up to 2**31 rows, int64 above
FloatArray: TypeAlias = npt.NDArray[np.float32]
DoubleArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
SplitCodes: TypeAlias = npt.NDArray[np.int8]
# Split.code of each row, -1 for none
Json: TypeAlias = dict[str, Any]


class Side(StrEnum):
    """The end of a triple that is corrupted or predicted."""

    HEAD = "head"
    TAIL = "tail"


class Split(StrEnum):
    """The split that a triple, node, edge or time step belongs to."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"

    @property
    def code(self) -> int:
        """Its code in arrays of splits: its position in this class. In such arrays, -1 means no split."""
        return tuple(Split).index(self)


@dataclass(frozen=True)
class Triples:
    """Triples as three parallel id arrays. shape: heads, relations, tails: [n]"""

    heads: IdArray
    relations: IdArray
    tails: IdArray

    def __post_init__(self) -> None:
        if not len(self.heads) == len(self.relations) == len(self.tails):
            raise ValueError("heads, relations and tails differ in length")

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, rows: slice | IdArray | BoolArray) -> Triples:
        return Triples(self.heads[rows], self.relations[rows], self.tails[rows])

    @staticmethod
    def concat(parts: list[Triples]) -> Triples:
        """All parts, concatenated."""
        return Triples(
            np.concatenate([p.heads for p in parts]),
            np.concatenate([p.relations for p in parts]),
            np.concatenate([p.tails for p in parts]),
        )
