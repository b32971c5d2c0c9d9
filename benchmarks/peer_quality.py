"""Small graphs, compared with PyKEEN: the same model, size and epochs, and the same number of trials.

    python -m benchmarks.peer_quality [--epochs N] [--only umls …]

Both train ComplEx with cross-entropy over all entities and inverse relations: PyKEEN in its LCWA loop, ours with
negatives = 0. Each gets 16 trials, and the best on validation MRR counts: PyKEEN four optimisers, two initial standard
deviations, with and without its default regulariser; ours four learning rates and four weights of N3.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import Any

import torch

import graphlearn
from benchmarks import data, results
from benchmarks.peers import pykeen_factory
from graphlearn.events import Event, PhaseFinished, PhaseStarted
from graphlearn.types import Split

GRAPHS = ("umls", "kinships", "nations")
DIM = 200
RATES = (("Adagrad", 0.1), ("Adagrad", 0.3), ("Adam", 0.003), ("Adam", 0.01))
PEER_TRIALS = [
    {"optimiser": name, "rate": rate, "initial_std": std, "regulariser": regulariser}
    for name, rate in RATES
    for std in (1.0, 0.1)
    for regulariser in ("default", None)
]
OUR_TRIALS = [
    {"learning_rate": rate, "regularization": weight}
    for rate in (0.03, 0.1, 0.3, 1.0)
    for weight in (0, 0.01, 0.05, 0.2)
]


def ours(name: str, learning_rate: float, regularization: float, epochs: int) -> dict[str, Any]:
    """Our filtered MRR of both sides on valid and test, with the interval, and the CPU-seconds of training."""
    cpu: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseStarted | PhaseFinished):
            cpu[type(event).__name__ + event.phase] = time.process_time()

    with graphlearn.connect(emit=listen) as session:
        session.sql(
            f"CREATE MODEL m TYPE complex OPTIONS (dim = {DIM}, epochs = {epochs}, negatives = 0, batch_size = 200, "
            f"learning_rate = {learning_rate}, regularization = {regularization}, patience = 0, threads = 1, "
            f"baselines = false) AS FROM '{data.path(name)}'"
        )
        found = session.sql(
            "SELECT split, mrr, mrr_low, mrr_high FROM evaluate('m') WHERE relation IS NULL AND side = 'both'"
        ).fetchall()  # type: ignore[union-attr]
    row: dict[str, Any] = {"learning_rate": learning_rate, "regularization": regularization}
    for split, *figures in found:
        row[split], row[f"{split}_low"], row[f"{split}_high"] = figures
    return row | {"seconds": cpu["PhaseFinishedtrain"] - cpu["PhaseStartedtrain"]}


def train(
    name: str, optimiser: str, rate: float, initial_std: float, regulariser: str | None, epochs: int
) -> dict[str, Any]:
    """PyKEEN's filtered MRR of both sides on valid and test after training, and the CPU-seconds of training."""
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.losses import CrossEntropyLoss
    from pykeen.models import ComplEx
    from pykeen.training import LCWATrainingLoop
    from pykeen.triples import CoreTriplesFactory

    encoded = data.load(name)
    splits = {str(split): triples for split, triples in encoded.splits.items()}
    factories = pykeen_factory(splits, encoded.n_entities, encoded.n_relations)
    known = [factories[str(s)].mapped_triples for s in Split]
    inverse = CoreTriplesFactory(
        factories["train"].mapped_triples, encoded.n_entities, encoded.n_relations, create_inverse_triples=True
    )
    torch.manual_seed(0)
    initial = partial(torch.nn.init.normal_, std=initial_std)
    net = ComplEx(
        triples_factory=inverse,
        embedding_dim=DIM // 2,
        random_seed=0,
        loss=CrossEntropyLoss(),
        entity_initializer=initial,
        relation_initializer=initial,
        **({} if regulariser else {"regularizer": None}),
    )
    loop = LCWATrainingLoop(
        model=net, triples_factory=inverse, optimizer=getattr(torch.optim, optimiser)(net.parameters(), lr=rate)
    )
    started = time.process_time()
    loop.train(triples_factory=inverse, num_epochs=epochs, batch_size=200, use_tqdm=False, use_tqdm_batch=False)
    seconds = time.process_time() - started
    row: dict[str, Any] = {"optimiser": optimiser, "rate": rate, "initial_std": initial_std}
    row |= {"regulariser": regulariser, "seconds": seconds}
    for split in ("valid", "test"):
        ranked = RankBasedEvaluator().evaluate(
            net, factories[split].mapped_triples, batch_size=64, additional_filter_triples=known, use_tqdm=False
        )
        row[split] = float(ranked.get_metric("both.realistic.inverse_harmonic_mean_rank"))
    return row


def main() -> None:
    """Train both on the small graphs and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=GRAPHS, default=GRAPHS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    raw: dict[str, Any] = results.stored("peer-quality") or {}
    for name in given.only:
        raw[name] = {
            "ours": [ours(name, **trial, epochs=given.epochs) for trial in OUR_TRIALS],
            "pykeen": [train(name, **trial, epochs=given.epochs) for trial in PEER_TRIALS],  # type: ignore[arg-type]
        }
        print(
            name, *(max(raw[name][of], key=lambda row: row["valid"]) for of in raw[name]), file=sys.stderr, flush=True
        )
    rows = []
    for name in [name for name in GRAPHS if name in raw]:
        mine, peer = (max(raw[name][of], key=lambda row: row["valid"]) for of in ("ours", "pykeen"))
        rows.append(
            {
                "graph": name,
                "ours, test MRR": f"**{mine['test']:.3f}** ({mine['test_low']:.3f} to {mine['test_high']:.3f})",
                "PyKEEN, test MRR": f"{peer['test']:.3f}",
                "ours, training": f"{mine['seconds']:.0f} CPU-s",
                "PyKEEN, training": f"{peer['seconds']:.0f} CPU-s",
                "our setting": f"rate {mine['learning_rate']:g}, N3 {mine['regularization']:g}",
                "PyKEEN's setting": f"{peer['optimiser']} {peer['rate']:g}, std {peer['initial_std']:g}, "
                f"regulariser {peer['regulariser'] or 'none'}",
                "ours, valid": f"{mine['valid']:.3f}",
                "PyKEEN, valid": f"{peer['valid']:.3f}",
            }
        )
    body = (
        f"ComplEx, {DIM} numbers per entity, {given.epochs} epochs, cross-entropy over all entities, both directions; "
        "filtered, ties at their mean rank. Each setting is the best of 16 trials on validation MRR; the interval of "
        "95 % is over test triples.\n\n"
    )
    results.write("peer-quality", "Small graphs, compared with PyKEEN", body + results.markdown(rows), raw)


if __name__ == "__main__":
    main()
