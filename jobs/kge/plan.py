"""The plan of a run: scan -> encode -> split -> train -> baselines -> evaluate -> publish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphlearn.jobs.dataflow import Dataflow, Estimate, Operator
from graphlearn.jobs.family import Sizes
from graphlearn.jobs.kge import estimate as cost
from graphlearn.jobs.kge.metrics import TABLE
from graphlearn.jobs.kge.tasks import (
    EVALUATED,
    EVALUATION_MEMORY,
    CollectKnown,
    EncodeTriples,
    EvaluateKge,
    KgeBaselines,
    ScanTriples,
    TrainKge,
)
from graphlearn.jobs.machine import BASE_MEMORY
from graphlearn.jobs.request import ModelRequest
from graphlearn.jobs.train import PUBLISHED, Publish, budget_text, within_budget
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.columns import check_columns, describe, find_column, quoted, subquery
from graphlearn.storage.fingerprint import digest, row_hash
from graphlearn.storage.interrupt import interruptible
from graphlearn.storage.triples.rules import MEMORY
from graphlearn.text import counted, human_bytes

if TYPE_CHECKING:
    import duckdb

ROLE = "triples"
STATE = {"adagrad": 1.0, "row_adagrad": 0.01, "row_adam": 1.01}
"""Bytes of optimiser state per byte of weights."""
MINED = 2500
"""Bytes per training triple to mine rules, up to the limit of their DuckDB."""


@dataclass(frozen=True, kw_only=True)
class KgeSizes(Sizes):
    """Rows of the query, of its train and test splits, approximate numbers of entities, relations, distinct queries.

    A query asks for the heads of a relation and tail, or for the tails of a head and relation.
    """

    rows: int
    entities: int
    relations: int
    train: int
    queries: int
    test: int


def measure(cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> KgeSizes:
    """Count and hash the query's rows in one scan."""
    sql, options = request.inputs[ROLE], request.options
    columns = describe(cursor, sql)
    check_columns(columns)
    head, relation, tail, split = (find_column(columns, name) for name in ("head", "relation", "tail", "split"))
    # each row is unnested into two, for its head and its tail; values of the whole row are NULL in the second
    splits = f"lower({quoted(split)}::VARCHAR)" if split else "NULL"
    pairs = {
        "key": f"[{quoted(str(head))}, {quoted(str(tail))}]",
        "relation": f"[{quoted(str(relation))}, NULL]",
        "hashed": f"[{row_hash(columns)}, NULL]",
        "split": f"[{splits}, NULL]",
        "query": f"[hash({quoted(str(head))}, {quoted(str(relation))}), "
        f"hash({quoted(str(relation))}, {quoted(str(tail))}, 0)]",
    }
    unnested = ", ".join(f"unnest({values}) AS {name}" for name, values in pairs.items())
    counts = (
        "count(hashed), bit_xor(hashed), sum(hashed), approx_count_distinct(key), approx_count_distinct(relation), "
        "count(*) FILTER (split = 'train'), count(*) FILTER (split = 'test'), approx_count_distinct(query)"
    )
    query = f"SELECT {counts} FROM (SELECT {unnested} FROM {subquery(sql)})"
    found = interruptible(cursor, lambda: cursor.execute(query).fetchall())[0]
    rows, xor, total, entities, relations, train, test, queries = found
    if split is None:
        test = int(rows * options.test_fraction)
        train = int(rows * (1 - options.valid_fraction)) - test
    return KgeSizes(
        fingerprints={ROLE: digest(columns, rows, xor, total)},
        known=rows > 0,
        rows=int(rows),
        entities=int(entities or 0),
        relations=int(relations or 0),
        train=int(train),
        queries=int((queries or 0) * train / max(1, rows)),
        test=int(test),
    )


