"""Neighbour sampling (Hamilton et al. 2017, GraphSAGE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphlearn.models.core.compiled import compiled
from graphlearn.models.dhan.graph.edges import Channel, EdgeIndex
from graphlearn.types import BoolArray, IdArray


@compiled
def _counted(offset: IdArray, nodes: IdArray, fanout: int) -> int:
    total = 0
    for v in nodes:
        total += min(fanout, offset[v + 1] - offset[v])
    return total


@compiled
def _pick(offset: IdArray, nodes: IdArray, fanout: int, seed: int, out: IdArray) -> None:
    """Up to `fanout` neighbours of each node without replacement, by Floyd's sampling."""
    np.random.seed(seed)
    n = 0
    for v in nodes:
        lo, degree = offset[v], offset[v + 1] - offset[v]
        if degree <= fanout:
            for j in range(degree):
                out[n] = lo + j
                n += 1
            continue
        first = n
        for j in range(degree - fanout, degree):
            place = lo + np.random.randint(0, j + 1)
            for k in range(first, n):
                if out[k] == place:
                    place = lo + j
                    break
            out[n] = place
            n += 1


class Csr:
    """Edges grouped by one end: rows order[offset[v] : offset[v + 1]] are those of node v."""

    def __init__(self, key: IdArray, count: int) -> None:
        self.order = np.argsort(key, kind="stable")
        self.offset = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=count))]).astype(np.int64)

    def pick(self, nodes: IdArray, fanout: int, seed: int) -> IdArray:
        """Up to `fanout` rows of each node."""
        out = np.empty(_counted(self.offset, nodes, fanout), np.int64)
        _pick(self.offset, nodes, fanout, seed, out)
        return self.order[out]


class IdMap:
    """Numbers ids in the order of their first occurrence."""

    def __init__(self, count: int) -> None:
        self.place = np.full(count, -1, np.int64)
        self.met: list[IdArray] = []
        self.size = 0

    def add(self, ids: IdArray) -> IdArray:
        """Number the ids that are new; returns them, each once."""
        new = np.unique(ids)
        new = new[self.place[new] < 0]
        self.place[new] = np.arange(self.size, self.size + len(new))
        self.size += len(new)
        self.met.append(new)
        return new

    def take(self) -> IdArray:
        """All ids so far, in order; clears the map."""
        ids = np.concatenate([np.zeros(0, np.int64), *self.met])
        self.place[ids] = -1
        self.met, self.size = [], 0
        return ids


class Sampler:
    """Samples neighbours per channel; the same random generator gives the same neighbourhood."""

    def __init__(self, edges: Mapping[Channel, EdgeIndex], counts: Mapping[str, int]) -> None:
        self.edges, self.counts = edges, counts
        self.into = {
            c: Csr(a.src, counts[c.source]) if c.hub else Csr(a.dst, counts[c.target]) for c, a in edges.items()
        }
        self.members = {c: Csr(a.dst, a.hubs) for c, a in edges.items() if c.hub}
        self.local = {t: IdMap(n) for t, n in counts.items()}
        self.hubs = {c: IdMap(a.hubs) for c, a in edges.items() if c.hub}

    def sample(
        self,
        seeds: Mapping[str, IdArray],
        fanout: Sequence[int],
        rng: np.random.Generator,
        banned: Mapping[str, BoolArray] | None = None,
    ) -> tuple[dict[str, IdArray], dict[Channel, EdgeIndex]]:
        """Nodes by type, the seeds first (sorted), and the edges between their positions.

        banned: by relation, a mask of edges to omit.
        """
        fresh = {t: self.local[t].add(np.asarray(seeds.get(t, np.zeros(0, np.int64)))) for t in self.counts}
        rows: dict[Channel, list[IdArray]] = {c: [] for c in self.edges}
        for f in fanout:
            found: dict[str, list[IdArray]] = {t: [] for t in self.counts}
            for c, a in self.edges.items():
                picked = self.into[c].pick(fresh[c.target], f, int(rng.integers(1 << 31)))
                if c.hub:
                    new = self.hubs[c].add(a.dst[picked])
                    more = self.members[c].pick(new, f, int(rng.integers(1 << 31)))
                    rows[c] += [picked, more]
                    found[c.source].append(a.src[more])
                else:
                    rows[c].append(picked)
                    found[c.source].append(a.src[picked])
            fresh = {t: self.local[t].add(np.concatenate([np.zeros(0, np.int64), *ids])) for t, ids in found.items()}
        out = {}
        for c, a in self.edges.items():
            chosen = np.concatenate([np.zeros(0, np.int64), *rows[c]])
            if c.hub:
                chosen = np.unique(chosen)
            if banned is not None and c.relation in banned:
                chosen = chosen[~banned[c.relation][a.edge[chosen]]]
            src = self.local[c.source].place[a.src[chosen]]
            dst = (self.hubs[c] if c.hub else self.local[c.target]).place[a.dst[chosen]]
            weight = None if a.weight is None else a.weight[chosen]
            out[c] = EdgeIndex(src, dst, weight, a.edge[chosen], self.hubs[c].size if c.hub else 0)
        nodes = {t: self.local[t].take() for t in self.counts}
        for hubs in self.hubs.values():
            hubs.take()
        return nodes, out
