"""Link ranking by TYPE dhan and by its baselines, which are tuned on the validation split and trained to the end.

    python -m benchmarks.hetero_links [imdb gowalla] [--seeds 0,1,2] [--without-dhan]

imdb: which actors play in a movie? The edges from movies to actors are split at random, 80 / 10 / 10 %; actors and
directors have no features. gowalla: which places does a user visit next? Split as published, with a tenth of the
training links for validation; dhan and the MLP, whose training takes hours, are left out. Each test edge (at most
10,000) is ranked against all targets except those known for its source.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.peers_hetero import imdb, rows
from graphlearn.models.core.bootstrap import compare
from graphlearn.models.core.fit import fit
from graphlearn.models.dhan.baselines import baselines
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.dhan.training.training import WHOLE
from graphlearn.models.hetero.baselines.allowance import Allowance
from graphlearn.models.hetero.baselines.neighbours import ItemNeighbours
from graphlearn.models.hetero.baselines.ranking import LinkMethod, Popularity, measure_all
from graphlearn.models.hetero.baselines.walk import RandomWalk
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.links import LinkQueries
from graphlearn.models.hetero.measured import Measured
from graphlearn.models.hetero.splits import random_split
from graphlearn.models.hetero.tasks import LinkRanking
from graphlearn.types import Split

FIGURES = ("mrr", "hits_at_1", "hits_at_10", "auc")
DHAN = "**dhan**, defaults"


def movies(seed: int) -> tuple[HeteroGraph, LinkRanking]:
    """Movies, directors and actors as nodes."""
    found = imdb()
    relations, nodes = [], list(found.graph.nodes)
    for name, (movie, other) in found.hubs.items():
        nodes.append(NodeType(name, int(other.max()) + 1))
        relations.append(Relation({"director": "directed_by", "actor": "stars"}[name], "movie", name, movie, other))
    split = random_split(len(relations[1]), (0.8, 0.1, 0.1), seed)
    return HeteroGraph(tuple(nodes), tuple(relations)), LinkRanking("stars", split)


def visits(seed: int) -> tuple[HeteroGraph, LinkRanking]:
    """Users and places, with the published test split."""
    found = rows("SELECT user, item, split FROM '{d}/gowalla/visits.parquet' ORDER BY ALL")
    user, item = (np.array([row[k] for row in found]) for k in range(2))
    test = np.array([row[2] == "test" for row in found])
    valid = np.random.default_rng(seed).random(len(found)) < 0.1
    split = np.where(test, Split.TEST.code, np.where(valid, Split.VALID.code, Split.TRAIN.code)).astype(np.int8)
    nodes = (NodeType("user", int(user.max()) + 1), NodeType("place", int(item.max()) + 1))
    return HeteroGraph(nodes, (Relation("visits", "user", "place", user, item),)), LinkRanking("visits", split)


def counted(graph: HeteroGraph, task: LinkRanking, seed: int) -> dict[str, Measured]:
    """The baselines without parameters to learn, on the test split."""
    queries, everything = LinkQueries.of(graph, task, 0, seed), Allowance()
    methods: list[LinkMethod] = [Popularity(queries), ItemNeighbours(queries, everything), RandomWalk(graph, queries)]
    found = measure_all(methods, queries, (Split.TEST,), everything)
    return {method: splits[Split.TEST].measured() for method, splits in found.items()}


def measure(graph: HeteroGraph, task: LinkRanking, seed: int, *, dhan: bool) -> tuple[dict[str, Measured], float]:
    """What is measured of each method on the test split, and the CPU seconds of dhan per epoch."""
    options, cost, out = DhanOptions(seed=seed, device="cpu"), 0.0, dict[str, Measured]()
    if dhan:
        training = LinkTraining(graph, task, options)
        start = time.process_time()
        epochs = fit(training)
        cost = (time.process_time() - start) / epochs
        out[DHAN] = training.measure(Split.TEST)[WHOLE]
    found = baselines(graph, task, options, (Split.TEST,))
    return out | {method: splits[Split.TEST] for method, splits in found.items()}, cost


def interval(bounds: tuple[float, float] | None) -> str:
    """The bounds as text."""
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def table(runs: list[dict[str, Measured]]) -> str:
    """One row per method, best first; intervals are those of the first seed."""
    first, lines = runs[0], []
    for method in sorted(first, key=lambda name: -float(np.mean([run[name].figures["mrr"] for run in runs]))):
        line: dict[str, Any] = {"method": method}
        for figure in FIGURES:
            values = [run[method].figures[figure] for run in runs]
            line[figure] = f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")
        sample, ours = first[method].sample, first[DHAN].sample if DHAN in first else None
        assert sample is not None
        line["mrr, first split (95 %)"] = interval(sample.intervals(["mrr"]).get("mrr"))
        line["gain of dhan, first split"] = ""
        if ours is not None and method != DHAN:
            gain = compare(ours, sample, "mrr")
            line["gain of dhan, first split"] = f"{interval((gain.low, gain.high))}: {gain.outcome}"
        lines.append(line)
    return results.markdown(lines)


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="imdb, gowalla (default: both)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--without-dhan", action="store_true")
    given = parser.parse_args()
    makers = {"imdb": movies, "gowalla": visits}
    if unknown := [name for name in given.cases if name not in makers]:
        parser.error(f"unknown name {unknown[0]}: choose from {', '.join(makers)}")
    body, raw = [], dict[str, Any]()
    for name in given.cases or makers:
        runs, costs = [], []
        for seed in [int(seed) for seed in given.seeds.split(",")]:
            graph, task = makers[name](seed)
            start = time.process_time()
            if name == "imdb":
                found, cost = measure(graph, task, seed, dhan=not given.without_dhan)
            else:
                found, cost = counted(graph, task, seed), 0.0
            runs.append(found)
            costs.append(cost)
            shown = {method: round(measured.figures["mrr"], 4) for method, measured in found.items()}
            print(name, seed, shown, f"{time.process_time() - start:.0f} CPU s", flush=True)
        relation = graph.relation(task.relation)
        count = graph.node(relation.target).count
        trained = f" An epoch of dhan takes {np.mean(costs):.2f} CPU seconds." if any(costs) else ""
        body.append(
            f"{name}: test edges of {relation.name}, ranked against all {count:,} nodes of {relation.target}; mean ± "
            f"standard deviation over {len(runs)} splits.{trained}\n\n{table(runs)}"
        )
        raw[name] = [{method: dict(measured.figures) for method, measured in run.items()} for run in runs]
    results.write("hetero_links", "Link ranking by DHAN", "\n\n".join(body), raw)


if __name__ == "__main__":
    main()
