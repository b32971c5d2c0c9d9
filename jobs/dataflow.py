"""The dataflow a statement compiles to: operators over named data, what each will cost, and how they run here.

An operator reads named inputs and produces named outputs; the names make the edges. Nothing in a plan has run: the
same plan is printed by EXPLAIN, checked against this machine and executed. Executors for other places take the same
`Dataflow` and call the same `Operator.run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from graphlearn.errors import ResourceError
from graphlearn.events import Emit, PhaseFinished, PhaseStarted
from graphlearn.text import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    import networkx as nx

Data: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an operator will cost. None is unknown before the input exists.

    rows and bytes of its outputs; flops of its arithmetic; memory: bytes at its peak, inputs included; seconds here.
    """

    rows: int | None = None
    bytes: int | None = None
    flops: float | None = None
    memory: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One node. `run(inputs, emit)` returns its outputs by name; `detail` is a line for EXPLAIN.

    `describe(outputs)` is the line shown when it is done. `devices`: kinds of device it can run on.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    estimate: Estimate
    run: Callable[[Data, Emit], Data]
    detail: str = ""
    describe: Callable[[Data], str] = field(default=lambda _: "")
    devices: tuple[str, ...] = ("cpu",)
    reports_itself: bool = False


class Dataflow:
    """A directed acyclic graph of operators. Raises ValueError when two operators produce one name."""

    def __init__(self, operators: list[Operator]) -> None:
        self.operators = operators
        self._producer: dict[str, Operator] = {}
        for operator in operators:
            for name in operator.outputs:
                if name in self._producer:
                    raise ValueError(f"{name} is produced by {self._producer[name].name} and {operator.name}")
                self._producer[name] = operator

    @property
    def graph(self) -> nx.DiGraph[str]:
        """Operators as nodes (attribute `operator`), data as edges (attribute `data`, a list of names)."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        for operator in self.operators:
            graph.add_node(operator.name, operator=operator)
        for operator in self.operators:
            for name in operator.inputs:
                producer = self._producer.get(name)
                if producer is not None:
                    graph.add_edge(producer.name, operator.name)
                    graph.edges[producer.name, operator.name].setdefault("data", []).append(name)
        return graph

    def ordered(self) -> Iterator[Operator]:
        """Operators, each behind those it reads from."""
        import networkx as nx

        by_name = {operator.name: operator for operator in self.operators}
        order = {operator.name: i for i, operator in enumerate(self.operators)}
        for name in nx.lexicographical_topological_sort(self.graph, key=lambda n: order[n]):
            yield by_name[name]

    @property
    def memory(self) -> int | None:
        """Bytes at the peak of the dataflow: the largest of its operators. None when unknown."""
        known = [o.estimate.memory for o in self.operators if o.estimate.memory is not None]
        return max(known) if known else None

    def check_memory(self, available: int) -> None:
        """Raise ResourceError when the peak exceeds what is available, with the numbers."""
        heavy = max(self.operators, key=lambda o: o.estimate.memory or 0)
        need = heavy.estimate.memory or 0
        if need > available:
            raise ResourceError(
                f"the job needs about {human_bytes(need)} of memory to {heavy.name}, "
                f"and {human_bytes(available)} is free",
                help="lower dim, use optimizer = 'row_adagrad' (one number of state a row), or take a larger machine",
            )

    def table(self) -> pa.Table:
        """One row an operator, in order of execution: what EXPLAIN returns."""
        rows = [
            {
                "operator": o.name,
                "inputs": list(o.inputs),
                "outputs": list(o.outputs),
                "detail": o.detail,
                "device": "/".join(o.devices),
                "rows": o.estimate.rows,
                "bytes": o.estimate.bytes,
                "flops": o.estimate.flops,
                "memory": o.estimate.memory,
                "seconds": o.estimate.seconds,
            }
            for o in self.ordered()
        ]
        return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)

    def text(self) -> str:
        """The plan as a tree for people, the last operator on top as databases print it."""
        lines: list[str] = []
        for depth, o in enumerate(reversed(list(self.ordered()))):
            e = o.estimate
            cost = [
                f"{e.rows:,} rows" if e.rows is not None else "",
                human_bytes(e.bytes) if e.bytes is not None else "",
                f"{human_count(e.flops)}FLOP" if e.flops else "",
                f"peak {human_bytes(e.memory)}" if e.memory is not None else "",
                ("about " if e.seconds >= 1 else "") + human_seconds(e.seconds) if e.seconds is not None else "",
            ]
            indent = "   " * depth
            head = f"{indent}{'└─ ' if depth else ''}{o.name}"
            lines.append(f"{head}  {o.detail}".rstrip())
            costs = ", ".join(c for c in cost if c)
            if costs:
                lines.append(f"{indent}{'   ' if depth else ''}  ({costs}; {'/'.join(o.devices)})")
        return "\n".join(lines)


PLAN_SCHEMA = pa.schema(
    [
        ("operator", pa.string()),
        ("inputs", pa.list_(pa.string())),
        ("outputs", pa.list_(pa.string())),
        ("detail", pa.string()),
        ("device", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("flops", pa.float64()),
        ("memory", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def execute(dataflow: Dataflow, emit: Emit, keep: tuple[str, ...] = ()) -> Data:
    """Run all operators in this process, in order; returns what is left.

    Data is dropped after its last reader, except the names in `keep`.
    """
    order = list(dataflow.ordered())
    last = {name: i for i, o in enumerate(order) for name in o.inputs}
    data: Data = {}
    for i, operator in enumerate(order):
        if not operator.reports_itself:
            emit(PhaseStarted(phase=operator.name))
        started = time.perf_counter()
        outputs = operator.run({name: data[name] for name in operator.inputs}, emit)
        missing = set(operator.outputs) - set(outputs)
        assert not missing, f"{operator.name} did not produce {missing}"
        data |= outputs
        emit(
            PhaseFinished(phase=operator.name, seconds=time.perf_counter() - started, detail=operator.describe(outputs))
        )
        del outputs
        for name in [n for n, reader in last.items() if reader == i and n not in keep]:
            data.pop(name, None)
    return data