def plan(request: ModelRequest, sizes: KgeSizes) -> Dataflow:
    """The operators of a run, with cost estimates."""
    options: KgeOptions = request.options
    family, sql = request.family.lower(), request.inputs[ROLE]
    scorer = scorer_type(family)(options)
    rows, entities = sizes.rows, sizes.entities
    table_rows = sizes.relations * (2 if options.reciprocal else 1)
    weights = 4 * (entities * scorer.entity_width + table_rows * scorer.relation_width)
    examples = sizes.train * (2 if options.sides == "both" else 1)
    queries = min(examples, sizes.queries) if options.negatives == 0 else examples
    chunks = -(-options.batch_size // options.chunk_size)
    buffers = 4 * scorer.entity_width * (2 * options.batch_size + chunks * options.negatives)
    if options.negatives == 0:
        buffers += 2 * 4 * options.batch_size * entities + 2 * weights
    splits = {"valid": rows - sizes.train - sizes.test, "test": sizes.test}
    ranked = {name: n if options.evaluate_all else min(n, EVALUATED) for name, n in splits.items()}
    held = sum(ranked.values()) or 1
    parts = [f"{ranked[name]:,} of about {n:,} {name}" for name, n in splits.items() if ranked[name] < n]
    part = f"; {' and '.join(parts)} triples, drawn at random" if parts and sizes.known else ""
    against = ("baselines", "cuts") if options.baselines and (sizes.test or not sizes.known) else ()
    known = 40 * rows
    training = cost.training(scorer, queries=queries, valid=splits["valid"], entities=entities)
    evaluation = cost.ranking(scorer, held, entities)
    fingerprint = request.fingerprint(sizes.fingerprints)

    how = options.negative_sampling if options.negatives else "1-vs-all"

    def estimate(time: Estimate | None = None, **costs: Any) -> Estimate:
        if not sizes.known:
            return Estimate()
        return replace(time or Estimate(), **costs).by(f"{family}, {how}")

    size = f", {human_bytes(weights)} of weights, at most {counted(options.epochs, 'epoch')}" if sizes.known else ""
    needed = cost.baselines(
        entities=entities,
        relations=sizes.relations,
        train=sizes.train,
        valid=splits["valid"],
        test=ranked["test"],
    )
    return Dataflow(
        [
            Operator(
                name="scan",
                task=ScanTriples(sql=sql),
                outputs=("query",),
                detail="read the query of role triples",
                estimate=estimate(rows=rows, bytes=rows * 48, memory=BASE_MEMORY + rows * 48, seconds=rows / 5e6),
            ),
            Operator(
                name="encode",
                task=EncodeTriples(
                    fingerprint=sizes.fingerprints[ROLE],
                    holdout=(options.valid_fraction, options.test_fraction),
                    seed=options.seed,
                ),
                inputs=("query",),
                outputs=("encoded", "triples"),
                detail=f"about {entities:,} entities, about {sizes.relations:,} relations" if sizes.known else "",
                estimate=estimate(rows=rows, bytes=rows * 13, memory=BASE_MEMORY + rows * 61, seconds=rows / 2e6),
            ),
            Operator(
                name="split",
                task=CollectKnown(),
                inputs=("triples",),
                outputs=("graph",),
                detail="train, valid and test; known answers of each query",
                estimate=estimate(rows=rows, bytes=known, memory=BASE_MEMORY + 2 * known, seconds=rows / 2e6),
            ),
            Operator(
                name="train",
                task=TrainKge(family=family, options=options),
                inputs=("graph",),
                outputs=("trained", "training_seconds"),
                reports_itself=True,
                detail=f"{family}{size}",
                advice="lower dim, or use optimizer = 'row_adagrad' (one number of state per row) or a larger machine",
                estimate=estimate(
                    training,
                    rows=queries * options.epochs,
                    bytes=weights,
                    memory=int(
                        BASE_MEMORY + weights + STATE[options.optimizer] * weights + buffers + known + EVALUATION_MEMORY
                    ),
                ),
            ),
            *(
                Operator(
                    name="baselines",
                    task=KgeBaselines(share=options.baseline_share, options=options),
                    inputs=("graph", "training_seconds"),
                    outputs=against,
                    detail=f"popularity and rules of length 1 and 2{budget_text(options.baseline_share)}",
                    reports_itself=True,
                    estimate=estimate(
                        within_budget(needed, training, options.baseline_share),
                        rows=2 * ranked["test"],
                        memory=BASE_MEMORY + known + min(MEMORY, MINED * sizes.train),
                    ),
                )
                for _ in against[:1]
            ),
            Operator(
                name="evaluate",
                task=EvaluateKge(family=family, options=options),
                inputs=("graph", "trained", *against),
                outputs=("evaluation",),
                detail=f"filtered ranking of both sides among all entities, ties at their mean rank{part}",
                reports_itself=True,
                estimate=estimate(
                    evaluation,
                    rows=2 * held,
                    memory=int(BASE_MEMORY + weights + known + EVALUATION_MEMORY),
                ),
            ),
            Operator(
                name="publish",
                task=Publish(request=request, fingerprint=fingerprint, table=TABLE, parts=("encoded",)),
                inputs=("encoded", "trained", "evaluation", *against[1:]),
                outputs=PUBLISHED,
                detail=f"model {request.name}",
                estimate=estimate(rows=entities + table_rows, bytes=weights + rows * 6, seconds=weights / 5e8),
            ),
        ],
        options,
    )
