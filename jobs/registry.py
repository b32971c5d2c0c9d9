"""The model families by TYPE name.

They are built in, provided by installed packages through the entry point group `graphlearn.families`, or registered by
the running program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from graphlearn.errors import UserError, did_you_mean
from graphlearn.jobs.family import Family, TableFunction

BUILT_IN = (
    "graphlearn.jobs.kge.family:KgeFamily",
    "graphlearn.jobs.net3.family:Net3Family",
    "graphlearn.jobs.dhan.family:DhanFamily",
)
ENTRY_POINTS = "graphlearn.families"

_registered: list[type[Family]] = []


@cache
def _installed() -> tuple[type[Family], ...]:
    ours = [path.partition(":") for path in BUILT_IN]
    found = [getattr(import_module(module), name) for module, _, name in ours]
    return (*found, *(kind for entry in _offered() if isinstance(kind := _load(entry), type)))


@cache
def _offered() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


@cache
def _load(entry: EntryPoint) -> type[Family] | UserError:
    """The family of an entry point, or the error to raise for those who ask for it: others are not affected."""
    package = entry.dist.name if entry.dist else entry.module
    what = f"the model family {entry.name} of package {package} cannot be used"
    try:
        kind = entry.load()
    except Exception as error:
        return UserError(f"{what}: {type(error).__name__}: {error}", help="upgrade the package, or uninstall it")
    if not (isinstance(kind, type) and issubclass(kind, Family)):
        return UserError(f"{what}: {entry.value} is not a Family", help="upgrade the package, or uninstall it")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        lacks = " and ".join(missing)
        return UserError(f"{what}: it does not define {lacks}", help="upgrade the package, or uninstall it")
    return kind


def broken() -> dict[str, UserError]:
    """Installed families that cannot be used, by the name of their entry point, and why."""
    return {entry.name: error for entry in _offered() if isinstance(error := _load(entry), UserError)}


def families() -> list[type[Family]]:
    """All families, the built-in ones first."""
    return [*_installed(), *_registered]


def measured_by(column: str, *, counts: bool) -> list[str]:
    """The TYPE names of the families with a metric, or one of the `counts`, of this name."""
    key = column.lower()
    return [
        name
        for kind in families()
        if key in {metric.name for metric in kind.metrics} | {count.column for count in kind.counts if counts}
        for name in kind.names
    ]


def names() -> list[str]:
    """All TYPE names."""
    return [name for kind in families() for name in kind.names]


def table_functions() -> dict[str, TableFunction]:
    """All table functions by name; if several families define one, that of the first family."""
    return {name: function for kind in reversed(families()) for name, function in kind.functions.items()}


def takes_keys(function: str) -> bool:
    """Whether the function of some family takes a key or a list of keys in place of a relation."""
    return any(function in kind.functions and kind.functions[function].keys for kind in families())


def is_family(name: str) -> bool:
    """Whether there is a family with this name (case-insensitive)."""
    return name.lower() in names()


def family(name: str) -> Family:
    """The family with this name (case-insensitive). Raises UserError that suggests similar names."""
    key = name.lower()
    for kind in families():
        if key in kind.names:
            return _made(kind, key)
    if (error := broken().get(key)) is not None:
        raise UserError(error.message, help=error.help)
    raise UserError(f'there is no model type "{name}"', help=did_you_mean(name, names()))


def package_of(name: str) -> str:
    """The package that provides the family of this TYPE name."""
    kind = type(family(name))
    entry = next((entry for entry in _offered() if _load(entry) is kind), None)
    return entry.dist.name if entry is not None and entry.dist is not None else kind.__module__.partition(".")[0]


@cache
def _made(kind: type[Family], name: str) -> Family:
    return kind(name)


@contextmanager
def registered(kind: type[Family]) -> Iterator[None]:
    """Register a family inside the block. (A package registers its families through entry points.)"""
    _registered.append(kind)
    try:
        yield
    finally:
        _registered.remove(kind)
