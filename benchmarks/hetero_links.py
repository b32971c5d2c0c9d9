"""Link ranking on IMDB: which actors play in a movie? TYPE dhan, a random walk, the degree and an MLP dot product.

    python -m benchmarks.hetero_links [--seeds 0,1,2]

The edges from movies to actors are split at random, 80 / 10 / 10 %. Actors and directors have no features. Each test
edge is ranked against all actors except those known to play in the movie.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.peers_hetero import imdb
from graphlearn.models.core.fit import fit
from graphlearn.models.dhan.options import DhanOptions
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.hetero.graph import HeteroGraph, NodeType, Relation
from graphlearn.models.hetero.splits import random_split
from graphlearn.models.hetero.tasks import LinkRanking
from graphlearn.types import Split

STEPS, KEPT = 4, 0.8
NAMES = {"dhan": "**dhan**, defaults", "walk": "random walk", "mlp": "MLP dot product", "degree": "degree"}
FIGURES = ("mrr", "hits_at_1", "hits_at_10", "auc")


def case(seed: int) -> tuple[HeteroGraph, LinkRanking]:
    """Movies, directors and actors as nodes."""
    found = imdb()
    relations, nodes = [], list(found.graph.nodes)
    for name, (movie, other) in found.hubs.items():
        nodes.append(NodeType(name, int(other.max()) + 1))
        relations.append(Relation({"director": "directed_by", "actor": "stars"}[name], "movie", name, movie, other))
    split = random_split(len(relations[1]), (0.8, 0.1, 0.1), seed)
    return HeteroGraph(tuple(nodes), tuple(relations)), LinkRanking("stars", split)


def walk(training: LinkTraining) -> dict[str, float]:
    """Rank actors by the probability that a walk over movies with a person in common ends at them; ties by degree."""
    movies = training.counts["movie"]
    people = []
    for r in training.graph.relations:
        keep = training.split <= 0 if r.name == "stars" else np.ones(len(r), np.bool_)
        table = np.zeros((movies, training.counts[r.target]), np.float32)
        table[r.src[keep], r.dst[keep]] = 1
        people.append(table)

    def rows(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return table / np.maximum(table.sum(1, keepdims=True), 1)

    step = sum(rows(p) @ rows(p.T) for p in people) / len(people)
    at = total = np.eye(movies, dtype=np.float32)
    for _ in range(STEPS):
        at = KEPT * (at @ step)
        total = total + at
    scores = total @ rows(people[1]) + 1e-6 * np.log1p(training.degree)
    return training.figures(Split.TEST, lambda nodes: scores[nodes])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    seeds = [int(seed) for seed in parser.parse_args().seeds.split(",")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    for seed in seeds:
        graph, task = case(seed)
        for name in ("mlp", "dhan"):
            training = LinkTraining(graph, task, DhanOptions(seed=seed, device="cpu"), mlp=name == "mlp")
            start = time.process_time()
            epochs = fit(training)
            cost = (time.process_time() - start) / epochs
            found[name].append(training.evaluate(Split.TEST) | {"cpu": cost})
        found["walk"].append(walk(training))
        found["degree"].append(training.degree_figures(Split.TEST))
        print(seed, {name: round(runs[-1]["mrr"], 4) for name, runs in found.items()}, flush=True)
    lines = []
    for name, runs in sorted(found.items(), key=lambda item: -float(np.mean([r["mrr"] for r in item[1]]))):
        line: dict[str, Any] = {"method": NAMES[name]}
        for figure in FIGURES:
            values = [run[figure] for run in runs]
            line[figure] = f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f}"
        line["CPU seconds per epoch"] = f"{np.mean([r['cpu'] for r in runs]):.2f}" if "cpu" in runs[0] else ""
        lines.append(line)
    body = (
        f"The movie–actor test edges of IMDB, ranked against all {training.targets:,} actors, most of whom play in\n"
        "one or two movies; mean ± standard deviation over splits. The random walk visits movies that share a\n"
        "director or an actor."
    )
    results.write("hetero_links", "Link ranking by DHAN", f"{body}\n\n{results.markdown(lines)}", found)


if __name__ == "__main__":
    main()
