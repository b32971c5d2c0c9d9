"""The plan of a run: scan -> encode each table -> prepare -> train -> baselines -> evaluate -> publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from graphlearn.jobs.dataflow import Dataflow, Estimate, Operator
from graphlearn.jobs.dhan import estimate as cost
from graphlearn.jobs.dhan.metrics import TaskKind, metric_table, task_kind
from graphlearn.jobs.dhan.options import DhanJobOptions, check_names, check_nodes
from graphlearn.jobs.dhan.sizes import check_paths, edge_flops, edge_text, memory
from graphlearn.jobs.dhan.tasks import (
    MEASURED,
    DhanBaselines,
    EncodeEdges,
    EncodeNodes,
    EncodePath,
    EvaluateDhan,
    PrepareGraph,
    ScanGraph,
    TrainDhan,
    edge_data,
    node_data,
)
from graphlearn.jobs.family import Sizes
from graphlearn.jobs.machine import BASE_MEMORY
from graphlearn.jobs.request import ModelRequest
from graphlearn.jobs.train import PUBLISHED, Publish, budget_text, within_budget
from graphlearn.models.hetero.comparisons import COMPARISONS, comparisons
from graphlearn.storage.hetero.roles import columns_of, read_roles
from graphlearn.storage.hetero.sizes import GraphSizes, NodeSize, measure_graph
from graphlearn.storage.hetero.target import Target, find_target
from graphlearn.text import counted

if TYPE_CHECKING:
    import duckdb

Estimator: TypeAlias = Callable[..., Estimate]
METHODS: Mapping[TaskKind, str] = {
    "classes": "majority, label propagation, propagated features, MLP",
    "links": "degree, item neighbours, random walk, MLP dot product",
}
FIGURES: Mapping[TaskKind, str] = {
    "classes": "macro-F1 and micro-F1, overall and by class",
    "links": "MRR, Hits@k and AUC",
    "clusters": "AUC of links, NMI of clusters",
    "embeddings": "AUC of links",
}


@dataclass(frozen=True, kw_only=True)
class DhanSizes(Sizes):
    """The sizes of the graph's tables, with the node table of every end."""

    graph: GraphSizes


