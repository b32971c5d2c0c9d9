"""Reading the files of a stored version. Nothing in them is believed before it is checked.

Every reader bounds the file's header before a library parses it and what the content takes in memory, and raises
ArtifactError that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from graphlearn.errors import ArtifactError, GraphLearnError
from graphlearn.storage.memory import lack_of_memory, memory_available

LONGEST_HEADER = 16 << 20
"""Bytes of a safetensors header or a Parquet footer."""
WIDEST_VALUE = 16
"""Bytes of a value in a Parquet column of values of a fixed size."""
SMALL_TEXTS, RATIO = 64 << 20, 10_000
"""The texts of a Parquet column may take this many bytes, or this many times the bytes of the file.

A text that is repeated takes no space in a file. Keys are not repeated: of 20 kB each, they still take 1 / 10,000.
"""
RETRAIN = "train the model again with --force"

Shapes: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensors by name: type ("F32", "I64", …) and shape."""


@contextmanager
def damaged_if_unreadable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside the block into an ArtifactError for this file.

    The libraries that parse it raise errors of many types. Those of ours pass unchanged. Those for which no file is to
    blame become a JobError; see `lack_of_memory`.
    """
    try:
        yield
    except GraphLearnError:
        raise
    except Exception as error:
        if (known := lack_of_memory(error)) is not None:
            raise known from error
        lines = str(error).splitlines() or [type(error).__name__]
        raise ArtifactError(f"the {what} {path} is missing or damaged: {lines[0]}", help=RETRAIN) from error


def parquet_metadata(path: Path, what: str = "file", columns: Sequence[str] | None = None) -> pq.FileMetaData:
    """The footer of a Parquet file with these columns (None: any), whose rows fit in memory.

    The columns hold no lists or structs. They take 8 bytes per value, or as many as the footer says; those of texts may
    take more, see `check_texts`.
    """
    with damaged_if_unreadable(path, what):
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            length = int.from_bytes(file.read(4), "little")
        if length > min(size, LONGEST_HEADER):
            raise ValueError(f"its footer has {length:,} bytes")
        metadata = pq.read_metadata(path)
        there = {metadata.schema.column(i).path.partition(".")[0]: i for i in range(metadata.num_columns)}
        used = list(there) if columns is None else list(columns)
        for name in used:
            if name not in there:
                raise ValueError(f"it has no column {name}")
            column = metadata.schema.column(there[name])
            if column.max_repetition_level or column.path != name or (column.length or 0) > WIDEST_VALUE:
                raise ValueError(f"its column {name} does not hold single values")
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        chunks = [group.column(there[name]) for group in groups for name in used]
        if any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks):  # repeats take no space, and we never use it
            raise ValueError("its texts are stored as differences")
        unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
        needed, free = max(8 * metadata.num_rows * len(used), unpacked), memory_available()
        if needed > free:
            raise ValueError(f"its rows take {needed:,} bytes, and {free:,} are free")
        return metadata


def check_texts(path: Path, size: int) -> None:
    """Raise ValueError if the texts in a Parquet column take more memory than they can in a file that we wrote.

    `size`: their bytes. Reading them, and what is then made of them, takes several times as much.
    """
    most = min(max(SMALL_TEXTS, RATIO * path.stat().st_size), memory_available() // 4)
    if size > most:
        raise ValueError(f"its texts take {size:,} bytes, and at most {most:,} are read")


def read_parquet(path: Path, what: str = "file", columns: Sequence[str] | None = None) -> pa.Table:
    """These columns of a Parquet file (None: all). Texts are Arrow dictionaries, which hold repeated ones once."""
    with damaged_if_unreadable(path, what):
        schema = parquet_metadata(path, what, columns).schema
        there = [schema.column(i) for i in range(len(schema.names))]
        used = [column for column in there if columns is None or column.path in columns]
        texts = [column.name for column in used if column.physical_type == "BYTE_ARRAY"]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for name in texts:
                if not pa.types.is_dictionary(file.schema_arrow.field(name).type):
                    raise ValueError(f"its column {name} does not hold texts")
            table = file.read(columns)
        for column in table.columns:
            if pa.types.is_dictionary(column.type):
                check_texts(path, sum(_decoded_bytes(chunk) for chunk in column.chunks))
        return table


def _decoded_bytes(texts: pa.DictionaryArray) -> int:
    lengths = pc.binary_length(texts.dictionary).cast(pa.int64()).take(texts.indices)
    return int(pc.sum(lengths).as_py() or 0)


def ids_of(table: pa.Table, name: str, count: int, *, lowest: int = 0) -> npt.NDArray[Any]:
    """A column of ids from `lowest` to `count` - 1. Raises ValueError for anything else. shape: [n]"""
    found: npt.NDArray[Any] = table.column(name).to_numpy()
    check_ids(found, name, count, lowest=lowest)
    return found


def check_ids(ids: npt.NDArray[Any], name: str, count: int, *, lowest: int = 0) -> None:
    """Raise ValueError if an array is not one of integers from `lowest` to `count` - 1. shape: [n]"""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {ids.dtype} {ids.shape}, not ids")
    if len(ids) and not lowest <= int(ids.min()) <= int(ids.max()) < count:
        raise ValueError(f"{name} holds ids that are not between {lowest} and {count - 1:,}")


def check_array(array: npt.NDArray[Any], name: str, dtype: npt.DTypeLike, *shape: int | None) -> None:
    """Raise ValueError if an array has another type or shape. None: any length."""
    fits = len(array.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        raise ValueError(f"{name} holds {array.dtype} {array.shape}")


def tensor_shapes(path: Path) -> Shapes:
    """The tensors of a safetensors file. Only its header is read."""
    from safetensors import safe_open

    with damaged_if_unreadable(path, "file"):
        _check_header(path)
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, not a mapping
            return {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}


def read_tensors(path: Path, framework: Literal["pt", "np"]) -> dict[str, Any]:
    """The tensors of a safetensors file, as torch tensors or numpy arrays."""
    from safetensors import safe_open

    with damaged_if_unreadable(path, "file"):
        _check_header(path)
        with safe_open(path, framework) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check_sizes(path: Path, names: Collection[str], *widths: int, bounded: Sequence[int] = ()) -> None:
    """Raise ArtifactError if options do not fit a safetensors file, before anything of their size is made.

    The name of every tensor starts with one of `names`, up to a dot. Each of `widths` is a dimension of some tensor
    with values; none of `bounded` exceeds the number of values in all of them. This is necessary, not sufficient: a
    model compares the tensors with its own before it allocates them.
    """
    there = tensor_shapes(path)
    shapes = [shape for _, shape in there.values() if 0 not in shape]
    known = {size for shape in shapes for size in shape}
    total = sum(math.prod(shape) for shape in shapes)
    if odd := [name for name in there if name.partition(".")[0] not in names]:
        raise ArtifactError(f"there is an unexpected tensor in {path}: {odd[0]}", help=RETRAIN)
    if (
        any(type(n) is not int for n in (*widths, *bounded))
        or not known.issuperset(widths)
        or max(bounded, default=0) > total
    ):
        raise ArtifactError(f"the tensors in {path} do not fit the options of the model", help=RETRAIN)


def _check_header(path: Path) -> None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes")


def read_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A numpy file of this type and shape, mapped read-only."""
    with damaged_if_unreadable(path, "file"):
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        check_array(found, path.name, dtype, *shape)
        return found
