"""The tasks of a run: each table as arrays, the graph, training, baselines, evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graphlearn.events import Evaluated, Note, PhaseStarted
from graphlearn.jobs.dataflow import Data, Needs, Task
from graphlearn.jobs.dhan.metrics import (
    LINEAR,
    METHOD,
    METRICS,
    NETWORK,
    baselines_of,
    decided_by,
    final_metrics,
    finite,
    metric_row,
    metric_rows,
    verdict_of,
)
from graphlearn.jobs.dhan.options import DhanJobOptions, model_options
from graphlearn.jobs.metrics import metrics_line
from graphlearn.jobs.train import ANYWHERE, Baselines, Evaluation, Train, check_unchanged
from graphlearn.storage.hetero.edges import EdgeTable, read_edges
from graphlearn.storage.hetero.features import Kind
from graphlearn.storage.hetero.nodes import NodeTable, read_nodes
from graphlearn.storage.hetero.paths import Metapath, build_path
from graphlearn.storage.hetero.report import EdgeReport
from graphlearn.storage.hetero.roles import columns_of, read_roles
from graphlearn.storage.hetero.sizes import GraphSizes
from graphlearn.storage.hetero.tables import HeteroTables
from graphlearn.storage.hetero.target import Target
from graphlearn.text import counted
from graphlearn.types import Split

if TYPE_CHECKING:
    from graphlearn.jobs.budget import Budget
    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.loop import Loop
    from graphlearn.models.dhan.training.training import HeteroTraining
    from graphlearn.models.hetero.measured import Measured

DATABASE = Needs(database=True)
MEASURED = (Split.VALID, Split.TEST)


def node_data(name: str) -> str:
    """The name of a node table's arrays in the dataflow."""
    return f"nodes {name}"


def edge_data(name: str) -> str:
    """The name of the arrays of an edge table or metapath in the dataflow: its relations, and what was counted."""
    return f"edges {name}"


@dataclass(frozen=True, kw_only=True)
class ScanGraph(Task):
    """Check that the queries still have the columns they were bound with, and that they have rows."""

    needs: ClassVar[Needs] = DATABASE

    inputs: Mapping[str, str]
    sizes: GraphSizes

    def run(self, data: Data, context: Context) -> Data:  # noqa: ARG002
        read_roles(columns_of(context.cursor, self.inputs))
        self.sizes.check_rows()
        return {"roles": self.sizes.roles}


@dataclass(frozen=True, kw_only=True)
class EncodeNodes(Task):
    """Turn a node table into arrays. Raises InputError if the rows have changed since they were measured."""

    needs: ClassVar[Needs] = DATABASE

    name: str
    sql: str
    kinds: Mapping[str, Kind]
    label: str | None
    fingerprint: str

    def run(self, data: Data, context: Context) -> Data:
        role = data["roles"].nodes[self.name]
        table = read_nodes(context.cursor, self.sql, role, dict(self.kinds), self.label)
        check_unchanged(table.fingerprint, self.fingerprint, self.name)
        return {node_data(self.name): table}

    def describe(self, outputs: Data) -> str:
        table: NodeTable = outputs[node_data(self.name)]
        labels = table.labels
        classes = f", {counted(len(labels.classes), 'class')} of {labels.column}" if labels is not None else ""
        return f"{counted(len(table), 'node')}, {table.report.features()}{classes}"


@dataclass(frozen=True, kw_only=True)
class EncodeEdges(Task):
    """Turn an edge table into pairs of positions. Raises InputError if its rows changed since they were measured."""

    needs: ClassVar[Needs] = DATABASE

    name: str
    sql: str
    nodes: tuple[str, ...]
    unknown: Literal["error", "drop"]
    fingerprint: str

    def run(self, data: Data, context: Context) -> Data:
        nodes = {name: data[node_data(name)] for name in self.nodes}
        tables, report = read_edges(context.cursor, self.sql, data["roles"].edges[self.name], nodes, self.unknown)
        check_unchanged(tables[0].fingerprint, self.fingerprint, self.name)
        return {edge_data(self.name): (tables, report)}

    def describe(self, outputs: Data) -> str:
        return _edges(outputs[edge_data(self.name)])


@dataclass(frozen=True, kw_only=True)
class EncodePath(Task):
    """Turn a metapath into pairs of positions."""

    needs: ClassVar[Needs] = DATABASE

    path: Metapath

    def run(self, data: Data, context: Context) -> Data:
        table, report = build_path(context.cursor, self.path, [t for tables, _ in data.values() for t in tables])
        return {edge_data(self.path.name): ([table], report)}

    def describe(self, outputs: Data) -> str:
        return _edges(outputs[edge_data(self.path.name)])


def _edges(encoded: tuple[list[EdgeTable], EdgeReport]) -> str:
    return counted(encoded[1].edges, "edge")