def measure(cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> DhanSizes:
    """Count and hash the rows of each input in one scan.

    Raises InputError, OptionError for inputs that do not form a graph, ResourceError for metapaths with too many edges.
    """
    options: DhanJobOptions = request.options
    roles = read_roles(columns_of(cursor, request.inputs))
    check_names(roles, options)
    target = find_target(roles, options.target)
    kinds = {name: check_nodes(role, target, options) for name, role in roles.nodes.items()}
    graph = measure_graph(
        cursor, request.inputs, roles=roles, kinds=kinds, ends=options.ends, metapaths=options.metapaths
    )
    check_paths(graph, options)
    return DhanSizes(fingerprints=graph.fingerprints, known=graph.known, graph=graph)


def plan(request: ModelRequest, sizes: DhanSizes) -> Dataflow:
    """The operators of a run, with cost estimates."""
    options: DhanJobOptions = request.options
    graph = sizes.graph
    target = find_target(graph.roles, options.target)
    arrays, training = graph.bytes, memory(graph, options)
    rows = sum(n.rows for n in graph.nodes.values()) + sum(e.edges for e in graph.edges.values())

    def estimate(time: Callable[..., Estimate] | None = None, **costs: Any) -> Estimate:
        if not sizes.known:
            return Estimate()
        found = time(graph, options, target) if time else Estimate()
        return replace(found, **costs).by(_method(options, target))

    scan = Operator(
        name="scan",
        task=ScanGraph(inputs=request.inputs, sizes=graph),
        outputs=("roles",),
        detail=_tables(graph),
        estimate=estimate(rows=rows, bytes=rows * 32, memory=BASE_MEMORY, seconds=rows / 2e7),
    )
    encode = [*_nodes(request, graph, target, estimate), *_edges(request, graph, estimate)]
    encode += _paths(options, graph, estimate)
    kind = task_kind(target, learnt=options.target is not None)
    compared = options.baselines and kind in METHODS
    baselines = [
        Operator(
            name="baselines",
            task=DhanBaselines(share=options.baseline_share, options=options, target=target),
            inputs=("tables", "preparation_seconds", "training_seconds"),
            outputs=("baselines", "cuts"),
            detail=METHODS[kind] + budget_text(options.baseline_share),
            estimate=estimate(
                lambda *known: within_budget(
                    cost.baselines(*known), cost.training(*known) + cost.preparation(*known), options.baseline_share
                ),
                memory=BASE_MEMORY + 2 * arrays + training,
            ),
        )
        for _ in range(compared)
    ]
    rest = [
        Operator(
            name="prepare",
            task=PrepareGraph(
                options=options,
                target=target,
                nodes=tuple(graph.roles.nodes),
                edges=(*graph.roles.edges, *(path.name for path in graph.paths)),
            ),
            inputs=tuple(name for operator in encode for name in operator.outputs),
            outputs=("tables", "training", "preparation_seconds"),
            detail="; ".join(["splits, standardised features", *_knn(options, graph, target)]),
            estimate=estimate(cost.preparation, memory=BASE_MEMORY + 3 * arrays + training),
        ),
        Operator(
            name="train",
            task=TrainDhan(),
            inputs=("training",),
            outputs=("trained", "training_seconds"),
            reports_itself=True,
            detail=f"dhan, {_learns(options, target)}, at most {counted(options.epochs, 'epoch')}",
            estimate=estimate(cost.training, rows=options.epochs * rows, memory=BASE_MEMORY + 2 * arrays + training),
        ),
        *baselines,
        Operator(
            name="evaluate",
            task=EvaluateDhan(options=options),
            inputs=("tables", "trained", *(name for operator in baselines for name in operator.outputs)),
            outputs=("evaluation",),
            reports_itself=True,
            detail=f"{FIGURES[kind]}{', compared with the baselines' if baselines else ''}",
            estimate=estimate(
                lambda *known: cost.evaluation(*known) * len(MEASURED),
                rows=rows,
                memory=BASE_MEMORY + 2 * arrays + training,
            ),
        ),
        Operator(
            name="publish",
            task=Publish(
                request=request,
                fingerprint=request.fingerprint(sizes.fingerprints),
                table=metric_table(kind),
                parts=("tables",),
                extra={"target": asdict(target)},
            ),
            inputs=("tables", "trained", "evaluation", *("cuts" for _ in baselines)),
            outputs=PUBLISHED,
            detail=f"model {request.name}",
            estimate=estimate(bytes=arrays, memory=BASE_MEMORY + 2 * arrays, seconds=arrays / 3e8),
        ),
    ]
    return Dataflow([scan, *encode, *rest], options)


def _method(options: DhanJobOptions, target: Target) -> str:
    """What is learnt, and how: tasks and sampling differ in cost."""
    learnt = "embeddings" if options.target is None else "links" if target.edges else "classes"
    return f"{learnt}, sampled" if options.fanout else learnt


def _nodes(request: ModelRequest, graph: GraphSizes, target: Target, estimate: Estimator) -> Iterator[Operator]:
    for name in graph.roles.nodes:
        size = graph.nodes[name]
        yield Operator(
            name=f"encode {name}",
            task=EncodeNodes(
                name=name,
                sql=request.inputs[name],
                kinds=graph.kinds[name],
                label=target.label_of(name),
                fingerprint=graph.fingerprints[name],
            ),
            inputs=("roles",),
            outputs=(node_data(name),),
            detail=size.text() if graph.known else "",
            estimate=estimate(
                rows=size.rows,
                bytes=size.bytes,
                memory=BASE_MEMORY + 4 * size.bytes,
                seconds=(size.rows + size.ones) / 2e6,
            ),
        )


def _edges(request: ModelRequest, graph: GraphSizes, estimate: Estimator) -> Iterator[Operator]:
    options: DhanJobOptions = request.options
    for name, role in graph.roles.edges.items():
        size, ends = graph.edges[name], {end.node for end in role.ends.values()}
        nodes = tuple(node for node in graph.roles.nodes if node in ends)
        yield Operator(
            name=f"encode {name}",
            task=EncodeEdges(
                name=name,
                sql=request.inputs[name],
                nodes=nodes,
                unknown=options.unknown,
                fingerprint=graph.fingerprints[name],
            ),
            inputs=("roles", *map(node_data, nodes)),
            outputs=(edge_data(name),),
            detail=edge_text(size, options) if graph.known else "",
            estimate=estimate(
                rows=size.edges,
                bytes=16 * size.edges,
                flops=edge_flops(size, options),
                memory=BASE_MEMORY + 170 * size.edges,
                seconds=size.edges / 1e6,
            ),
        )


def _paths(options: DhanJobOptions, graph: GraphSizes, estimate: Estimator) -> Iterator[Operator]:
    for path in graph.paths:
        size = graph.edges[path.name]
        yield Operator(
            name=f"encode {path.name}",
            task=EncodePath(path=path),
            inputs=tuple(dict.fromkeys(edge_data(step.role.name) for step in path.steps)),
            outputs=(edge_data(path.name),),
            detail=f"at most {edge_text(size, options)}" if graph.known else "",
            estimate=estimate(
                rows=size.edges,
                bytes=16 * size.edges,
                flops=edge_flops(size, options),
                memory=BASE_MEMORY + 64 * size.edges,
                seconds=size.edges / 2e6,
            ),
        )


def _tables(graph: GraphSizes) -> str:
    hubs = sum(role.hub for role in graph.roles.edges.values())
    tables = [counted(len(graph.roles.nodes), "node table"), counted(len(graph.roles.edges) - hubs, "edge table")]
    if hubs:
        tables.append(counted(hubs, "hub table"))
    if graph.paths:
        tables.append(counted(len(graph.paths), "metapath"))
    return ", ".join(tables)


def _learns(options: DhanJobOptions, target: Target) -> str:
    if options.target is None:
        return "embeddings from links alone"
    return f"links of {target.relation}" if target.edges else f"{target.column} of {target.node}"


def _knn(options: DhanJobOptions, graph: GraphSizes, target: Target) -> Iterator[str]:
    """The cost of the knn relation, or that it is skipped."""
    size = graph.nodes.get(target.node or "", NodeSize())
    if options.target is None or target.edges or not options.knn or not graph.known or not size.dense + size.sparse:
        return
    work = comparisons(size.rows, size.dense, size.ones)
    if work > COMPARISONS:
        yield f"too many nodes for a knn relation ({work / 1e9:,.0f} billion multiplications)"
    else:
        yield f"knn relation of {options.knn} neighbours per node ({work / 1e9:,.2f} billion multiplications)"
