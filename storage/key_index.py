"""Finds the ids of keys in the sorted hashes of a dictionary's keys, instead of joining each batch with it."""

from __future__ import annotations

import threading

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.storage.scratch import scratch
from graphlearn.types import BoolArray, IdArray

KEY_HASH = "hash({})"
PAIRS = 1000
"""Keys with equal hashes that are compared with each other."""


class KeyIndex:
    """Finds the ids of keys. It takes 12 bytes per key and is built in one pass over the keys.

    An in-memory DuckDB database hashes, casts and compares the keys, because only DuckDB can do so for all its types.
    Every match is compared with the key itself, so keys with equal hashes are not confused. Thread-safe; calls are
    serialised.
    """

    def __init__(self, keys: pa.Array, field: pa.Field, type_name: str) -> None:
        """`keys`: in id order. `field`: the Arrow field with which DuckDB reads them as `type_name`. shape: [K]

        Raises ValueError if a key occurs twice.
        """
        self._keys, self._field, self._type = keys, field, type_name
        self._lock = threading.Lock()
        self._zone: str | None = None
        self._connection = scratch(threads=1)
        table = pa.table([keys], schema=pa.schema([field]))
        hashes = self._connection.from_arrow(table).project(f"{KEY_HASH.format('key')} AS hash").fetchnumpy()["hash"]
        order = np.argsort(hashes)
        self._hashes: npt.NDArray[np.uint64] = hashes[order]
        self._ids: IdArray = order.astype(np.int32) if len(order) <= 1 << 31 else order
        self._check_distinct()

    def find(self, keys: pa.Array | pa.ChunkedArray, time_zone: str | None) -> IdArray:
        """The ids of the keys; see `Dictionary.ids`. shape: [n] -> [n]

        Raises InputError for keys of a type that DuckDB cannot cast to the dictionary's type or back.
        """
        found = np.full(len(keys), -1, np.int64)
        if keys.null_count == len(keys):
            return found
        with self._lock:
            self._use(time_zone)
            asked = self._connection.from_arrow(pa.table({"asked": keys}))
            type_name = str(asked.types[0])
            try:
                self._find(keys, asked, type_name, found)
            except (duckdb.NotImplementedException, duckdb.BinderException) as error:
                raise InputError(
                    f"keys of type {type_name} cannot be compared with the model's, which are {self._type}",
                    help=f"cast them to {self._type} in the query",
                ) from error
        return found

    def _find(
        self, keys: pa.Array | pa.ChunkedArray, asked: duckdb.DuckDBPyRelation, type_name: str, found: IdArray
    ) -> None:
        """Write the ids of known keys into `found`. shape: [n], [n], [n]"""
        there = f"TRY_CAST(asked AS {self._type})"
        hashed = asked.project(f"{KEY_HASH.format(there)} AS hash, {there} IS NOT NULL AS usable").fetchnumpy()
        rows, hashes = np.flatnonzero(hashed["usable"]), hashed["hash"]
        rows = rows[np.argsort(hashes[rows])]  # so that successive lookups are close together in memory
        places = np.searchsorted(self._hashes, hashes[rows])
        while len(rows):  # repeated only if keys share a hash
            inside = places < len(self._hashes)
            rows, places = rows[inside], places[inside]
            hit = self._hashes[places] == hashes[rows]
            rows, places = rows[hit], places[hit]
            candidates = np.full(len(keys), -1, np.int64)
            candidates[rows] = self._ids[places]
            same = self._same(keys, type_name, candidates)[rows]
            found[rows[same]] = candidates[rows[same]]
            rows, places = rows[~same], places[~same] + 1

    def close(self) -> None:
        """Release the connection."""
        with self._lock:
            self._connection.close()

    def _check_distinct(self) -> None:
        """Raise ValueError if two keys with the same hash, of which there are hardly any, are equal."""
        pairs = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])[:PAIRS]
        if not len(pairs):
            return
        keys = [self._keys.take(pa.array(self._ids[places])) for places in (pairs, pairs + 1)]
        table = pa.table(keys, schema=pa.schema([self._field, self._field.with_name("next")]))
        if self._connection.from_arrow(table).project("key = next AS same").fetchnumpy()["same"].any():
            raise ValueError("a key occurs twice among its keys")

    def _use(self, time_zone: str | None) -> None:
        """Set the time zone in which timestamps with and without a zone are cast to each other."""
        if time_zone != self._zone:
            self._connection.close()
            self._connection, self._zone = scratch(threads=1, time_zone=time_zone), time_zone

    def _same(self, keys: pa.Array | pa.ChunkedArray, type_name: str, candidates: IdArray) -> BoolArray:
        """Whether each key is the dictionary's key with its candidate id (-1: none). shape: [n], [n] -> [n]

        A key of another type must be unchanged by a cast to the dictionary's type and back: 5.7 is not the key 6.
        """
        known = self._keys.take(pa.array(candidates, mask=candidates < 0))
        asked = pa.field("asked", keys.type)
        pairs = self._connection.from_arrow(pa.table([keys, known], schema=pa.schema([asked, self._field])))
        equal = f"key = TRY_CAST(asked AS {self._type})"
        if type_name != self._type:
            equal += f" AND TRY_CAST(key AS {type_name}) = asked"
        same: BoolArray = pairs.project(f"coalesce({equal}, false) AS same").fetchnumpy()["same"]
        return same
