"""Knowledge-graph embeddings as a dataflow: scan -> encode -> split -> train -> evaluate -> publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from graphlearn.errors import InputError, OptionError
from graphlearn.events import Emit, Evaluated, PhaseAdvanced, PhaseStarted
from graphlearn.jobs.create import Bound, ModelRequest
from graphlearn.jobs.dataflow import Data, Dataflow, Estimate, Operator
from graphlearn.jobs.families import Family, RoleSpec
from graphlearn.jobs.machine import gemm_flops
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.columns import check_columns, describe, find_column, quoted, subquery
from graphlearn.storage.triples.ingest import EncodedTriples, encode_triples
from graphlearn.text import human_bytes
from graphlearn.types import Side, Split

if TYPE_CHECKING:
    from graphlearn.jobs.functions import ArrowSource, FunctionSpec, LoadedModel, Question
    from graphlearn.models.kge.embedding import Embedding
    from graphlearn.models.kge.scorer import Scorer
    from graphlearn.storage.artifacts import Artifact

BASE_MEMORY = 600 << 20
"""Bytes of a process that has imported everything."""
EVALUATION_MEMORY = 1 << 28
"""Bytes for blocks of scores while ranking."""


class KgeFamily(Family):
    """TransE, DistMult, ComplEx, RotatE, SimplE, CP, RESCAL and TuckER share everything but their equation."""

    roles = (RoleSpec("triples", ("head", "relation", "tail", "[split]")),)

    def __init__(self, name: str) -> None:
        self.name = name
        self.scorer_type = scorer_type(name)
        self.options_type = self.scorer_type.options_type

    def check_input(self, role: str, columns: dict[str, dict[str, str]], options: Any) -> None:  # noqa: ARG002
        check_columns(columns[role])

    @property
    def functions(self) -> Mapping[str, FunctionSpec]:
        from graphlearn.jobs.kge.functions import FUNCTIONS

        return FUNCTIONS

    def load(self, artifact: Artifact) -> LoadedModel:
        from graphlearn.jobs.kge.functions import KgeModel

        return KgeModel(artifact)

    def unborn(self, request: ModelRequest, columns: dict[str, dict[str, str]], question: Question) -> ArrowSource:
        from graphlearn.jobs.kge.functions import describe_unborn

        return describe_unborn(request.options, columns["triples"], question)

    def compile(self, bound: Bound) -> Dataflow:
        return _Kge(bound, self.scorer_type(bound.request.options)).dataflow()


class _Kge:
    """The operators of one request."""

    def __init__(self, bound: Bound, scorer: Scorer) -> None:
        self.bound, self.scorer = bound, scorer
        self.options: KgeOptions = bound.request.options
        self.sql = bound.request.inputs["triples"]

    def dataflow(self) -> Dataflow:
        rows, entities, relations = self._sizes()
        options, scorer = self.options, self.scorer
        table_rows = relations * (2 if options.reciprocal else 1)
        weights = 4 * (entities * scorer.entity_width + table_rows * scorer.relation_width)
        state = {"adagrad": 1.0, "row_adagrad": 0.01, "row_adam": 1.01}[options.optimizer] * weights
        train = self._training_rows(rows)
        queries = train * (2 if options.sides == "both" else 1)
        candidates = options.negatives or entities
        chunks = -(-options.batch_size // options.chunk_size)
        flops = 3.0 * queries * candidates * scorer.flops_per_score() * options.epochs
        buffers = 4 * scorer.entity_width * (2 * options.batch_size + chunks * options.negatives)
        if options.negatives == 0:
            buffers += 2 * 4 * options.batch_size * entities + 2 * weights
        held = (rows - train) or 1
        known = 40 * rows
        speed = gemm_flops() * (0.5 if scorer.similarity.pair_kernel is None else 0.15)
        evaluation = 2.0 * held * entities * scorer.flops_per_score()
        unknown = rows == 0

        def estimate(**kw: Any) -> Estimate:
            return Estimate() if unknown else Estimate(**kw)

        return Dataflow(
            [
                Operator(
                    name="scan",
                    inputs=(),
                    outputs=("query",),
                    run=self.scan,
                    detail="read the query of role triples",
                    estimate=estimate(rows=rows, bytes=rows * 48, memory=BASE_MEMORY + rows * 48, seconds=rows / 5e6),
                ),
                Operator(
                    name="encode",
                    inputs=("query",),
                    outputs=("encoded",),
                    run=self.encode,
                    detail=f"about {entities:,} entities, about {relations:,} relations" if not unknown else "",
                    describe=lambda out: "; ".join(out["encoded"].report.lines()[:2]),
                    estimate=estimate(rows=rows, bytes=rows * 13, memory=BASE_MEMORY + rows * 61, seconds=rows / 2e6),
                ),
                Operator(
                    name="split",
                    inputs=("encoded",),
                    outputs=("splits", "known"),
                    run=self.split,
                    detail="train, valid and test; known answers of every query",
                    estimate=estimate(rows=rows, bytes=known, memory=BASE_MEMORY + 2 * known, seconds=rows / 2e6),
                ),
                Operator(
                    name="train",
                    inputs=("encoded", "splits", "known"),
                    outputs=("embedding",),
                    run=self.train,
                    reports_itself=True,
                    detail=f"{self.bound.request.family.lower()}, {human_bytes(weights)} of weights, "
                    f"{options.epochs} epochs"
                    if not unknown
                    else self.bound.request.family.lower(),
                    devices=("cuda", "cpu"),
                    estimate=estimate(
                        rows=queries * options.epochs,
                        bytes=weights,
                        flops=flops,
                        memory=int(BASE_MEMORY + weights + state + buffers + known + EVALUATION_MEMORY),
                        seconds=flops / speed,
                    ),
                ),
                Operator(
                    name="evaluate",
                    inputs=("splits", "known", "embedding"),
                    outputs=("metrics", "report"),
                    run=self.evaluate,
                    detail="filtered ranking of both sides, ties at their mean rank, all entities",
                    devices=("cuda", "cpu"),
                    reports_itself=True,
                    estimate=estimate(
                        rows=2 * held,
                        flops=evaluation,
                        memory=int(BASE_MEMORY + weights + known + EVALUATION_MEMORY),
                        seconds=evaluation / speed,
                    ),
                ),
                Operator(
                    name="publish",
                    inputs=("encoded", "splits", "embedding", "metrics", "report"),
                    outputs=("version", "counts"),
                    run=self.publish,
                    detail=f"model {self.bound.request.name}",
                    describe=lambda out: f"version {out['version']}",
                    estimate=estimate(rows=entities + table_rows, bytes=weights + rows * 6, seconds=weights / 5e8),
                ),
            ]
        )

    def _sizes(self) -> tuple[int, int, int]:
        """(rows, entities, relations) of the input, the last two about."""
        columns = describe(self.bound.cursor, self.sql)
        check_columns(columns)
        h, r, t = (find_column(columns, name) for name in ("head", "relation", "tail"))
        row = self.bound.cursor.execute(
            "SELECT count(*) // 2, approx_count_distinct(key), approx_count_distinct(relation) FROM ("
            f"SELECT unnest([{quoted(str(h))}, {quoted(str(t))}]) AS key, {quoted(str(r))} AS relation "
            f"FROM {subquery(self.sql)})"
        ).fetchall()[0]
        return int(row[0]), int(row[1] or 0), int(row[2] or 0)

    def _training_rows(self, rows: int) -> int:
        columns = describe(self.bound.cursor, self.sql)
        split = find_column(columns, "split")
        if split is None:
            return int(rows * (1 - self.options.valid_fraction - self.options.test_fraction))
        count = self.bound.cursor.execute(
            f"SELECT count(*) FROM {subquery(self.sql)} WHERE lower(\"{split}\"::VARCHAR) = 'train'"
        ).fetchall()
        return int(count[0][0])

    def scan(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Check that the query still has the columns it was bound with."""
        check_columns(describe(self.bound.cursor, self.sql))
        return {"query": self.sql}

    def encode(self, data: Data, emit: Emit) -> Data:
        """Keys to ids."""
        options = self.options
        encoded = encode_triples(
            self.bound.cursor,
            data["query"],
            holdout=(options.valid_fraction, options.test_fraction),
            seed=options.seed,
            emit=emit,
        )
        if encoded.n_entities < 2:
            raise InputError(
                "the graph has a single entity, so there is nothing to rank",
                role="triples",
                help="a model needs at least two different entities",
            )
        return {"encoded": encoded}

    def split(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Splits, and for every query what is known in any of them."""
        from graphlearn.models.core.known import KnownAnswers

        encoded: EncodedTriples = data["encoded"]
        parts = list(encoded.splits.values())
        known = {side: KnownAnswers.of(parts, side, encoded.n_relations) for side in Side}
        return {"splits": encoded.splits, "known": known}

    def train(self, data: Data, emit: Emit) -> Data:
        """Fit the tables."""
        check_device(self.options.device)
        from graphlearn.jobs.kge.training import KgeTrainer
        from graphlearn.models.kge.engines.make import make_engine

        run = self.bound.run
        assert run is not None
        encoded: EncodedTriples = data["encoded"]
        engine = make_engine(self.scorer, encoded.n_entities, encoded.n_relations)
        trainer = KgeTrainer(
            engine=engine,
            train=data["splits"][Split.TRAIN],
            valid=data["splits"][Split.VALID],
            known=data["known"],
            folder=run.checkpoints,
            run_id=run.id,
            emit=emit,
            memory_limit=EVALUATION_MEMORY,
        )
        emit(PhaseStarted(phase="train", total=self.options.epochs, unit="epochs"))
        try:
            if self.bound.resume:
                trainer.resume()
            trainer.fit()
        finally:
            engine.close()
        return {"embedding": trainer.embedding}

    def evaluate(self, data: Data, emit: Emit) -> Data:
        """Final metrics of the best weights: of the test split, of valid too when there is one."""
        from graphlearn.jobs.kge.metrics import metric_rows

        splits = data["splits"]
        wanted = [s for s in (Split.VALID, Split.TEST) if len(splits[s])]
        total = sum(len(splits[s]) for s in wanted)
        emit(PhaseStarted(phase="evaluate", total=total, unit="triples"))
        done, rows, metrics = 0, [], {}
        for split in wanted:
            base = done
            ranks = data["embedding"].rank(
                splits[split],
                data["known"],
                memory_limit=EVALUATION_MEMORY,
                threads=self.options.threads,
                progress=lambda n, base=base: emit(PhaseAdvanced(phase="evaluate", done=base + n)),
            )
            done += len(splits[split])
            metrics = ranks.metrics()
            rows += metric_rows(split, ranks)
            emit(Evaluated(epoch=0, split=str(split), metrics=metrics))
        return {"metrics": metrics, "report": rows}

    def publish(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Store weights, dictionaries, snapshot and metrics as a new version."""
        from safetensors.torch import save_file

        from graphlearn.jobs.kge.metrics import write_metrics

        bound, encoded = self.bound, cast(EncodedTriples, data["encoded"])
        assert bound.store is not None
        assert bound.run is not None
        embedding: Embedding = data["embedding"]
        tensors = {"entities": embedding.entities, "relations": embedding.relations, **embedding.dense}
        counts = encoded.report.to_json()
        with bound.store.stage(bound.request.name) as staged:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staged.path / "weights.safetensors"
            )
            encoded.write(staged.path)
            write_metrics(staged.path / "metrics.parquet", data["report"])
            version = staged.commit(
                {
                    "family": bound.request.family.lower(),
                    "options": asdict(self.options),
                    "inputs": bound.request.inputs,
                    "statement": bound.request.statement,
                    "fingerprint": bound.fingerprint,
                    "data_fingerprint": encoded.fingerprint,
                    "entity_type": encoded.entity_type,
                    "relation_type": encoded.relation_type,
                    "counts": counts,
                    "metrics": data["metrics"],
                    "protocol": PROTOCOL,
                    "run": bound.run.id,
                    "seconds": time.perf_counter() - bound.started,
                }
            )
        encoded.close()
        return {"version": version, "counts": counts}


PROTOCOL = "filtered, all entities, ties at mean rank"


def check_device(device: str) -> None:
    """Raise OptionError when a GPU is asked for that is not there."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise OptionError("device = 'cuda', but torch sees no GPU here", key="device", help="use device = 'auto'")
