"""The known answers of queries: the filter for filtered ranking, predictions and negative sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphlearn.types import BoolArray, IdArray, Side, Triples


@dataclass(frozen=True)
class KnownAnswers:
    """Distinct answers grouped by query.

    A query is an anchor and a relation, encoded as anchor * n_relations + relation. `codes` are ascending, and the
    position of a query in `codes` is its key: the answers of key k are `answers[offsets[k]:offsets[k + 1]]`, ascending.
    """

    codes: IdArray
    offsets: IdArray
    answers: IdArray
    n_relations: int

    @staticmethod
    def of(parts: list[Triples], side: Side, n_relations: int) -> KnownAnswers:
        """The answers in all parts, for queries that ask for this side. Needs about 30 bytes per triple."""
        tail = side is Side.TAIL
        anchors = np.concatenate([t.heads if tail else t.tails for t in parts]) if parts else np.empty(0, np.int32)
        relations = np.concatenate([t.relations for t in parts]) if parts else np.empty(0, np.int32)
        answers = np.concatenate([t.tails if tail else t.heads for t in parts]) if parts else np.empty(0, np.int32)
        return KnownAnswers.group(anchors, relations, answers, n_relations)

    @staticmethod
    def group(anchors: IdArray, relations: IdArray | int, answers: IdArray, n_relations: int) -> KnownAnswers:
        """Group known answers, given one per row. shape: [n] each"""
        code = anchors.astype(np.int64) * n_relations + relations
        order = np.lexsort((answers, code))
        code, answers = code[order], answers[order]
        fresh = np.ones(len(code), bool)
        fresh[1:] = (code[1:] != code[:-1]) | (answers[1:] != answers[:-1])
        code, answers = code[fresh], answers[fresh]
        starts = np.flatnonzero(np.r_[True, code[1:] != code[:-1]]) if len(code) else np.empty(0, np.int64)
        return KnownAnswers(code[starts], np.append(starts, len(code)), np.ascontiguousarray(answers), n_relations)

    def __len__(self) -> int:
        return len(self.codes)

    def keys(self, anchors: IdArray, relations: IdArray | int) -> IdArray:
        """The key of each query, -1 for a query without known answers. shape: [B], [B] -> [B]"""
        if not len(self.codes):
            return np.full(len(anchors), -1, np.int64)
        code = anchors.astype(np.int64) * self.n_relations + relations
        at = np.minimum(np.searchsorted(self.codes, code), len(self.codes) - 1)
        return np.where(self.codes[at] == code, at, -1)

    def rows(self, keys_B: IdArray) -> tuple[IdArray, IdArray]:
        """All known answers of the queries, as (row in the batch, answer); none for a key of -1."""
        known = keys_B >= 0
        start = self.offsets[:-1][keys_B[known]]
        count = self.offsets[1:][keys_B[known]] - start
        rows = np.repeat(np.flatnonzero(known), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        return rows, self.answers[np.repeat(start, count) + within]

    def contain(self, anchors: IdArray, relations: IdArray, answers: IdArray) -> BoolArray:
        """Whether each answer is a known answer of its query. shape: [n] each -> [n]"""
        keys = self.keys(anchors, relations)
        distinct: IdArray = np.unique(keys)
        rows, found = self.rows(distinct)
        stride = np.int64(max(int(self.answers.max(initial=0)), int(answers.max(initial=0))) + 1)
        return np.isin(keys * stride + answers, distinct[rows] * stride + found)
