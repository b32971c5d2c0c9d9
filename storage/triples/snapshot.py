"""What a model was trained on: id triples and the two dictionaries, as Parquet files anyone can query.

entities.parquet   (id, key)   relations.parquet   (id, key)      sorted by id, which is key order
snapshot.parquet   (head, relation, tail, split)                  sorted by split, relation, head, tail
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.errors import ArtifactError
from graphlearn.storage.files import disk_errors
from graphlearn.types import IdArray, Split, Triples

ENTITIES = "entities.parquet"
RELATIONS = "relations.parquet"
SNAPSHOT = "snapshot.parquet"
SPLIT_CODES = {Split.TRAIN: 0, Split.VALID: 1, Split.TEST: 2}

_ROWS = 1 << 20


def write_snapshot(path: Path, splits: dict[Split, Triples]) -> None:
    """Write triples as one Parquet file. Raises WorkspaceError when the disk is full or not writable."""
    wide = any(t.heads.dtype == np.int64 for t in splits.values())
    ids = pa.int64() if wide else pa.int32()
    schema = pa.schema([("head", ids), ("relation", ids), ("tail", ids), ("split", pa.uint8())])
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
        for split, code in SPLIT_CODES.items():
            triples = splits.get(split)
            for start in range(0, 0 if triples is None else len(triples), _ROWS):
                assert triples is not None
                part = triples[start : start + _ROWS]
                columns = [pa.array(c, ids) for c in (part.heads, part.relations, part.tails)]
                columns.append(pa.array(np.full(len(part), code, np.uint8)))
                writer.write_batch(pa.record_batch(columns, schema=schema), row_group_size=_ROWS)


def read_snapshot(folder: Path) -> dict[Split, Triples]:
    """The triples a model was trained on, per split, in the order they were written.

    Raises ArtifactError when the file is missing or damaged.
    """
    path = folder / SNAPSHOT
    try:
        table = pq.read_table(path)
        columns: list[IdArray] = [table.column(name).to_numpy() for name in ("head", "relation", "tail")]
        codes = table.column("split").to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ArtifactError(
            f"the snapshot {path} is missing or damaged: {error}", help="train the model again with --force"
        ) from error
    bounds = np.searchsorted(codes, np.arange(len(SPLIT_CODES) + 1))
    everything = Triples(*columns)
    return {split: everything[bounds[code] : bounds[code + 1]] for split, code in SPLIT_CODES.items()}
