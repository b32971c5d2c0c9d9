"""What training and evaluating knowledge-graph embeddings will cost.

The constants were measured on the reference machine (`benchmarks/estimates.py`). Shapes: D width of an entity, R of a
relation, N negatives of a query, E entities.
"""

from __future__ import annotations

from graphlearn.jobs.dataflow import Estimate
from graphlearn.jobs.train import expected_epochs
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorer import Scorer

COMPILE = 2.5
"""Seconds to compile the kernels of training, which each process does once."""
FUSED_STEP, STEP = 0.2e-3, 1.5e-3
"""Seconds of an optimiser step apart from its queries, with negatives and without."""
SHARE = {"modulus": 0.35}
"""Speed of the comparison with candidates, as a share of that of a matrix product: RotatE takes square roots."""
OTHERS = 0.8
INDEPENDENT = 0.1
"""The same for independent negatives, whose rows are read for a single query."""

MINED, CLOSED = 2e-6, 12e-6
"""Seconds per path of two triples, and per rule that paths support, to mine the rules and to score with them."""
RANKED = 5e-10
"""Seconds to score and rank a candidate of a baseline."""
BASELINES = 1.0
"""Seconds that the baselines of a small graph take: compiling, and loading the triples."""
TRIED, TUNED = 6, 2000
"""Settings of rules that are compared, and the validation triples that they are compared on at most."""


def epoch(scorer: Scorer, queries: int, entities: int) -> Estimate:
    """An epoch of training. `queries`: distinct ones for 1-vs-all (negatives = 0)."""
    options: KgeOptions = scorer.options
    candidates = options.negatives or entities
    flops = 3.0 * queries * candidates * scorer.flops_per_score()
    share = INDEPENDENT if options.negative_sampling == "independent" else _share(scorer)
    rows = 0.5e-6 + 5e-9 * scorer.entity_width + 1.1e-9 * scorer.relation_width + 2.5e-9 * candidates
    step = (FUSED_STEP if options.negatives else STEP) / options.batch_size
    return Estimate(seconds=(step + rows) * queries, flops=flops, gemm=flops / share)


def ranking(scorer: Scorer, triples: int, entities: int) -> Estimate:
    """Ranking both ends of triples among all entities."""
    flops = 2.0 * triples * entities * scorer.flops_per_score()
    seconds = 1e-9 * 2 * triples * entities + 1e-5 * triples
    return Estimate(seconds=seconds, flops=flops, gemm=flops / _share(scorer))


def training(scorer: Scorer, *, queries: int, valid: int, entities: int) -> Estimate:
    """The whole training, with evaluations on the validation split."""
    options: KgeOptions = scorer.options
    epochs = expected_epochs(options)
    evaluations = -(-epochs // options.evaluate_every) if options.evaluate_every else 1
    once = ranking(scorer, min(valid, options.evaluate_at_most), entities)
    return epoch(scorer, queries, entities) * epochs + once * evaluations + Estimate(seconds=COMPILE)


def baselines(*, entities: int, relations: int, train: int, valid: int, test: int) -> Estimate:
    """Popularity and rules: mining, settings compared on the validation split, ranks of the test triples.

    A triple has two ends, with 2 train / entities triples each on average. A path is a sign of a rule if its ends are
    linked, here as often as any two entities are; no more rules are possible than combinations of directed relations.
    """
    entities = max(1, entities)
    paths = (2.0 * train) ** 2 / entities
    rules = min(4.0 * relations**3, paths * train / entities**2)
    ranked = 2 * (TRIED * min(valid, TUNED) + test) * entities
    return Estimate(seconds=BASELINES + MINED * paths + CLOSED * rules + RANKED * ranked)


def _share(scorer: Scorer) -> float:
    return SHARE.get(scorer.similarity.name, OTHERS)
