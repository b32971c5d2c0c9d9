"""Write docs/options.md from the option dataclasses, so that the page cannot differ from the code.

python docs/make_options.py
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from graphlearn.jobs.families import FAMILIES, family
from graphlearn.models.core.options import Options
from graphlearn.models.kge.options import KgeOptions

TARGET = Path(__file__).parent / "options.md"


def meanings(kind: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass and of those it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def defaults(kind: type[Any]) -> dict[str, Any]:
    """Default of each field, those of the training loop last."""
    loop = {field.name for field in fields(Options)}
    found = {}
    for field in sorted(fields(kind), key=lambda field: field.name in loop):
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        if made is not MISSING:
            found[field.name] = made
    return found


def sql(value: Any) -> str:
    """A Python default as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(sql, value))}]"
    return f"'{value}'" if isinstance(value, str) else str(value)


def cell(text: str) -> str:
    """Text that can stand in a table."""
    return text.replace("|", "\\|")


def written(annotation: str) -> str:
    """A type as a reader of SQL would call it."""
    plain = annotation.removesuffix(" | None")
    if plain.startswith("Literal["):
        return f"one of {plain[8:-1]}"
    if plain.startswith("tuple["):
        return f"list of {plain[6:].split(',')[0]}"
    return "struct" if plain.startswith("dict[") else plain


def table(kind: type[Any]) -> list[str]:
    """Every option of a dataclass, a row each."""
    told = meanings(kind)
    types = {field.name: written(str(field.type)) for field in fields(kind)}
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{n}` | {cell(types[n])} | `{sql(d)}` | {cell(told[n])} |" for n, d in defaults(kind).items()]
    return rows


def page() -> str:
    """The whole page."""
    shared = defaults(KgeOptions)
    lines = [
        "# Options of models",
        "",
        "Written by `python docs/make_options.py` from the option dataclasses in `models/` and `jobs/`. Values in a",
        "job are constant SQL expressions, e.g. `OPTIONS (dim = 400, learning_rate = 1 / 20, loss = 'softmax')`.",
        "",
        "## Knowledge-graph embeddings: all types",
        "",
        *table(KgeOptions),
        "",
        "## Knowledge-graph embeddings: what each type adds or changes",
        "",
        "| TYPE | differs in |",
        "|---|---|",
    ]
    others = []
    for name in FAMILIES:
        kind = family(name).options_type
        if not issubclass(kind, KgeOptions):
            others += ["", f"## TYPE {name}", "", *table(kind)]
            continue
        own = meanings(kind)
        changed = []
        for option, value in defaults(kind).items():
            if option not in shared:
                changed.append(f"`{option}` (default `{sql(value)}`): {own[option]}")
            elif shared[option] != value:
                changed.append(f"`{option} = {sql(value)}`")
        lines.append(f"| `{name}` | {cell('; '.join(changed))} |")
    return "\n".join([*lines, *others]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page())
