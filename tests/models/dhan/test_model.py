"""The encoder of DHAN compared with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases.hetero import small_graph
from torch import Tensor
from torch.nn import functional as F

from graphlearn.models.dhan.graph.edges import EdgeIndex, build_blocks, channels_of, edge_index, symmetric
from graphlearn.models.dhan.network.attention import Level, segment_softmax, weighted_sums
from graphlearn.models.dhan.network.batch import Batch
from graphlearn.models.dhan.network.hops import averaged
from graphlearn.models.dhan.network.model import Dhan
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.hetero.features import FeatureTable
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation

CPU = torch.device("cpu")
FORMS = [
    {"variant": "paper"},
    {"attention": "linear", "heads": 2},
    {"attention": "gat", "heads": 2},
    {"attention": "gatv2", "heads": 4},
    {"attention": "gat", "heads": 2, "mask": False},
]


def batch_of(graph: HeteroGraph, options: DhanOptions) -> Batch:
    channels = channels_of(graph, options.reverse)
    counts = {n.name: n.count for n in graph.nodes}
    edges = {c: edge_index(graph, c) for c in channels}
    columns = {n.name: FeatureTable(n, options.weighting, CPU).take() for n in graph.nodes}
    return Batch(columns, build_blocks(channels, edges, counts, CPU))


def softmax(values: list[Tensor]) -> list[Tensor]:
    """Elementwise, over tensors of the same shape."""
    top = torch.stack(values).max(0).values
    raised = [(v - top).exp() for v in values]
    total = sum(raised)
    return [r / total for r in raised]


def loop_level(
    level: Level, options: DhanOptions, sources: dict[str, Tensor], target: Tensor, channels: list, edges: dict
) -> Tensor:
    """Dual hierarchical attention as in the paper: relation by relation, node by node, pair by pair."""
    d, H = options.hidden, options.heads
    K = d // H
    rows = []
    for i in range(len(target)):
        per_relation, present = [], []
        x_i = target[i].view(H, K)
        for r, c in enumerate(channels):
            a: EdgeIndex = edges[c]
            weight = np.ones(len(a.src)) if a.weight is None else a.weight
            vector = level.from_source[r]
            neighbours: list[tuple[Tensor, Tensor, float]] = []
            if not c.hub:
                for e in np.flatnonzero(a.dst == i):
                    x_j = sources[c.source][a.src[e]].view(H, K)
                    neighbours.append((x_j, (vector * x_j).sum(-1), float(weight[e])))
            else:
                for e in np.flatnonzero(a.src == i):
                    members = np.flatnonzero(a.dst == a.dst[e])
                    states = [sources[c.source][a.src[m]].view(H, K) for m in members]
                    if options.attention == "linear":  # each pair separately, as in the metapath
                        neighbours += [(x, (vector * x).sum(-1), 1.0) for x in states]
                    else:
                        share = softmax([(vector * x).sum(-1) for x in states])
                        x = sum(s[:, None] * v for s, v in zip(share, states, strict=True))
                        neighbours.append((x, (vector * x).sum(-1), 1.0))
            present.append(bool(neighbours))
            if not neighbours:
                per_relation.append(torch.zeros(d, dtype=target.dtype))
                continue
            scores = []
            for x_j, own, w in neighbours:
                score = own
                if options.attention == "linear":
                    score = own + x_i.sum(-1)  # any term of the target: it cancels
                elif options.attention == "gat":
                    score = F.leaky_relu(own + (level.from_target[r] * x_i).sum(-1), 0.2)
                elif options.attention == "gatv2":
                    asked = (target[i] @ level.target).view(H, K)
                    score = (level.both[r] * F.leaky_relu(x_j + asked, 0.2)).sum(-1)
                scores.append(score + float(np.log(w)))
            alpha = softmax(scores)
            per_relation.append(sum(s[:, None] * n[0] for s, n in zip(alpha, neighbours, strict=True)).reshape(d))
        h = []
        for r, gathered in enumerate(per_relation):
            normed = F.layer_norm(gathered, (d,)) * level.norm_scale[r] + level.norm_bias[r]
            h.append(F.leaky_relu(normed) @ level.out)
        if options.attention == "linear":
            s = [(v @ level.score)[0] for v in h]
        elif options.attention == "gat":
            s = [F.leaky_relu(v @ level.score + target[i] @ level.ask, 0.2)[0] for v in h]
        else:
            s = [(F.leaky_relu(v + target[i] @ level.ask, 0.2) @ level.score)[0] for v in h]
        kept = [r for r in range(len(channels)) if present[r] or not options.mask]
        z = torch.zeros(d, dtype=target.dtype)
        if kept:
            own = softmax([s[r] for r in kept])
            general = softmax([level.general[r] for r in kept])
            m = level.mixing.sigmoid()
            z = sum(((1 - m) * b + m * g) * h[r] for r, b, g in zip(kept, own, general, strict=True))
        k = level.residual.sigmoid()
        rows.append(level.norm(k * F.gelu(z) + (1 - k) * target[i]))
    return torch.stack(rows)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_encoder_is_the_loop(form: dict) -> None:
    graph = small_graph()
    options = DhanOptions(hidden=8, hops=0, jumping=False, **form)
    generator = torch.Generator().manual_seed(1)
    channels = channels_of(graph, options.reverse)
    model = Dhan(graph.nodes, channels, options, generator).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    batch = batch_of(graph, options)
    for c in batch.columns.values():
        for name in ("dense", "values"):
            if getattr(c, name) is not None:
                object.__setattr__(c, name, getattr(c, name).double())
    for b in batch.blocks.values():
        for part in (b, b.pairs):
            for name in ("share", "log_weight"):
                if part is not None and getattr(part, name) is not None:
                    object.__setattr__(part, name, getattr(part, name).double())
    edges = {c: edge_index(graph, c) for c in channels}
    found = model(batch)

    x = {t: part(batch.columns[t], None) for t, part in zip(model.types, model.input, strict=True)}
    for s, (_, (level,)) in enumerate(model.steps):
        projected = {t: model.project[f"{s}-{i}"](x[t]) for i, t in enumerate(model.types)}
        new = dict(x)
        for i, t in enumerate(model.types):
            if f"{s}-{level}-{i}" in model.levels:
                own = [c for c in channels if c.target == t and c.level == level]
                new[t] = loop_level(model.levels[f"{s}-{level}-{i}"], options, projected, projected[t], own, edges)
        x = new
    weights = {t: torch.randn(v.shape, generator=generator, dtype=v.dtype) for t, v in x.items()}
    parameters = list(model.parameters())
    ours = torch.autograd.grad(sum((found[t] * w).sum() for t, w in weights.items()), parameters, allow_unused=True)
    theirs = torch.autograd.grad(sum((x[t] * w).sum() for t, w in weights.items()), parameters, allow_unused=True)
    for t in x:
        torch.testing.assert_close(found[t], x[t], atol=1e-5, rtol=1e-5)
    for (name, p), a, b in zip(model.named_parameters(), ours, theirs, strict=True):
        a, b = (torch.zeros_like(p) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)


def test_a_hub_is_the_materialised_metapath() -> None:
    """In linear attention, a pair counts once for each shared hub."""
    rng = np.random.default_rng(3)
    n, hubs = 30, 6
    code = np.unique(rng.integers(n * hubs, size=70))
    member, hub = code // hubs, code % hubs
    pairs = [(a, b) for h in range(hubs) for a in member[hub == h] for b in member[hub == h]]
    src, dst = np.array(pairs).T
    node = NodeType("node", n)
    options = DhanOptions(hidden=8, heads=2, attention="linear", hops=0, reverse=False)
    outs = []
    for relation in (Relation("r", "node", "node", member, hub, None, hubs), Relation("r", "node", "node", src, dst)):
        graph = HeteroGraph((node,), (relation,))
        model = Dhan(graph.nodes, channels_of(graph, False), options, torch.Generator().manual_seed(0))
        outs.append(model(batch_of(graph, options))["node"])
        assert relation.paths == len(src)
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hops", [0, 3])
def test_an_empty_relation_changes_nothing(hops: int) -> None:
    graph = small_graph()
    options = DhanOptions(hidden=8, heads=2, hops=hops)
    channels = channels_of(graph, True)
    model = Dhan(graph.nodes, channels, options, torch.Generator().manual_seed(0))
    batch = batch_of(graph, options)
    before = model(batch)
    with torch.no_grad():
        for name, level in model.levels.items():
            t = model.types[int(name.split("-")[2])]
            own = [c for c in channels if c.target == t and c.level == name.split("-")[1]]
            for r, c in enumerate(own):
                if c.relation == "reviews":
                    for p in (level.general, level.from_source, level.norm_scale, level.norm_bias):
                        p[r] += 5
        if model.hops is not None:
            for t, mix in zip(model.hops.types, model.hops.mix, strict=True):
                for r, c in enumerate(c for c in channels if c.target == t):
                    mix[r] += 5 * (c.relation == "reviews")
    after = model(batch)
    for t in before:
        torch.testing.assert_close(before[t], after[t])


def test_segments() -> None:
    group = torch.tensor([0, 0, 2, 2, 2])
    offset = torch.tensor([0, 2, 2, 5, 5])
    logits = torch.randn(5, 3)
    alpha, mass = segment_softmax(logits, group, offset)
    torch.testing.assert_close(alpha[2:], logits[2:].softmax(0))
    torch.testing.assert_close(mass[[0, 2]], torch.stack([logits[:2].logsumexp(0), logits[2:].logsumexp(0)]))
    x, src = torch.randn(4, 3, 2), torch.tensor([3, 0, 1, 1, 2])
    sums = weighted_sums(x, alpha, src, offset)
    torch.testing.assert_close(sums[2], (alpha[2:, :, None] * x[src[2:]]).sum(0))
    assert sums[1].abs().sum() == sums[3].abs().sum() == 0
    assert weighted_sums(x, alpha[:0], src[:0], torch.zeros(5, dtype=torch.int64)).shape == (4, 3, 2)


def test_averaging_follows_weights_and_leaves_out_what_is_missing() -> None:
    relation = Relation("r", "a", "b", np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1, 3, 2], np.float32))
    other = Relation("q", "a", "b", np.array([0]), np.array([1]))
    graph = HeteroGraph((NodeType("a", 2), NodeType("b", 3)), (relation, other))
    block = batch_of(graph, DhanOptions(reverse=False)).blocks["all", "b"]
    x = {"a": torch.tensor([[1.0], [5.0]]), "b": torch.zeros(3, 1)}
    found = averaged(x, block, torch.tensor([np.log(3.0), 0.0], dtype=torch.float32))
    torch.testing.assert_close(found, torch.tensor([[4.0], [0.75 * 5 + 0.25 * 1], [0.0]]))


def test_channels() -> None:
    graph = small_graph()
    names = [c.name for c in channels_of(graph, True)]
    assert names == ["cites", "cites (back)", "reviews", "reviews (back)", "topic", "writes", "writes (back)"]
    assert len(channels_of(graph, False)) == 4
    both = Relation("r", "a", "a", np.array([0, 1]), np.array([1, 0]))
    assert symmetric(both)
    assert not symmetric(Relation("r", "a", "a", np.array([0, 1]), np.array([1, 2])))
    assert not symmetric(Relation("r", "a", "a", both.src, both.dst, np.array([1, 2], np.float32)))


def test_edges_of_weight_0_carry_nothing() -> None:
    relation = Relation("r", "a", "a", np.array([0, 1]), np.array([1, 2]), np.array([0, 1], np.float32))
    graph = HeteroGraph((NodeType("a", 3),), (relation,))
    assert edge_index(graph, channels_of(graph, False)[0]).src.tolist() == [1]
