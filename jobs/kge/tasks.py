"""The tasks of a run: encoding triples, collecting known answers, training, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from graphlearn.errors import InputError
from graphlearn.events import Evaluated, PhaseAdvanced, PhaseStarted
from graphlearn.jobs.dataflow import Data, Needs, Task
from graphlearn.jobs.kge.metrics import PROTOCOL, metric_rows
from graphlearn.jobs.train import ANYWHERE, Evaluation, Train, check_unchanged
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.columns import check_columns, describe
from graphlearn.storage.triples.ingest import encode_triples
from graphlearn.types import BoolArray, Side, Split, Triples

if TYPE_CHECKING:
    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.loop import Loop
    from graphlearn.models.core.known import KnownAnswers

EVALUATION_MEMORY = 1 << 28
"""Bytes for blocks of scores during ranking."""


@dataclass(frozen=True)
class SplitTriples:
    """Triples as ids, by split."""

    n_entities: int
    n_relations: int
    splits: dict[Split, Triples]
    alive: BoolArray | None = None
    """Entities that are candidates, None for all; the others occur only in earlier versions. shape: [E]"""


@dataclass(frozen=True)
class KnownGraph(SplitTriples):
    """Triples by split, and the known answers of each query: those of any split."""

    known: dict[Side, KnownAnswers] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScanTriples(Task):
    """Check that the query still has the columns it was bound with."""

    needs: ClassVar[Needs] = Needs(database=True)

    sql: str

    def run(self, data: Data, context: Context) -> Data:  # noqa: ARG002
        check_columns(describe(context.cursor, self.sql))
        return {"query": self.sql}


@dataclass(frozen=True, kw_only=True)
class EncodeTriples(Task):
    """Turn keys into ids. Raises InputError if the rows have changed since they were measured."""

    needs: ClassVar[Needs] = Needs(database=True)

    fingerprint: str
    holdout: tuple[float, float]
    seed: int

    def run(self, data: Data, context: Context) -> Data:
        encoded = encode_triples(context.cursor, data["query"], holdout=self.holdout, seed=self.seed, emit=context.emit)
        if encoded.n_entities < 2:
            raise InputError(
                "the graph has a single entity, so there is nothing to rank",
                role="triples",
                help="a model needs at least two distinct entities",
            )
        check_unchanged(encoded.fingerprint, self.fingerprint, "triples")
        alive = None if encoded.alive.all() else encoded.alive
        triples = SplitTriples(encoded.n_entities, encoded.n_relations, encoded.splits, alive)
        return {"encoded": encoded, "triples": triples}

    def describe(self, outputs: Data) -> str:
        return "; ".join(outputs["encoded"].report.lines()[:2])


@dataclass(frozen=True)
class CollectKnown(Task):
    """Collect the known answers of each query: those of any split."""

    def run(self, data: Data, context: Context) -> Data:  # noqa: ARG002
        from graphlearn.models.core.known import KnownAnswers

        triples: SplitTriples = data["triples"]
        parts = list(triples.splits.values())
        known = {side: KnownAnswers.of(parts, side, triples.n_relations) for side in Side}
        return {"graph": KnownGraph(**vars(triples), known=known)}


@dataclass(frozen=True, kw_only=True)
class TrainKge(Train):
    """Train the embedding tables of a scoring function."""

    family: str
    options: KgeOptions

    def loop(self, data: Data, context: Context) -> Loop:
        from graphlearn.jobs.kge.training import KgeLoop
        from graphlearn.models.kge.engines.make import make_engine

        graph: KnownGraph = data["graph"]
        scorer = scorer_type(self.family)(self.options)
        return KgeLoop(
            engine=make_engine(scorer, graph.n_entities, graph.n_relations),
            train=graph.splits[Split.TRAIN],
            valid=graph.splits[Split.VALID],
            known=graph.known,
            alive=graph.alive,
            folder=context.checkpoints,
            run_id=context.run,
            emit=context.emit,
            memory_limit=EVALUATION_MEMORY,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateKge(Task):
    """Compute the metrics of the best weights on the validation and test splits, as far as these have triples."""

    needs: ClassVar[Needs] = ANYWHERE

    threads: int

    def run(self, data: Data, context: Context) -> Data:
        graph: KnownGraph = data["graph"]
        wanted = [split for split in (Split.VALID, Split.TEST) if len(graph.splits[split])]
        total = sum(len(graph.splits[split]) for split in wanted)
        context.emit(PhaseStarted(phase="evaluate", total=total, unit="triples"))
        done = 0
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for split in wanted:
            base = done
            ranks = data["trained"].rank(
                graph.splits[split],
                graph.known,
                alive=graph.alive,
                memory_limit=EVALUATION_MEMORY,
                threads=self.threads,
                progress=lambda n, base=base: context.emit(PhaseAdvanced(phase="evaluate", done=base + n)),
            )
            done += len(graph.splits[split])
            metrics = ranks.metrics()
            rows += metric_rows(split, ranks)
            context.emit(Evaluated(epoch=0, split=str(split), metrics=metrics))
        return {"evaluation": Evaluation(metrics, rows, PROTOCOL)}
