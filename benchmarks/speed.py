"""Speed of training, evaluation, ingest and a whole CREATE MODEL, compared with peers in the same run.

    python -m benchmarks.speed [--quick] [--models transe …]

The training table uses FB15k-237, d = 400, 200 shared negatives on one side, and batches of 1,000.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import graphlearn
from benchmarks import data, peers, results
from graphlearn.events import Event, PhaseFinished
from graphlearn.jobs.machine import gemm_flops
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.batches import Sampler
from graphlearn.models.kge.embedding import Embedding
from graphlearn.models.kge.engines.engine import Engine
from graphlearn.models.kge.engines.make import make_engine
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.triples.ingest import EncodedTriples
from graphlearn.types import Side, Split, Triples

MODELS = ("complex", "distmult", "transe", "rotate")


def ours(model: str, graph: EncodedTriples, seconds: float, **options: Any) -> tuple[float, Engine]:
    """Training triples per second at the settings of the table, and the engine."""
    kind = scorer_type(model)
    given = {"dim": 400, "negatives": 200, "batch_size": 1000, "sides": "alternate", "optimizer": "row_adagrad"}
    given |= {"filter_negatives": False, "reciprocal": False, "regularization": 0.0}
    scorer = kind(kind.options_type(**(given | options)))
    engine = make_engine(scorer, graph.n_entities, graph.n_relations)
    sampler = Sampler(graph.splits[Split.TRAIN], graph.n_entities, graph.n_relations, scorer.options)
    batches = (batch for epoch in range(1000) for batch in sampler.epoch(epoch))
    for _ in range(5):
        engine.step(next(batches), 0.1)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        batch = next(batches)
        engine.step(batch, 0.1)
        count += batch.examples
    speed = count / (time.perf_counter() - started)
    engine.close()
    return speed, engine


def median(repeat: int, *measures: Callable[[], float]) -> list[float]:
    """Medians of interleaved measurements, so that changes in the machine's speed affect all of them."""
    taken = [[measure() for measure in measures] for _ in range(repeat)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def training(graph: EncodedTriples, models: list[str], repeat: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of the training table."""
    splits = {str(k): v for k, v in graph.splits.items()}
    factories = peers.pykeen_factory(splits, graph.n_entities, graph.n_relations)
    train = graph.splits[Split.TRAIN]
    rows = []
    for model in models:
        kind = scorer_type(model)
        flops = 3 * 200 * kind(kind.options_type(dim=400)).flops_per_score()
        scheme = peers.DglKeScheme(model, graph.n_entities, graph.n_relations, 400, 200 if model != "rotate" else 50)
        sample = {"complex": 768, "distmult": 768, "transe": 2048, "rotate": 768}[model]
        mine, dgl, pykeen, small = median(
            repeat,
            lambda m=model: ours(m, graph, seconds)[0],  # type: ignore[misc]
            lambda s=scheme: s.speed(train, seconds),  # type: ignore[misc]
            lambda m=model, n=sample: peers.pykeen_speed(m, factories, 200, 256, n),  # type: ignore[misc]
            lambda m=model: ours(m, graph, seconds, dim=200, negatives=256)[0],  # type: ignore[misc]
        )
        share = mine * flops / gemm_flops() if model in ("complex", "distmult") else None
        rows.append(
            {
                "model": model,
                "GraphLearn": f"{mine / 1e3:.0f} k/s",
                "share of GEMM rate": f"{share:.0%}" if share else "",
                "DGL-KE's scheme, plain torch": f"{dgl / 1e3:.1f} k/s"
                + (" (50 negatives)" if model == "rotate" else ""),
                "PyKEEN (256 negatives, d=200)": f"{pykeen:,.0f} /s",
                "GraphLearn (256 negatives, d=200)": f"{small / 1e3:.0f} k/s",
                "ratio to PyKEEN": f"{small / pykeen:,.0f}×",
                "raw": {"ours": mine, "dgl_ke_scheme": dgl, "pykeen": pykeen, "ours_pykeen_setting": small},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def evaluation(graph: EncodedTriples, repeat: int) -> list[dict[str, Any]]:
    """Rows of the evaluation table: filtered, both sides."""
    splits = {str(k): v for k, v in graph.splits.items()}
    factories = peers.pykeen_factory(splits, graph.n_entities, graph.n_relations)
    known = {side: KnownAnswers.of(list(graph.splits.values()), side, graph.n_relations) for side in Side}
    rows = []
    for model, part in (("complex", 4000), ("transe", 2000), ("rotate", 1000)):
        kind = scorer_type(model)
        engine = make_engine(kind(kind.options_type(dim=400)), graph.n_entities, graph.n_relations)
        e = engine.embedding
        test: Triples = graph.splits[Split.TEST][:part]

        small_engine = make_engine(kind(kind.options_type(dim=200)), graph.n_entities, graph.n_relations)
        small = small_engine.embedding

        def mine(e: Embedding = e, test: Triples = test) -> float:
            started = time.perf_counter()
            e.rank(test, known)
            return len(test) / (time.perf_counter() - started)

        mine()
        speed, same, pykeen = median(
            repeat,
            mine,
            lambda e=small, mine=mine: mine(e),  # type: ignore[misc]
            lambda m=model: peers.pykeen_evaluation_speed(m, factories, 200, 128),  # type: ignore[misc]
        )
        engine.close()
        small_engine.close()
        rows.append(
            {
                "model": model,
                "GraphLearn, d=400": f"{speed:,.0f} triples/s",
                "GraphLearn, d=200": f"{same:,.0f} triples/s",
                "PyKEEN, d=200": f"{pykeen:,.0f} triples/s",
                "ratio at d=200": f"{same / pykeen:,.0f}×",
                "raw": {"ours": speed, "ours_d200": same, "pykeen": pykeen},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def end_to_end(folder: Path, triples: int) -> dict[str, Any]:
    """CREATE MODEL on a Parquet file with string keys: the share of time outside training."""
    source = folder / "generated.parquet"
    data.write_generated(source, triples, 100_000, 100)
    phases: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseFinished):
            phases[event.phase] = event.seconds

    with graphlearn.connect(folder / "bench.duckdb", emit=listen) as session:
        started = time.perf_counter()
        session.sql(
            f"CREATE MODEL m TYPE complex OPTIONS (dim = 200, epochs = 6, evaluate_every = 0, test_fraction = 0.002, "
            f"valid_fraction = 0.002) AS FROM '{source}'"
        )
        total = time.perf_counter() - started
    outside = total - phases["train"]
    return {
        "triples": f"{triples:,}",
        "total": f"{total:.1f} s",
        "training": f"{phases['train']:.1f} s",
        "ingest (encode)": f"{phases['encode']:.2f} s = {triples / phases['encode'] / 1e6:.1f} M triples/s",
        "outside training": f"{outside / total:.1%}",
        "raw": {"total": total, **phases},
    }


def main() -> None:
    """Measure and write the sections."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short repetition of everything")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="training rows to measure")
    given = parser.parse_args()
    quick = given.quick
    repeat, seconds = (1, 1.0) if quick else (3, 3.0)
    graph = data.load("fb15k-237")
    torch.manual_seed(0)
    fresh = training(graph, given.models, repeat, seconds)
    kept = [row for row in results.stored("speed-training") or [] if row["model"] not in given.models]
    trained = sorted(fresh + kept, key=lambda row: MODELS.index(row["model"]))
    sections = [
        ("speed-training", "Training speed, positive triples/s (medians)", trained),
        ("speed-evaluation", "Filtered evaluation of both sides", evaluation(graph, repeat)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        sections.append(("speed-end-to-end", "CREATE MODEL from Parquet", [end_to_end(Path(folder), 1_000_000)]))
    for section, title, rows in sections:
        shown = [{k: v for k, v in row.items() if k != "raw"} for row in rows]
        print(f"\n{title}\n{results.markdown(shown)}")
        if not quick:
            results.write(section, title, results.markdown(shown), rows)


if __name__ == "__main__":
    main()