@dataclass(frozen=True, kw_only=True)
class PrepareGraph(Task):
    """Compute the splits, and the model before its first step. `nodes`, `edges`: names of the tables.

    The linear part of a classifier is fitted here; `preparation_seconds` are CPU seconds of training.
    """

    needs: ClassVar[Needs] = ANYWHERE

    options: DhanJobOptions
    target: Target
    nodes: tuple[str, ...]
    edges: tuple[str, ...]

    def run(self, data: Data, context: Context) -> Data:
        from graphlearn.jobs.dhan.graph import divide, make_graph, make_task
        from graphlearn.models.core.device import choose_device
        from graphlearn.models.core.threads import threads
        from graphlearn.models.dhan.training.make import make_training

        options, emit = self.options, context.emit
        choose_device(options.device)  # raises before anything is computed
        encoded = {name: data[edge_data(name)] for name in self.edges}
        relations = [table for tables, _ in encoded.values() for table in tables]
        reports = {name: report for name, (_, report) in encoded.items()}
        tables = HeteroTables.of([data[node_data(name)] for name in self.nodes], relations, reports)
        tables = divide(tables, self.target, options, emit)
        for message, level in tables.report.notes():
            emit(Note(message=message, level=level))
        started = time.process_time()
        with threads(options.threads):
            graph, task = make_graph(tables), make_task(tables, self.target, learnt=options.target is not None)
            training = make_training(graph, task, model_options(options))
        seconds = time.process_time() - started
        for sentence in training.skipped:
            emit(Note(message=sentence))
        return {"tables": tables, "training": training, "preparation_seconds": seconds}


@dataclass(frozen=True)
class TrainDhan(Train):
    """Train the network."""

    def loop(self, data: Data, context: Context) -> Loop:
        from graphlearn.jobs.dhan.training import DhanLoop

        return DhanLoop(data["training"], folder=context.checkpoints, run_id=context.run, emit=context.emit)


@dataclass(frozen=True, kw_only=True)
class DhanBaselines(Baselines):
    """Tune, train and measure the baselines. They share the input with the model, and nothing else."""

    share: float
    options: DhanJobOptions
    target: Target

    def measure(self, data: Data, context: Context, budget: Budget) -> Any:  # noqa: ARG002
        from graphlearn.jobs.dhan.graph import make_graph, make_task
        from graphlearn.models.core.threads import threads
        from graphlearn.models.dhan.baselines import baselines
        from graphlearn.models.hetero.baselines.allowance import Allowance

        options, tables = self.options, data["tables"]
        with threads(options.threads):
            task = make_task(tables, self.target, learnt=options.target is not None)
            return baselines(make_graph(tables), task, model_options(options), MEASURED, Allowance(budget))

    def describe(self, outputs: Data) -> str:
        found = outputs["baselines"].items()
        rows = [metric_row(method, split, what) for method, splits in found for split, what in splits.items()]
        best = baselines_of([row for row in rows if row])  # a split may be empty
        return "; ".join(f"{row['method']}: {metrics_line(row, METRICS)}" for row in best)


@dataclass(frozen=True, kw_only=True)
class EvaluateDhan(Task):
    """Compare the best weights with the baselines. Without a target, on all nodes and links at once."""

    needs: ClassVar[Needs] = ANYWHERE

    options: DhanJobOptions

    def run(self, data: Data, context: Context) -> Data:
        from graphlearn.models.core.threads import threads
        from graphlearn.models.dhan.training.training import WHOLE

        training: HeteroTraining = data["trained"]
        learnt, emit = self.options.target is not None, context.emit
        emit(PhaseStarted(phase="evaluate"))
        names = {WHOLE: METHOD, "network": NETWORK, "linear": LINEAR}
        classes = _classes(data["tables"]) if learnt else ()
        rows: list[dict[str, Any]] = []
        with threads(self.options.threads):
            ours = {split: training.measure(split) for split in (MEASURED if learnt else MEASURED[-1:])}
        for split, parts in ours.items():
            if finite(parts[WHOLE].figures):
                shown = split if learnt else "all"
                for part, found in parts.items():
                    measured = metric_rows(names[part], shown, found, classes)
                    rows += measured
                    if part == WHOLE:
                        figures = {k: v for k, v in measured[0].items() if k not in ("method", "split", "count")}
                        emit(Evaluated(epoch=0, split=str(shown), metrics=figures))
        compared: Mapping[str, Mapping[Split, Measured]] = data.get("baselines", {})
        for method, splits in compared.items():
            for split in MEASURED:
                if split in splits:
                    rows += metric_rows(method, split, splits[split], classes)
        sentences = []
        credited, decided = decided_by(training.shares, ours[MEASURED[-1]])
        others = {method: splits[Split.TEST] for method, splits in compared.items() if Split.TEST in splits}
        verdict = verdict_of(credited, ours[MEASURED[-1]][WHOLE], others, cut=bool(data.get("cuts")))
        if verdict is not None:
            emit(Note(message=verdict.sentence, level=verdict.level))
            sentences.append(verdict.sentence)
        if decided:
            emit(Note(message=decided))
            sentences.append(decided)
        return {"evaluation": Evaluation(final_metrics(rows), rows, training.protocol, "; ".join(sentences))}


def _classes(tables: HeteroTables) -> Sequence[str]:
    """The classes as text."""
    labels = tables.labelled.labels if tables.labelled is not None else None
    return [] if labels is None else [str(key) for key in labels.classes.dictionary.keys.to_pylist()]
