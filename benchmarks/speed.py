"""Speed of training, evaluation, ingest and a whole CREATE MODEL, compared with peers in the same run.

    python -m benchmarks.speed [--quick] [--models transe …]

A triple counts once, however many queries are made from it. Training is measured with one thread, in CPU-seconds.
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
from graphlearn.models.core.known import KnownAnswers
from graphlearn.models.kge.batches import Sampler
from graphlearn.models.kge.embedding import Embedding
from graphlearn.models.kge.engines.make import make_engine
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.triples.ingest import EncodedTriples
from graphlearn.types import Side, Split, Triples

MODELS = ("complex", "distmult", "transe", "rotate")


DIFFERENCES = """All rows: FB15k-237, 200 numbers per entity, 256 negatives per triple at one of its ends, one thread; a
triple counts once. The columns differ in these settings:

- Negatives. *Shared*: 500 queries are compared with the same 256 entities, by a matrix product. *Independent*: each
  query has 256 entities of its own, as in PyKEEN. Only the independent columns do the same work per triple; shared
  negatives are another algorithm, which reaches the same quality (see "Time to quality").
- Which end is asked for. GraphLearn: by turns, all queries of a batch alike. PyKEEN: at random for each negative.
- Loss. GraphLearn: cross-entropy of the true end against its negatives. PyKEEN: its default for the model (TransE,
  DistMult and RotatE: margin ranking; ComplEx: softplus).
- Batches. GraphLearn: 1,000 triples. PyKEEN: the faster of 256, the default of its pipeline, and 2,048.
- Optimiser. Both: Adagrad, GraphLearn with one accumulator per row and updates of touched rows only; PyKEEN with dense
  gradients, as torch.optim.Adagrad has it.
- DGL-KE's scheme: chunks of 200 triples share 256 negatives (RotatE: 50), logistic loss, autograd.

"""


def ours(model: str, graph: EncodedTriples, seconds: float, **options: Any) -> float:
    """Triples per CPU-second of training with one thread."""
    kind = scorer_type(model)
    given = {"dim": 200, "negatives": 256, "batch_size": 1000, "sides": "alternate", "optimizer": "row_adagrad"}
    given |= {"filter_negatives": False, "reciprocal": False, "regularization": 0.0, "threads": 1}
    scorer = kind(kind.options_type(**(given | options)))
    engine = make_engine(scorer, graph.n_entities, graph.n_relations)
    sampler = Sampler(graph.splits[Split.TRAIN], graph.n_entities, graph.n_relations, scorer.options)
    batches = (batch for epoch in range(1000) for batch in sampler.epoch(epoch))
    for _ in range(5):
        engine.step(next(batches), 0.1)
    started, count = time.process_time(), 0
    while time.process_time() - started < seconds:
        batch = next(batches)
        engine.step(batch, 0.1)
        count += batch.examples
    engine.close()
    return count / (time.process_time() - started)


def median(repeat: int, *measures: Callable[[], float]) -> list[float]:
    """Medians of interleaved measurements, so that changes in the machine's speed affect all of them."""
    taken = [[measure() for measure in measures] for _ in range(repeat)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def gemm_rate() -> float:
    """Floating-point operations per CPU-second of a float32 matrix product of the sizes of a batch."""
    a, b = torch.randn(500, 200), torch.randn(200, 256)
    out = a @ b
    started, count = time.process_time(), 0
    while time.process_time() - started < 0.5:
        torch.mm(a, b, out=out)
        count += 1
    return count * 2 * 500 * 200 * 256 / (time.process_time() - started)


def training(graph: EncodedTriples, models: list[str], repeat: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of the training table."""
    splits = {str(k): v for k, v in graph.splits.items()}
    factories = peers.pykeen_factory(splits, graph.n_entities, graph.n_relations)
    train = graph.splits[Split.TRAIN]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gemm = gemm_rate()
    rows = []
    for model in models:
        kind = scorer_type(model)
        flops = 3 * 256 * kind(kind.options_type(dim=200)).flops_per_score()
        scheme = peers.DglKeScheme(model, graph.n_entities, graph.n_relations, 200, 256 if model != "rotate" else 50)
        shared, independent, pykeen, dgl = median(
            repeat,
            lambda m=model: ours(m, graph, seconds),  # type: ignore[misc]
            lambda m=model: ours(m, graph, seconds, negative_sampling="independent"),  # type: ignore[misc]
            lambda m=model: max(peers.pykeen_speed(m, factories, 200, 256, n) for n in (256, 2048)),  # type: ignore[misc]
            lambda s=scheme: s.speed(train, seconds),  # type: ignore[misc]
        )
        share = f" ({shared * flops / gemm:.0%} of the GEMM rate)" if model in ("complex", "distmult") else ""
        rows.append(
            {
                "model": model,
                "GraphLearn, independent": f"{independent:,.0f}",
                "PyKEEN, independent": f"{pykeen:,.0f}",
                "ratio, independent": f"**{independent / pykeen:,.0f}×**",
                "GraphLearn, shared": f"{shared:,.0f}{share}",
                "DGL-KE's scheme, shared": f"{dgl:,.0f}",
                "ratio, shared": f"{shared / dgl:,.1f}×",
                "raw": {"shared": shared, "independent": independent, "dgl_ke_scheme": dgl, "pykeen": pykeen},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    torch.set_num_threads(threads)
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
    """CREATE MODEL on a Parquet file with string keys, with the default hold-out, baselines and final evaluation."""
    source = folder / "generated.parquet"
    data.write_generated(source, triples, 100_000, 100)
    phases: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseFinished):
            phases[event.phase] = event.seconds

    with graphlearn.connect(folder / "bench.duckdb", emit=listen) as session:
        started, cpu = time.perf_counter(), time.process_time()
        session.sql(f"CREATE MODEL m TYPE complex OPTIONS (epochs = 6) AS FROM '{source}'")
        total, cpu = time.perf_counter() - started, time.process_time() - cpu
    parts = {name: f"{seconds:.1f} s" for name, seconds in phases.items()}
    return {
        "triples": f"{triples:,}",
        "total": f"{total:.1f} s, {cpu:.1f} CPU-s",
        **parts,
        "outside training": f"{(total - phases['train']) / total:.1%}",
        "raw": {"total": total, "cpu": cpu, **phases},
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
        ("speed-training", "Training speed, triples per CPU-second (medians)", trained, DIFFERENCES),
        ("speed-evaluation", "Filtered evaluation of both sides", evaluation(graph, repeat), ""),
    ]
    with tempfile.TemporaryDirectory() as folder:
        sections.append(
            (
                "speed-end-to-end",
                "CREATE MODEL from Parquet, with the default hold-out, baselines and evaluation",
                [end_to_end(Path(folder), 1_000_000)],
                "",
            )
        )
    for section, title, rows, note in sections:
        shown = [{k: v for k, v in row.items() if k != "raw"} for row in rows]
        print(f"\n{title}\n{results.markdown(shown)}")
        if not quick:
            results.write(section, title, note + results.markdown(shown), rows)


if __name__ == "__main__":
    main()
