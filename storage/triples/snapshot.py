"""The data that a model was trained on: id triples and two dictionaries, as Parquet files.

entities.parquet   (id, key)   relations.parquet   (id, key)      sorted by id
snapshot.parquet   (head, relation, tail, split, present)         sorted by split, relation, head, tail

Facts of earlier versions that are no longer in the input follow at the end, with `present` = false, so that they keep
their split if they return.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.files import disk_errors
from graphlearn.storage.stored import check_array, damaged_if_unreadable, ids_of, read_parquet
from graphlearn.types import BoolArray, IdArray, Split, Triples

ENTITIES = "entities.parquet"
RELATIONS = "relations.parquet"
SNAPSHOT = "snapshot.parquet"
Codes: TypeAlias = npt.NDArray[np.uint8]

_ROWS = 1 << 20


def write_snapshot(path: Path, splits: dict[Split, Triples], removed: dict[Split, Triples] | None = None) -> None:
    """Write triples to a Parquet file. Raises WorkspaceError when the disk is full or not writable."""
    parts = [
        (split.code, present, found[split])
        for found, present in ((splits, True), (removed or {}, False))
        for split in Split
        if split in found
    ]
    wide = any(triples.heads.dtype == np.int64 for _, _, triples in parts)
    ids = pa.int64() if wide else pa.int32()
    schema = pa.schema(
        [("head", ids), ("relation", ids), ("tail", ids), ("split", pa.uint8()), ("present", pa.bool_())]
    )
    with (
        disk_errors(path),
        pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=["relation", "split"],
            column_encoding={"head": "DELTA_BINARY_PACKED", "tail": "DELTA_BINARY_PACKED"},
        ) as writer,
    ):
        for code, present, triples in parts:
            for start in range(0, len(triples), _ROWS):
                part = triples[start : start + _ROWS]
                columns = [pa.array(c, ids) for c in (part.heads, part.relations, part.tails)]
                columns.append(pa.array(np.full(len(part), code, np.uint8)))
                columns.append(pa.array(np.full(len(part), present)))
                writer.write_batch(pa.record_batch(columns, schema=schema), row_group_size=_ROWS)


def read_snapshot(folder: Path) -> dict[Split, Triples]:
    """The triples of the current input by split, in stored order.

    Raises ArtifactError if the file is missing or damaged.
    """
    facts, codes, present = read_facts(folder)
    count = int(np.count_nonzero(present))
    bounds = np.searchsorted(codes[:count], np.arange(len(Split) + 1))
    return {split: facts[bounds[split.code] : bounds[split.code + 1]] for split in Split}


def read_facts(folder: Path) -> tuple[Triples, Codes, BoolArray]:
    """All triples of the snapshot, their split codes, and whether they are present. shape: [n] each

    Raises ArtifactError if the file is missing or damaged, or has ids that the dictionaries next to it lack.
    """
    path = folder / SNAPSHOT
    table = read_parquet(path, "snapshot", ("head", "relation", "tail", "split", "present"))
    with damaged_if_unreadable(path, "snapshot"):
        entities, relations = (len(Dictionary(folder / name)) for name in (ENTITIES, RELATIONS))
        counts = {"head": entities, "relation": relations, "tail": entities}
        columns: list[IdArray] = [ids_of(table, name, count) for name, count in counts.items()]
        codes, present = ids_of(table, "split", len(Split)), table.column("present").to_numpy()
        check_array(present, "present", np.bool_, None)
        order = np.where(present, 0, len(Split)) + codes  # splits one after another, then what is no longer present
        if (np.diff(order) < 0).any():
            raise ValueError("its rows are not ordered by split")
        return Triples(*columns), codes.astype(np.uint8), present
