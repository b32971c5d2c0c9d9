"""Options of TYPE net3: those of the model and its training, and where the series comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from graphlearn.errors import InputError, OptionError, did_you_mean
from graphlearn.models.net3.options import Net3Options
from graphlearn.storage.columns import find_column

BUILT_GRAPHS = ("pearson", "chain", "identity")

_NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "UTINYINT",
    "USMALLINT",
)
_REAL = ("FLOAT", "DOUBLE")
_TIMES = ("DATE", "TIMESTAMP")


@dataclass(frozen=True, kw_only=True)
class Net3JobOptions(Net3Options):
    """Options of NET3 as a job."""

    time: str | None = None
    """Column of the time stamps: a date, a timestamp or a whole number. NULL: the only column of a temporal type."""
    value: str | None = None
    """Column of the readings. NULL: the column named value, or the only number that is not a time."""
    modes: tuple[str, ...] | None = None
    """Key columns; each is a mode of the tensor, and one entry of each identifies a series. NULL: all other columns."""
    freq: str | int | None = None
    """Time between steps: an INTERVAL, or a whole number for whole-number times. NULL: the most common distance."""
    aggregate: Literal["mean", "sum", "last", "min", "max", "count"] = "mean"
    """How several readings of a series in one step are merged."""
    start: str | None = None
    """First time step, as text; earlier readings are dropped. NULL: the first reading."""
    graphs: dict[str, str] = field(default_factory=dict)
    """Graphs generated for modes without an edge table, e.g. {'variable': 'pearson'}. pearson: correlation over the
    train split. chain: neighbours in key order. identity: no neighbours."""
    neighbours: int = 10
    """pearson: edges per entry, to those it correlates with most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "neighbours")
        if "pearson" not in self.graphs.values():
            self.refuse(["neighbours"], "without a graph of kind pearson", "leave it out, or name a mode in graphs")
            if self.task == "recover":  # only the graph is built from the train split
                self.refuse(["split"], "with task = 'recover'", "leave it out; hidden is the share of cells held out")
        for mode, kind in self.graphs.items():
            if kind not in BUILT_GRAPHS:
                raise OptionError(
                    f"graphs has no kind {kind!r} (for {mode})",
                    key="graphs",
                    help=f"choose one of {', '.join(BUILT_GRAPHS)}, or give edges: {mode} AS (SELECT source, …)",
                )


def model_options(options: Net3JobOptions) -> Net3Options:
    """The options that the model and its training read."""
    return Net3Options(**{f.name: getattr(options, f.name) for f in fields(Net3Options)})


def resolve_columns(columns: dict[str, str], options: Net3JobOptions) -> tuple[str, list[str], str]:
    """(time, modes, value) of the series: the columns that the options name, and otherwise the only candidates.

    They are spelled as in the query; options name columns case-insensitively, as SQL does. Raises OptionError for an
    option that names no column, InputError when it is not clear which column is which.
    """
    given = [("time", options.time), ("value", options.value), *(("modes", name) for name in options.modes or ())]
    named = [name for _, name in given]
    for key, name in given:
        if name is not None and find_column(columns, name.lower()) is None:
            raise OptionError(
                f'{key} names "{name}", which the query lacks (its columns: {", ".join(columns)})',
                key=key,
                help=did_you_mean(name, list(columns)),
            )
    free = [c for c in columns if all(n is None or c.lower() != n.lower() for n in named)]
    time = options.time or _only(
        [c for c in free if columns[c].startswith(_TIMES)], "time", "a date or timestamp", columns
    )
    free = [c for c in free if c.lower() != time.lower()]
    if options.value is None:
        numbers = [c for c in free if columns[c].split("(")[0] in _NUMBERS]
        called = [c for c in numbers if c.lower() == "value"]
        real = [c for c in numbers if columns[c].split("(")[0] in ("FLOAT", "DOUBLE", "DECIMAL")]
        value = _only(called or (real if len(real) == 1 else numbers), "value", "a number", columns)
    else:
        value = options.value
    spelled = {name.lower(): name for name in columns}
    time, value = spelled[time.lower()], spelled[value.lower()]
    if options.modes is not None:
        return time, [spelled[name.lower()] for name in options.modes], value
    rest = [c for c in free if c.lower() != value.lower()]
    for column in rest:
        if columns[column] in _REAL:
            raise InputError(
                f"{column} is {columns[column]}: a second value, or a key?",
                role="series",
                help=f"leave it out of the query, or name it in modes = ['{column}', …]",
            )
    return time, rest, value


def _only(found: list[str], what: str, kind: str, columns: dict[str, str]) -> str:
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
    if found:
        several = f"several columns could be the {what}: {', '.join(found)}"
        wide = "; turn one column per series into rows with UNPIVOT" if what == "value" and len(found) > 2 else ""
        raise InputError(f"{several} (there is {there})", role="series", help=f"name it: {what} = 'column'{wide}")
    called = next((name for name in columns if name.lower() == what), "column")
    cast = {"value": "DOUBLE", "time": "TIMESTAMP"}[what]
    number = f", or name a whole number: {what} = 'column'" if what == "time" else ""
    raise InputError(
        f"no column of the series is {kind} (there is {there})",
        role="series",
        help=f"cast it, e.g. {called}::{cast} AS {called}{number}",
    )


def check_modes(options: Net3JobOptions, modes: list[str], roles: list[str]) -> None:
    """Raise InputError, OptionError for the graph of a mode that the series does not have, and for two of one mode."""
    known = {mode.lower() for mode in modes}
    for role in roles:
        if role.lower() not in known:
            raise InputError(
                f"{role} is neither series nor a mode of the series ({', '.join(modes) or 'it has none'})",
                role=role,
                help=did_you_mean(role, ["series", *modes]),
            )
    seen: set[str] = set()
    for mode in options.graphs:
        if mode.lower() not in known:
            help = did_you_mean(mode, modes) if modes else "leave it out: the series has no modes"
            raise OptionError(f"graphs names {mode}, which is not a mode", key="graphs", help=help)
        if mode.lower() in seen:
            raise OptionError(f"graphs names {mode} twice", key="graphs", help="a mode has one graph")
        seen.add(mode.lower())
        if mode.lower() in [role.lower() for role in roles]:
            raise OptionError(
                f"{mode} has an edge table and a graph in graphs", key="graphs", help="leave one of the two out"
            )
