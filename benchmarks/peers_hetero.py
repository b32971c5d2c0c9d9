"""TYPE dhan compared with its baselines, PyG's HANConv, HGTConv, and a GCN on the union of the metapaths, by macro F1.

    python -m benchmarks.peers_hetero [acm imdb] [--seeds 0,1,2,3,4] [--models dhan,propagated,han,…] [--epochs 200]

The baselines are those of every run, tuned and trained to the end. dhan's network and linear part are also measured on
their own.

All use the same nodes, words, splits, maximum number of epochs, patience, and early stopping on the validation set. The
peers get words as binary features, and either materialised metapaths (han, gcn) or people and subjects as nodes (hgt).
They need torch-geometric.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import data, results
from graphlearn.models.core.fit import fit
from graphlearn.models.dhan.baselines import baselines
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.hetero.graph import Features, HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.metrics import f1_scores, one_hot
from graphlearn.models.hetero.tasks import Classification
from graphlearn.types import IdArray, Split

PATIENCE = 30
Model = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """A data set. hubs: pairs (node of the target type, hub) by relation, including people; read by the peers."""

    graph: HeteroGraph
    task: Classification
    hubs: dict[str, tuple[IdArray, IdArray]]


def rows(sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query over the Parquet files of a folder; {d} names the folder."""
    return duckdb.connect().execute(sql.replace("{d}", str(data.FOLDER / "hetero"))).fetchall()


def bag(texts: list[list[Any]], least: int = 1) -> Features:
    """Words that occur in at least `least` nodes, as binary features."""
    words, seen = np.unique([w for t in texts for w in set(t)], return_counts=True)
    place = {w: i for i, w in enumerate(words[seen >= least].tolist())}
    found = [sorted({place[w] for w in t if w in place}) for t in texts]
    ends = np.cumsum([0, *map(len, found)])
    return Features(None, ends, np.array([i for f in found for i in f], np.int64), None, len(place))


def parts(names: list[str | None]) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Split codes, -1 for NULL."""
    return np.array([-1 if n is None else Split(n).code for n in names], np.int8)


def numbers(pairs: list[tuple[Any, ...]]) -> tuple[IdArray, IdArray]:
    """The columns of pairs (id, key), with keys as numbers."""
    return np.array([p[0] for p in pairs]), np.unique([str(p[1]) for p in pairs], return_inverse=True)[1].reshape(-1)


def acm() -> Case:
    """HeCo's ACM, with 20 labels per class."""
    paper = rows("SELECT subject_area, words, split_20 FROM '{d}/acm/paper.parquet' ORDER BY paper")
    author = rows("SELECT words FROM '{d}/acm/author.parquet' ORDER BY author")
    writes = np.array(rows("SELECT author, paper FROM '{d}/acm/writes.parquet'"))
    about = numbers(rows("SELECT paper, subject FROM '{d}/acm/about.parquet'"))
    nodes = (
        NodeType("paper", len(paper), bag([p[1] for p in paper])),
        NodeType("author", len(author), bag([a[0] for a in author])),
    )
    relations = (
        Relation("writes", "author", "paper", writes[:, 0], writes[:, 1]),
        Relation("subject", "paper", "paper", *about, None, int(about[1].max()) + 1),
    )
    task = Classification("paper", np.array([p[0] for p in paper]), parts([p[2] for p in paper]), 3)
    return Case(HeteroGraph(nodes, relations), task, {"author": (writes[:, 1], writes[:, 0]), "subject": about})


def imdb() -> Case:
    """MAGNN's IMDB, with the words of the plot keywords that occur in at least 2 movies."""
    movie = rows("SELECT genre, plot_keywords, split FROM '{d}/imdb/movie.parquet' ORDER BY movie")
    hubs = {
        "director": numbers(rows("SELECT movie, director FROM '{d}/imdb/directs.parquet'")),
        "actor": numbers(rows("SELECT movie, actor FROM '{d}/imdb/plays.parquet'")),
    }
    words = bag([re.findall(r"\w+", (m[1] or "").lower()) for m in movie], 2)
    labels = np.unique([m[0] for m in movie], return_inverse=True)[1].reshape(-1)
    relations = tuple(Relation(k, "movie", "movie", *v, None, int(v[1].max()) + 1) for k, v in hubs.items())
    graph = HeteroGraph((NodeType("movie", len(movie), words),), relations)
    return Case(graph, Classification("movie", labels, parts([m[2] for m in movie]), 3), hubs)


def dense(features: Features) -> Tensor:
    """Words as a dense binary matrix."""
    assert features.indptr is not None
    assert features.indices is not None
    x = torch.zeros(len(features), features.sparse_width)
    x[np.repeat(np.arange(len(features)), np.diff(features.indptr)), features.indices] = 1
    return x


