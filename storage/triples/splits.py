"""Duplicates, leaks and hold-out, on ids.

In this file, triples are ordered by (relation, head, tail), and `codes` are their split codes (0 train, 1 valid, 2
test). Functions that take a report add their counts to it. shape: triples, codes: [n]
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphlearn.errors import InputError
from graphlearn.storage.triples.report import IngestReport
from graphlearn.storage.triples.snapshot import Codes
from graphlearn.types import BoolArray, IdArray, Split, Triples

Hashes: TypeAlias = npt.NDArray[np.uint64]

_BLOCK = 1 << 20


def deduplicate(triples: Triples, codes: Codes, report: IngestReport) -> slice | IdArray:
    """The first row of every run of equal triples. Within a run, rows must be ordered by code."""
    same = np.ones(len(triples) - 1, np.bool_)
    for column in (triples.heads, triples.tails, triples.relations):
        same &= column[1:] == column[:-1]
    repeats = np.flatnonzero(same) + 1
    if not len(repeats):
        return slice(None)
    keep: BoolArray = np.ones(len(triples), np.bool_)
    keep[repeats] = False
    firsts = np.flatnonzero(keep)
    first_of = firsts[np.searchsorted(firsts, repeats, "right") - 1]
    report.leaked_rows = int(np.count_nonzero(codes[repeats] != codes[first_of]))
    report.duplicate_rows = len(repeats) - report.leaked_rows
    return firsts


def hold_out(
    triples: Triples, entity_hash: Hashes, relation_hash: Hashes, holdout: tuple[float, float], seed: int
) -> Codes:
    """Hold out (valid, test) fractions by a hash of keys and seed, so that the split depends on the triple alone.

    shape: entity_hash: [E], relation_hash: [R] -> [n]
    """
    valid, test = holdout
    salted = _mix(entity_hash ^ np.uint64(seed % (1 << 64)))
    codes = np.zeros(len(triples), np.uint8)
    for start in range(0, len(triples), _BLOCK):
        part = triples[start : start + _BLOCK]
        mixed = _mix(salted[part.heads] + relation_hash[part.relations])
        mixed = _mix(mixed + entity_hash[part.tails])
        chance = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
        codes[start : start + len(part)] = np.select([chance < valid, chance < valid + test], [1, 2], 0)
    return codes


def keep_seen(
    triples: Triples, codes: Codes, n_entities: int, n_relations: int, movable: BoolArray | None = None
) -> int:
    """Move held-out triples whose head, tail or relation is missing in train there, in place; returns how many.

    `movable`: the triples that may be moved, None for all. shape: [n]
    """
    entities, relations = seen(triples, n_entities, n_relations, codes)
    held = np.flatnonzero(codes if movable is None else movable & (codes > 0))
    part = triples[held]
    lost = ~(entities[part.heads] & entities[part.tails] & relations[part.relations])
    codes[held[lost]] = 0
    return int(np.count_nonzero(lost))


def divide(triples: Triples, codes: Codes, report: IngestReport, *, covered: bool) -> dict[Split, Triples]:
    """The triples of each split, in order. Raises InputError if train would be empty.

    `covered`: train is known to contain every entity and relation, so unseen ones need not be counted.
    """
    report.self_loops = int(np.count_nonzero(triples.heads == triples.tails))
    bounds = [0, *np.cumsum(np.bincount(codes, minlength=len(Split))).tolist()]
    if bounds[1] < len(triples):
        triples = triples[np.argsort(codes, kind="stable")]
    splits = {split: triples[bounds[split.code] : bounds[split.code + 1]] for split in Split}
    report.train, report.valid, report.test = (len(splits[split]) for split in Split)
    if not report.train:
        raise InputError("no row has split = 'train'", help="mark rows as 'train', or leave the split column out")
    if not covered and (report.valid or report.test):
        entities, relations = seen(splits[Split.TRAIN], report.entities, report.relations)
        report.unseen_entities = int(np.count_nonzero(~entities)) - report.vanished_entities
        report.unseen_relations = int(np.count_nonzero(~relations)) - report.vanished_relations
    return splits


def seen(
    triples: Triples, n_entities: int, n_relations: int, codes: Codes | None = None
) -> tuple[BoolArray, BoolArray]:
    """Masks of the entities and relations that occur, with `codes` only in train. shape: [E], [R]"""
    entities, relations = np.zeros(n_entities, np.bool_), np.zeros(n_relations, np.bool_)
    for start in range(0, len(triples), _BLOCK):  # blocks fit in the cache
        part = triples[start : start + _BLOCK]
        if codes is not None:
            part = part[np.flatnonzero(codes[start : start + _BLOCK] == 0)]
        entities[part.heads] = True
        entities[part.tails] = True
        relations[part.relations] = True
    return entities, relations


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64, elementwise, modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
