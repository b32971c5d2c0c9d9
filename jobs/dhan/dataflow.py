"""Graphs of nodes and edges as a dataflow: scan -> encode each table -> prepare -> train -> evaluate -> publish."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from graphlearn.events import Emit, Evaluated, Note, PhaseStarted
from graphlearn.jobs.create import Bound
from graphlearn.jobs.dataflow import Data, Dataflow, Estimate, Operator
from graphlearn.jobs.dhan.options import DhanJobOptions, check_names, check_nodes, model_options, read_target
from graphlearn.jobs.dhan.sizes import check_memory, check_paths, edge_flops, edge_text, flops, memory, seconds
from graphlearn.jobs.kge.dataflow import BASE_MEMORY
from graphlearn.jobs.labels import metrics_line
from graphlearn.jobs.machine import gemm_flops, memory_available
from graphlearn.models.hetero.comparisons import COMPARISONS, comparisons
from graphlearn.storage.hetero.paths import Metapath, build_path
from graphlearn.storage.hetero.roles import columns_of, read_roles
from graphlearn.storage.hetero.sizes import NodeSize, measure_graph
from graphlearn.text import counted
from graphlearn.types import Split

if TYPE_CHECKING:
    from graphlearn.models.dhan.training import HeteroTraining
    from graphlearn.storage.hetero.tables import HeteroTables

MEASURED = (Split.VALID, Split.TEST)


class DhanDataflow:
    """The operators of one request."""

    def __init__(self, bound: Bound) -> None:
        self.bound, self.cursor = bound, bound.cursor
        self.options: DhanJobOptions = bound.request.options
        self.sql = bound.request.inputs
        roles = read_roles(columns_of(self.cursor, self.sql))
        check_names(roles, self.options)
        self.target = read_target(roles, self.options)
        self.kinds = {name: check_nodes(role, self.target, self.options) for name, role in roles.nodes.items()}
        self.sizes = measure_graph(
            self.cursor,
            self.sql,
            roles=roles,
            kinds=self.kinds,
            ends=self.options.ends,
            metapaths=self.options.metapaths,
        )
        self.roles, self.paths = self.sizes.roles, self.sizes.paths
        check_paths(self.sizes, self.options)
        if bound.run is None:
            check_memory(self.sizes, self.options, BASE_MEMORY, memory_available())
        else:
            self.sizes.check_rows()

    def dataflow(self) -> Dataflow:
        options, sizes = self.options, self.sizes
        arrays, training = sizes.bytes, memory(sizes, options)
        rows = sum(n.rows for n in sizes.nodes.values()) + sum(e.edges for e in sizes.edges.values())
        work = flops(sizes, options)

        def estimate(**kw: Any) -> Estimate:
            return Estimate(**kw) if sizes.known else Estimate()

        epoch = seconds(sizes, options, gemm_flops()) if sizes.known else 0.0
        hubs = sum(role.hub for role in self.roles.edges.values())
        tables = [
            counted(len(self.roles.nodes), "node table"),
            counted(len(self.roles.edges) - hubs, "edge table"),
            *([counted(hubs, "hub table")] if hubs else []),
            *([counted(len(self.paths), "metapath")] if self.paths else []),
        ]
        first = Operator(
            name="scan",
            inputs=(),
            outputs=("roles",),
            run=self.scan,
            detail=", ".join(tables),
            estimate=estimate(rows=rows, bytes=rows * 32, memory=BASE_MEMORY, seconds=rows / 2e7),
        )
        encode = [*self._node_operators(estimate), *self._edge_operators(estimate), *self._path_operators(estimate)]
        names = tuple(name for operator in encode for name in operator.outputs)
        learns = self._learns()
        rest = [
            Operator(
                name="prepare",
                inputs=names,
                outputs=("tables", "training", "baselines"),
                run=self.prepare,
                detail="; ".join(
                    ["splits, standardised features", *self._knn(), "baselines: MLP and the simplest guess"]
                ),
                describe=lambda out: _baselines(out["baselines"]),
                estimate=estimate(memory=BASE_MEMORY + 3 * arrays + training, seconds=1 + 30 * arrays / 1e9),
            ),
            Operator(
                name="train",
                inputs=("training",),
                outputs=("trained",),
                run=self.train,
                reports_itself=True,
                detail=f"dhan, {learns}, {options.epochs} epochs at most",
                devices=("cuda", "cpu"),
                estimate=estimate(
                    rows=options.epochs * rows,
                    flops=options.epochs * work,
                    memory=BASE_MEMORY + 2 * arrays + training,
                    seconds=options.epochs * epoch,
                ),
            ),
            Operator(
                name="evaluate",
                inputs=("trained", "baselines"),
                outputs=("metrics", "rows", "protocol"),
                run=self.evaluate,
                reports_itself=True,
                detail="macro-F1 and micro-F1, MRR or NMI, compared with the baselines",
                devices=("cuda", "cpu"),
                estimate=estimate(
                    rows=rows, flops=work / 3, memory=BASE_MEMORY + 2 * arrays + training, seconds=epoch / 3
                ),
            ),
            Operator(
                name="publish",
                inputs=("tables", "trained", "metrics", "rows", "protocol"),
                outputs=("version", "counts"),
                run=self.publish,
                detail=f"model {self.bound.request.name}",
                describe=lambda out: f"version {out['version']}",
                estimate=estimate(bytes=arrays, memory=BASE_MEMORY + 2 * arrays, seconds=arrays / 3e8),
            ),
        ]
        return Dataflow([first, *encode, *rest])

    def _learns(self) -> str:
        target = self.target
        if self.options.target is None:
            return "embeddings from links alone"
        return f"links of {target.relation}" if target.edges else f"{target.column} of {target.node}"

    def _knn(self) -> list[str]:
        """The cost of the knn relation, or that it is skipped."""
        size = self.sizes.nodes.get(self.target.node or "", NodeSize())
        if self.options.target is None or self.target.edges or not self.options.knn or not self.sizes.known:
            return []
        if not size.dense + size.sparse:
            return []
        cost = comparisons(size.rows, size.dense, size.ones)
        if cost > COMPARISONS:
            return [f"too many nodes to link similar ones ({cost / 1e9:,.0f} G multiplications)"]
        return [f"{self.options.knn} similar nodes for each ({cost / 1e9:,.2f} G multiplications)"]

    def _unit(self) -> str:
        """What a step of the training learns from."""
        return "nodes" if self.target.node is not None and self.options.target is not None else "edges"

    def _node_operators(self, estimate: Any) -> list[Operator]:
        found = []
        for name in self.roles.nodes:
            size = self.sizes.nodes[name]
            found.append(
                Operator(
                    name=f"encode {name}",
                    inputs=("roles",),
                    outputs=(f"nodes {name}",),
                    run=partial(self.encode_nodes, name),
                    detail=size.text() if self.sizes.known else "",
                    describe=lambda out, name=name: _summary(out[f"nodes {name}"]),  # type: ignore[misc]
                    estimate=estimate(
                        rows=size.rows,
                        bytes=size.bytes,
                        memory=BASE_MEMORY + 4 * size.bytes,
                        seconds=(size.rows + size.ones) / 2e6,
                    ),
                )
            )
        return found

    def _edge_operators(self, estimate: Any) -> list[Operator]:
        found = []
        for name, role in self.roles.edges.items():
            size = self.sizes.edges[name]
            ends = {str(role.source.node)} if role.hub else {str(role.source.node), str(role.target.node)}
            found.append(
                Operator(
                    name=f"encode {name}",
                    inputs=tuple(f"nodes {end}" for end in self.roles.nodes if end in ends),
                    outputs=(f"edges {name}",),
                    run=partial(self.encode_edges, name),
                    detail=edge_text(size, self.options) if self.sizes.known else "",
                    describe=lambda out, name=name: counted(out[f"edges {name}"][1].edges, "edge"),  # type: ignore[misc]
                    estimate=estimate(
                        rows=size.edges,
                        bytes=16 * size.edges,
                        flops=edge_flops(size, self.options),
                        memory=BASE_MEMORY + 170 * size.edges,
                        seconds=size.edges / 1e6,
                    ),
                )
            )
        return found

    def _path_operators(self, estimate: Any) -> list[Operator]:
        found = []
        for path in self.paths:
            size = self.sizes.edges[path.name]
            steps = tuple(dict.fromkeys(step.role.name for step in path.steps))
            found.append(
                Operator(
                    name=f"encode {path.name}",
                    inputs=tuple(f"edges {name}" for name in steps),
                    outputs=(f"edges {path.name}",),
                    run=partial(self.encode_path, path),
                    detail="at most, " + edge_text(size, self.options) if self.sizes.known else "",
                    describe=lambda out, name=path.name: counted(out[f"edges {name}"][1].edges, "edge"),  # type: ignore[misc]
                    estimate=estimate(
                        rows=size.edges,
                        bytes=16 * size.edges,
                        flops=edge_flops(size, self.options),
                        memory=BASE_MEMORY + 64 * size.edges,
                        seconds=size.edges / 2e6,
                    ),
                )
            )
        return found

    def scan(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Check that the queries still have the columns they were bound with."""
        read_roles(columns_of(self.cursor, self.sql))
        return {"roles": self.roles}

    def encode_nodes(self, name: str, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """A node table to arrays."""
        from graphlearn.storage.hetero.nodes import read_nodes

        role = data["roles"].nodes[name]
        label = self.target.label_of(name)
        return {f"nodes {name}": read_nodes(self.cursor, self.sql[name], role, self.kinds[name], label)}

    def encode_edges(self, name: str, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """An edge table to pairs of positions."""
        from graphlearn.storage.hetero.edges import read_edges

        nodes = {key.removeprefix("nodes "): table for key, table in data.items()}
        found = read_edges(self.cursor, self.sql[name], self.roles.edges[name], nodes, self.options.unknown)
        return {f"edges {name}": found}

    def encode_path(self, path: Metapath, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """A metapath to pairs of positions."""
        table, report = build_path(self.cursor, path, [t for tables, _ in data.values() for t in tables])
        return {f"edges {path.name}": ([table], report)}

    def prepare(self, data: Data, emit: Emit) -> Data:
        """The splits, the task, the model before its first step, and the baselines."""
        from graphlearn.jobs.dhan.graph import divide, make_graph, make_task
        from graphlearn.jobs.dhan.metrics import metric_row
        from graphlearn.models.core.device import choose_device
        from graphlearn.models.core.threads import threads
        from graphlearn.models.dhan.baselines import baselines
        from graphlearn.models.dhan.tasks import make_training
        from graphlearn.storage.hetero.tables import HeteroTables

        options = self.options
        choose_device(options.device)  # raises before anything is computed
        nodes = [data[f"nodes {name}"] for name in self.roles.nodes]
        made = {name: data[f"edges {name}"] for name in (*self.roles.edges, *(p.name for p in self.paths))}
        relations = [table for found, _ in made.values() for table in found]
        tables = HeteroTables.of(nodes, relations, {name: report for name, (_, report) in made.items()})
        tables = divide(tables, self.target, options, emit)
        for message, level in tables.report.notes():
            emit(Note(message=message, level=level))
        with threads(options.threads):
            graph, task = make_graph(tables), make_task(tables, self.target, learnt=options.target is not None)
            settings = model_options(options)
            training = make_training(graph, task, settings)
            for sentence in training.skipped:
                emit(Note(message=sentence))
            measured = baselines(graph, task, settings, MEASURED)
        rows = [metric_row(method, split, found[split]) for method, found in measured.items() for split in MEASURED]
        return {"tables": tables, "training": training, "baselines": [row for row in rows if row]}

    def train(self, data: Data, emit: Emit) -> Data:
        """Fit the network."""
        from graphlearn.jobs.dhan.training import DhanTrainer
        from graphlearn.models.core.threads import threads

        run = self.bound.run
        assert run is not None
        emit(PhaseStarted(phase="train", total=self.options.epochs, unit="epochs"))
        with threads(self.options.threads):
            trainer = DhanTrainer(data["training"], self._unit(), run.checkpoints, run.id, emit)
            if self.bound.resume:
                trainer.resume()
            trainer.fit()
        return {"trained": trainer.training}

    def evaluate(self, data: Data, emit: Emit) -> Data:
        """Metrics of the best weights, compared with the baselines."""
        from graphlearn.jobs.dhan.metrics import METHOD, figures, headline, metric_row, verdict
        from graphlearn.models.core.threads import threads

        training: HeteroTraining = data["trained"]
        emit(PhaseStarted(phase="evaluate"))
        rows: list[dict[str, Any]] = []
        with threads(self.options.threads):
            for split in MEASURED if self.options.target is not None else MEASURED[-1:]:
                measured = training.evaluate(split)
                row = metric_row(METHOD, split if self.options.target is not None else "all", measured)
                if row:
                    rows.append(row)
                    emit(Evaluated(epoch=0, split=row["split"], metrics=figures(measured)))
        if training.summary:
            emit(Note(message=training.summary))
        rows += data["baselines"]
        wins, sentence = verdict(rows)
        if sentence:
            emit(Note(message=sentence, level="info" if wins else "warning"))
        return {"metrics": headline(rows, METHOD), "rows": rows, "protocol": training.protocol}

    def publish(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Store weights, graph and figures as a new version."""
        from safetensors.torch import save_file

        from graphlearn.jobs.dhan.metrics import METRICS, verdict, write_metrics

        bound, training = self.bound, data["trained"]
        assert bound.store is not None
        assert bound.run is not None
        tables: HeteroTables = data["tables"]
        counts = tables.report.to_json()
        with bound.store.stage(bound.request.name) as staged:
            save_file({k: v.contiguous() for k, v in training.weights().items()}, staged.path / "weights.safetensors")
            tables.write(staged.path)
            write_metrics(staged.path / METRICS, data["rows"], data["protocol"])
            version = staged.commit(
                {
                    "family": bound.request.family.lower(),
                    "options": asdict(self.options),
                    "inputs": bound.request.inputs,
                    "statement": bound.request.statement,
                    "fingerprint": bound.fingerprint,
                    "target": asdict(self.target),
                    "counts": counts,
                    "metrics": data["metrics"],
                    "verdict": verdict(data["rows"])[1],
                    "protocol": data["protocol"],
                    "run": bound.run.id,
                    "seconds": time.perf_counter() - bound.started,
                }
            )
        return {"version": version, "counts": counts}


def _summary(table: Any) -> str:
    labels = table.labels
    classes = f", {counted(len(labels.classes), 'class')} of {labels.column}" if labels is not None else ""
    return f"{counted(len(table), 'node')}, {table.report.features()}{classes}"


def _baselines(rows: list[dict[str, Any]]) -> str:
    from graphlearn.jobs.dhan.metrics import FIGURES, baselines_of

    listed = [{name: row[name] for name in FIGURES if row.get(name) is not None} for row in baselines_of(rows)]
    return "; ".join(f"{row['method']}: {metrics_line(f)}" for row, f in zip(baselines_of(rows), listed, strict=True))