def metapath(pairs: tuple[IdArray, IdArray], count: int) -> Tensor:
    """Edges between nodes that share a hub, including self-loops. shape: [2, E]"""
    ids = torch.from_numpy(np.stack(pairs))
    a = torch.sparse_coo_tensor(ids, torch.ones(ids.shape[1]), (count, int(pairs[1].max()) + 1), check_invariants=True)
    edges: Tensor = torch.sparse.mm(a, a.t()).coalesce().indices()
    return edges


class Han(nn.Module):
    """HANConv with 8 heads on the metapaths, and a linear layer."""

    def __init__(self, case: Case) -> None:
        from torch_geometric.nn import HANConv

        super().__init__()
        kind = case.task.type
        self.x, self.kind = dense(case.graph.node(kind).features or Features()), kind
        self.edges = {(kind, k, kind): metapath(v, len(self.x)) for k, v in case.hubs.items()}
        self.conv = HANConv(self.x.shape[1], 64, ([kind], list(self.edges)), heads=8, dropout=0.6)
        self.out = nn.Linear(64, case.task.classes)

    def forward(self) -> Tensor:
        """shape: -> [N, C]"""
        x: Tensor = self.conv({self.kind: self.x}, self.edges)[self.kind]
        logits: Tensor = self.out(F.dropout(x, 0.6, self.training))
        return logits


class Hgt(nn.Module):
    """Two HGTConv layers with 4 heads; hubs are nodes with learnt embeddings."""

    def __init__(self, case: Case) -> None:
        from torch_geometric.nn import HGTConv

        super().__init__()
        kind = case.task.type
        self.x, self.kind = dense(case.graph.node(kind).features or Features()), kind
        self.rows = nn.ParameterDict(
            {k: nn.Parameter(0.1 * torch.randn(int(v[1].max()) + 1, 64)) for k, v in case.hubs.items()}
        )
        self.edges = {}
        for k, (node, hub) in case.hubs.items():
            edges = torch.from_numpy(np.stack([node, hub]))
            self.edges |= {(kind, f"to_{k}", k): edges, (k, f"from_{k}", kind): edges.flip(0)}
        types = [kind, *case.hubs]
        self.project = nn.Linear(self.x.shape[1], 64)
        self.layers = nn.ModuleList([HGTConv(64, 64, (types, list(self.edges)), heads=4) for _ in range(2)])
        self.out = nn.Linear(64, case.task.classes)

    def forward(self) -> Tensor:
        """shape: -> [N, C]"""
        x = {self.kind: F.relu(self.project(self.x)), **self.rows}
        for layer in self.layers:
            x = {k: F.dropout(v, 0.5, self.training) for k, v in layer(x, self.edges).items()}
        logits: Tensor = self.out(x[self.kind])
        return logits


class Gcn(nn.Module):
    """Two GCN layers on the union of the metapaths."""

    def __init__(self, case: Case) -> None:
        from torch_geometric.nn import GCNConv

        super().__init__()
        self.x = dense(case.graph.node(case.task.type).features or Features())
        self.edges = torch.cat([metapath(v, len(self.x)) for v in case.hubs.values()], 1).unique(dim=1)
        self.first, self.second = GCNConv(self.x.shape[1], 64, cached=True), GCNConv(64, case.task.classes, cached=True)

    def forward(self) -> Tensor:
        """shape: -> [N, C]"""
        x = F.dropout(F.relu(self.first(self.x, self.edges)), 0.5, self.training)
        logits: Tensor = self.second(x, self.edges)
        return logits


