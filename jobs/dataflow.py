"""The dataflow that a statement compiles to: operators over named data, with cost estimates.

An operator reads named inputs and produces named outputs; the names define the edges. EXPLAIN prints the same plan that
is checked against the free memory and executed. The task of an operator is a value that can be sent to another process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import pyarrow as pa

from graphlearn.errors import ResourceError
from graphlearn.text import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    import networkx as nx

    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.machine import Machine

Data: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an operator will cost; None while it is unknown.

    rows, bytes: of the outputs. flops: of the arithmetic. memory: peak in bytes, including the inputs. seconds: time
    that does not depend on arithmetic. gemm: the remaining time, given as the multiplications and additions that a
    matrix product would do in it, so that a plan does not depend on the machine.
    """

    rows: int | None = None
    bytes: int | None = None
    flops: float | None = None
    memory: int | None = None
    seconds: float | None = None
    gemm: float | None = None

    def time(self, machine: Machine) -> float | None:
        """Seconds on a machine; None if unknown."""
        if self.seconds is None and self.gemm is None:
            return None
        return (self.seconds or 0.0) + (self.gemm / machine.gemm if self.gemm else 0.0)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Where a task can run, and with what resources.

    `database`: on the driver, with the user's connection. `workspace`: on the driver, because only it writes to the
    workspace. Other tasks run wherever one of the `devices` (preferred kind first) is available. `workers`: how many
    can share the work, at most. `memory`: peak in bytes, None if unknown.
    """

    database: bool = False
    workspace: bool = False
    devices: tuple[str, ...] = ("cpu",)
    workers: int = 1
    memory: int | None = None

    @property
    def driver(self) -> bool:
        """Whether the task must run on the driver."""
        return self.database or self.workspace


class Task(ABC):
    """The work of an operator: a frozen dataclass of plain values, so that it can be sent to another process."""

    needs: ClassVar[Needs] = Needs()

    @abstractmethod
    def run(self, data: Data, context: Context) -> Data:
        """Compute the outputs by name from the inputs by name."""

    def describe(self, outputs: Data) -> str:  # noqa: ARG002
        """A one-line summary of the outputs."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A node of the dataflow.

    `detail`: a line for EXPLAIN. `reports_itself`: the task itself emits the start of its phase. `because` and `advice`
    are for the error raised when memory is insufficient: what needs the most, and the help line.
    """

    name: str
    task: Task
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    estimate: Estimate = Estimate()
    detail: str = ""
    reports_itself: bool = False
    advice: str = "use a larger machine"
    because: str = ""

    @property
    def needs(self) -> Needs:
        """What the task needs, with the memory of the estimate."""
        return replace(self.task.needs, memory=self.estimate.memory)


class Dataflow:
    """A directed acyclic graph of operators. Raises ValueError if two operators produce the same name."""

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
        """The operators in topological order."""
        import networkx as nx

        by_name = {operator.name: operator for operator in self.operators}
        order = {operator.name: i for i, operator in enumerate(self.operators)}
        for name in nx.lexicographical_topological_sort(self.graph, key=lambda n: order[n]):
            yield by_name[name]

    @property
    def memory(self) -> int | None:
        """Peak memory in bytes: that of the largest operator. None if unknown."""
        known = [o.needs.memory for o in self.operators if o.needs.memory is not None]
        return max(known) if known else None

    def check_memory(self, available: int) -> None:
        """Raise ResourceError, with both figures, if the peak exceeds the available bytes."""
        heavy = max(self.operators, key=lambda o: o.estimate.memory or 0)
        need = heavy.estimate.memory or 0
        if need > available:
            because = f"; {heavy.because}" if heavy.because else ""
            raise ResourceError(
                f"the job needs about {human_bytes(need)} of memory to {heavy.name}, "
                f"and {human_bytes(available)} is free{because}",
                help=heavy.advice,
            )

    def table(self, machine: Machine) -> pa.Table:
        """One row per operator, in order of execution, as returned by EXPLAIN."""
        rows = [
            {
                "operator": o.name,
                "inputs": list(o.inputs),
                "outputs": list(o.outputs),
                "detail": o.detail,
                "device": "/".join(o.needs.devices),
                "rows": o.estimate.rows,
                "bytes": o.estimate.bytes,
                "flops": o.estimate.flops,
                "memory": o.estimate.memory,
                "seconds": o.estimate.time(machine),
            }
            for o in self.ordered()
        ]
        return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)

    def text(self, machine: Machine) -> str:
        """The plan as a tree, with the last operator on top, as databases print it."""
        lines: list[str] = []
        for depth, o in enumerate(reversed(list(self.ordered()))):
            e, seconds = o.estimate, o.estimate.time(machine)
            cost = [
                f"{e.rows:,} rows" if e.rows is not None else "",
                human_bytes(e.bytes) if e.bytes is not None else "",
                f"{human_count(e.flops)}FLOP" if e.flops else "",
                f"peak {human_bytes(e.memory)}" if e.memory is not None else "",
                ("about " if seconds >= 1 else "") + human_seconds(seconds) if seconds is not None else "",
            ]
            indent = "   " * depth
            head = f"{indent}{'└─ ' if depth else ''}{o.name}"
            lines.append(f"{head}  {o.detail}".rstrip())
            costs = ", ".join(c for c in cost if c)
            if costs:
                lines.append(f"{indent}{'   ' if depth else ''}  ({costs}; {'/'.join(o.needs.devices)})")
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
