"""The tasks of a run: encoding triples, collecting known answers, training, baselines, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from graphlearn.errors import InputError
from graphlearn.events import Evaluated, Note, PhaseAdvanced, PhaseStarted
from graphlearn.jobs.budget import Budget
from graphlearn.jobs.dataflow import Data, Needs, Task
from graphlearn.jobs.kge.metrics import METRICS, PROTOCOL, compared, metric_rows, metrics_of
from graphlearn.jobs.metrics import metrics_line
from graphlearn.jobs.train import ANYWHERE, Baselines, Evaluation, Train, check_unchanged
from graphlearn.models.kge.options import KgeOptions
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.columns import check_columns, describe
from graphlearn.storage.triples.ingest import encode_triples
from graphlearn.types import BoolArray, Side, Split, Triples

if TYPE_CHECKING:
    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.link_baselines import LinkBaselines
    from graphlearn.jobs.loop import Loop
    from graphlearn.models.core.known import KnownAnswers

EVALUATION_MEMORY = 1 << 28
"""Bytes for blocks of scores during ranking."""
EVALUATED = 20_000
"""Triples of a split that the report ranks, at most; see the option `evaluate_all`."""


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


def report_sample(triples: Triples, options: KgeOptions) -> Triples:
    """The triples of a split that the report ranks: all, or a random part of them."""
    if options.evaluate_all or len(triples) <= EVALUATED:
        return triples
    rows = np.random.default_rng([options.seed, 4]).permutation(len(triples))[:EVALUATED]
    return triples[np.sort(rows)]


@dataclass(frozen=True, kw_only=True)
class KgeBaselines(Baselines):
    """Rank the test triples of the report by popularity and by rules."""

    share: float
    options: KgeOptions

    def measure(self, data: Data, context: Context, budget: Budget) -> LinkBaselines:
        from graphlearn.jobs.link_baselines import LinkTask, link_baselines

        graph: KnownGraph = data["graph"]
        task = LinkTask(
            n_entities=graph.n_entities,
            n_relations=graph.n_relations,
            train=graph.splits[Split.TRAIN],
            valid=graph.splits[Split.VALID],
            test=report_sample(graph.splits[Split.TEST], self.options),
            known=graph.known,
            alive=graph.alive,
        )
        context.emit(PhaseStarted(phase="baselines", total=100, unit="%"))
        return link_baselines(
            task,
            budget,
            seed=self.options.seed,
            threads=self.options.threads,
            progress=lambda share: context.emit(PhaseAdvanced(phase="baselines", done=int(100 * share))),
        )

    def describe(self, outputs: Data) -> str:
        found: LinkBaselines = outputs["baselines"]
        return "; ".join(f"{name}: {metrics_line(metrics_of(ranks), METRICS)}" for name, ranks in found.ranks.items())


@dataclass(frozen=True, kw_only=True)
class EvaluateKge(Task):
    """Compute the metrics of the best weights on the validation and test splits, as far as these have triples.

    With an input `baselines`, the model is compared with them on the test split.
    """

    needs: ClassVar[Needs] = ANYWHERE

    family: str
    options: KgeOptions

    def run(self, data: Data, context: Context) -> Data:
        graph: KnownGraph = data["graph"]
        whole = {split: graph.splits[split] for split in (Split.VALID, Split.TEST) if len(graph.splits[split])}
        held = {split: report_sample(triples, self.options) for split, triples in whole.items()}
        context.emit(PhaseStarted(phase="evaluate", total=sum(map(len, held.values())), unit="triples"))
        done = 0
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        sentence = ""
        for split, triples in held.items():
            base = done
            ranks = data["trained"].rank(
                triples,
                graph.known,
                alive=graph.alive,
                memory_limit=EVALUATION_MEMORY,
                threads=self.options.threads,
                progress=lambda n, base=base: context.emit(PhaseAdvanced(phase="evaluate", done=base + n)),
            )
            done += len(triples)
            metrics = metrics_of(ranks)
            rows += metric_rows(self.family, split, ranks)
            context.emit(Evaluated(epoch=0, split=str(split), metrics=metrics))
            baselines: LinkBaselines | None = data.get("baselines")
            if split is Split.TEST and baselines is not None:
                for name, found in baselines.ranks.items():
                    rows += metric_rows(name, split, found)
                verdict = compared(self.family, ranks, baselines, cut=bool(data["cuts"]))
                if verdict is not None:
                    sentence = verdict.sentence
                    context.emit(Note(message=sentence, level=verdict.level))
        parts = [
            f"{len(held[split]):,} of {len(triples):,} {split} triples"
            for split, triples in whole.items()
            if len(held[split]) < len(triples)
        ]
        protocol = f"{PROTOCOL}; {' and '.join(parts)}, drawn at random" if parts else PROTOCOL
        return {"evaluation": Evaluation(metrics, rows, protocol, sentence)}