def peer(make: Callable[[Case], nn.Module], case: Case, seed: int, epochs: int) -> tuple[float, int]:
    """Test macro F1 at the best validation macro F1, and the number of epochs run."""
    torch.manual_seed(seed)
    model, task = make(case), case.task
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
    train, valid, test = (torch.from_numpy(np.flatnonzero(task.split == k)) for k in range(3))
    labels = torch.from_numpy(task.labels)

    def figure(logits: Tensor, nodes: Tensor) -> float:
        actual, found = one_hot(task.labels[nodes], task.classes), logits[nodes].argmax(1).numpy()
        return f1_scores(actual, one_hot(found, task.classes))["macro_f1"]

    best, since, ran = (-1.0, 0.0), 0, 0
    while ran < epochs and since < PATIENCE:
        ran += 1
        model.train()
        optimiser.zero_grad()
        F.cross_entropy(model()[train], labels[train]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        model.eval()
        with torch.no_grad():
            logits = model()
        score = figure(logits, valid)
        since = 0 if score > best[0] else since + 1
        if score > best[0]:
            best = (score, figure(logits, test))
    return best[1], ran


def ours(case: Case, seed: int, epochs: int) -> tuple[dict[str, Measured], int]:
    """dhan with default options and its parts on the test split, and the number of epochs run."""
    options = DhanOptions(seed=seed, epochs=epochs, patience=PATIENCE, device="cpu")
    training = ClassTraining(case.graph, case.task, options)
    ran = fit(training)
    print("share of the linear part:", training.shares.get("linear"), flush=True)
    return training.measure(Split.TEST), ran


def simple(case: Case, seed: int) -> dict[str, Measured]:
    """The baselines on the test split."""
    found = baselines(case.graph, case.task, DhanOptions(seed=seed, device="cpu"), (Split.TEST,))
    return {method: splits[Split.TEST] for method, splits in found.items()}


PARTS = {"dhan": "whole", "network": "network", "linear": "linear"}
BASELINES = {"mlp": "MLP", "propagated": "propagated features", "labels": "label propagation"}
NAMES = {
    "dhan": "**dhan**, defaults",
    "network": "dhan, network alone",
    "linear": "dhan, linear part alone",
    "propagated": "logistic regression on propagated features",
    "labels": "label propagation",
    "mlp": "MLP, same features",
    "han": "HANConv (PyG)",
    "hgt": "HGTConv (PyG)",
    "gcn": "GCN on the metapaths (PyG)",
}
BODY = """Macro F1 on the test set, mean ± standard deviation over the seeds. ACM with 20 labels per class (HeCo's
split), IMDB with MAGNN's split. All models use the same nodes, words, splits, maximum number of epochs
({epochs}), patience ({patience}) and early stopping on the validation set. dhan has its default options.
The defaults were chosen on new splits of the training and validation nodes, when test figures of earlier
versions of the model were already known. The peers have their usual sizes and were not tuned. Baselines are
tuned on the validation set and trained to the end. The interval is over test nodes, with the first seed. CPU
seconds include setup before the first epoch."""


def measure(case: Case, models: list[str], seeds: list[int], epochs: int) -> dict[str, dict[str, Any]]:
    """Models that are measured together on one data set: macro F1 per seed, epochs run, CPU seconds, interval."""
    peers: dict[str, Callable[[Case], nn.Module]] = {"han": Han, "hgt": Hgt, "gcn": Gcn}
    out: dict[str, dict[str, Any]] = {m: {"macro_f1": [], "epochs": 0, "interval": None} for m in models}
    start = time.process_time()
    for seed in seeds:
        names, ran = {model: model for model in models}, 0
        if models[0] in peers:
            figure, ran = peer(peers[models[0]], case, seed, epochs)
            found = {models[0]: Measured({"macro_f1": figure})}
        elif models[0] in PARTS:
            found, ran = ours(case, seed, epochs)
            names = PARTS
        else:
            found, names = simple(case, seed), BASELINES
        for model in models:
            measured = found[names[model]]
            out[model]["macro_f1"].append(measured.figures["macro_f1"])
            out[model]["epochs"] += ran
            if out[model]["interval"] is None and measured.sample is not None:
                out[model]["interval"] = measured.sample.intervals(["macro_f1"]).get("macro_f1")
    return {model: run | {"cpu": time.process_time() - start} for model, run in out.items()}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """One row per data set and model, best first."""
    lines = []
    for name, found in figures.items():
        for model, run in sorted(found.items(), key=lambda item: -float(np.mean(item[1]["macro_f1"]))):
            scores = run["macro_f1"]
            spread = f" ± {np.std(scores, ddof=1):.4f}" if len(scores) > 1 else ""
            lines.append(
                {
                    "data": name,
                    "model": NAMES[model],
                    "macro F1, test": f"{np.mean(scores):.4f}{spread}",
                    "95 %": "{:.4f} to {:.4f}".format(*run["interval"]) if run.get("interval") else "",
                    "seeds": len(scores),
                    "CPU seconds per run": f"{run['cpu'] / len(scores):.1f}",
                    "epochs per run": f"{run['epochs'] / len(scores):.0f}" if run["epochs"] else "",
                }
            )
    return results.markdown(lines)


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="acm, imdb (default: both)")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--epochs", type=int, default=200)
    given = parser.parse_args()
    makers = {"acm": acm, "imdb": imdb}
    for names, known in ((given.cases, makers), (given.models.split(","), NAMES)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"unknown name {unknown[0]}: choose from {', '.join(known)}")
    figures: dict[str, dict[str, Any]] = results.stored("peers_hetero") or {}
    body = BODY.format(epochs=given.epochs, patience=PATIENCE)
    for name in given.cases or makers:
        case = makers[name]()
        wanted = given.models.split(",")
        together = [[m for m in wanted if m in group] for group in (PARTS, BASELINES)]
        together += [[m] for m in wanted if m not in PARTS and m not in BASELINES]
        for models in filter(None, together):
            for model, run in measure(
                case, models, [int(seed) for seed in given.seeds.split(",")], given.epochs
            ).items():
                figures.setdefault(name, {})[model] = run
                print(name, model, [round(score, 4) for score in run["macro_f1"]], flush=True)
            results.write("peers_hetero", "DHAN and its peers", f"{body}\n\n{table(figures)}", figures)


if __name__ == "__main__":
    main()
