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
from graphlearn.jobs.budget import LEAST
from graphlearn.text import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    import networkx as nx

    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.machine import Machine
    from graphlearn.models.core.options import Options

Data: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an operator will cost; None while it is unknown.

    rows, bytes: of the outputs. flops: of the arithmetic. memory: peak in bytes, including the inputs. The time has two
    parts, so that a plan does not depend on the machine. seconds: what one core of the reference machine needs for
    everything but arithmetic. gemm: arithmetic, which all cores share or a GPU does, as the multiplications and
    additions of a matrix product that takes as long. method: which of several ways the task will take, such as the
    type of the model; measured costs of one say nothing about another. limit: of the time, for tasks with a budget; see
    `jobs/budget.py`.
    """

    rows: int | None = None
    bytes: int | None = None
    flops: float | None = None
    memory: int | None = None
    seconds: float | None = None
    gemm: float | None = None
    method: str = ""
    limit: Estimate | None = None

    def __add__(self, other: Estimate) -> Estimate:
        """The time of both; the sizes are those of the first."""
        return replace(
            self,
            flops=_sum(self.flops, other.flops),
            seconds=_sum(self.seconds, other.seconds),
            gemm=_sum(self.gemm, other.gemm),
        )

    def __mul__(self, times: float) -> Estimate:
        """The time of doing it several times, or of a part of it; the sizes remain."""
        flops, seconds, gemm = (None if n is None else n * times for n in (self.flops, self.seconds, self.gemm))
        return replace(self, flops=flops, seconds=seconds, gemm=gemm)

    def by(self, method: str) -> Estimate:
        """The same with this method, before the one that it has."""
        return replace(self, method=", ".join(filter(None, (method, self.method))))

    def cpu(self, machine: Machine, device: str = "cpu") -> float | None:
        """CPU seconds on a machine, or seconds on its GPU; None if unknown."""
        return self._time(machine, machine.cuda if device == "cuda" else machine.gemm, 1.0)

    def time(self, machine: Machine, device: str = "cpu", threads: int = 0) -> float | None:
        """Seconds from start to end, next to what else runs; None if unknown. `threads`: 0 for one per core."""
        threads = threads or machine.cores
        cpu = machine.gemm * threads * machine.share(threads)
        return self._time(machine, machine.cuda if device == "cuda" else cpu, machine.share(1))

    def _time(self, machine: Machine, rate: float, share: float) -> float | None:
        if self.seconds is None and self.gemm is None:
            return None
        found = (self.seconds or 0.0) * machine.pace / share + ((self.gemm or 0.0) / rate if rate else 0.0)
        limit = self.limit._time(machine, rate, share) if self.limit is not None else None
        return found if limit is None else min(found, max(LEAST / share, limit))


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None and b is None else (a or 0.0) + (b or 0.0)


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

    def kind(self, device: str) -> str:
        """The key of its costs: the class of the task, how the estimate was made, and the kind of device."""
        task = type(self.task)
        return " ".join(filter(None, (f"{task.__module__}.{task.__qualname__}", self.estimate.method, device)))


@dataclass(frozen=True)
class Cost:
    """What an operator will cost on a machine.

    `device`: the kind that it will use. `estimated`, `cpu_seconds`: CPU seconds (on a GPU: seconds) as estimated, and
    corrected by `runs` recent runs. `seconds`: from start to end. All None if unknown.
    """

    device: str
    estimated: float | None = None
    cpu_seconds: float | None = None
    seconds: float | None = None
    runs: int = 0


class Dataflow:
    """A directed acyclic graph of operators. Raises ValueError if two operators produce the same name.

    `options`: of the model, for the device and the threads that they ask for.
    """

    def __init__(self, operators: list[Operator], options: Options | None = None) -> None:
        self.operators = operators
        self._device = options.device if options is not None else "auto"
        self._threads = options.threads if options is not None else 0
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

    def cost(self, operator: Operator, machine: Machine) -> Cost:
        """What an operator will cost on a machine, corrected by recent runs of the same kind."""
        kinds = operator.needs.devices
        device = "cpu" if self._device == "cpu" else machine.device(kinds)
        estimated = operator.estimate.cpu(machine, device)
        seconds = operator.estimate.time(machine, device, min(machine.cores, self._threads))
        if estimated is None or seconds is None:
            return Cost(device)
        factor, runs = machine.costs.factor(operator.kind(device), estimated)
        return Cost(device, estimated, factor * estimated, factor * seconds, runs)

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
        found = [(o, self.cost(o, machine)) for o in self.ordered()]
        rows = [
            {
                "operator": o.name,
                "inputs": list(o.inputs),
                "outputs": list(o.outputs),
                "detail": o.detail,
                "device": cost.device,
                "rows": o.estimate.rows,
                "bytes": o.estimate.bytes,
                "flops": o.estimate.flops,
                "memory": o.estimate.memory,
                "seconds": cost.seconds,
                "cpu_seconds": cost.cpu_seconds,
                "runs": cost.runs,
            }
            for o, cost in found
        ]
        return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)

    def text(self, machine: Machine) -> str:
        """The plan as a tree, with the last operator on top, as databases print it."""
        lines: list[str] = []
        for depth, o in enumerate(reversed(list(self.ordered()))):
            e, cost = o.estimate, self.cost(o, machine)
            seconds = cost.seconds
            figures = [
                f"{e.rows:,} rows" if e.rows is not None else "",
                human_bytes(e.bytes) if e.bytes is not None else "",
                f"{human_count(e.flops)}FLOP" if e.flops else "",
                f"peak {human_bytes(e.memory)}" if e.memory is not None else "",
                ("about " if seconds >= 1 else "") + human_seconds(seconds) if seconds is not None else "",
            ]
            indent = "   " * depth
            head = f"{indent}{'└─ ' if depth else ''}{o.name}"
            lines.append(f"{head}  {o.detail}".rstrip())
            costs = ", ".join(figure for figure in figures if figure)
            if costs:
                lines.append(f"{indent}{'   ' if depth else ''}  ({costs}; {cost.device})")
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
        ("cpu_seconds", pa.float64()),
        ("runs", pa.int64()),
    ]
)
