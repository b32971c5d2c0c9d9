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
from graphlearn.models.options import KgeOptions

TARGET = Path(__file__).parent / "options.md"


def meanings(kind: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
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
    """Default of each field."""
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


def sql(value: Any) -> str:
    """A Python default as SQL."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def page() -> str:
    """The whole page."""
    shared, told = defaults(KgeOptions), meanings(KgeOptions)
    types = {f.name: str(f.type).replace("Literal[", "one of ").removesuffix("]") for f in fields(KgeOptions)}
    lines = [
        "# Options of knowledge-graph embeddings",
        "",
        "Written by `python docs/make_options.py` from the option dataclasses in `models/`. Values in a job are",
        "constant SQL expressions, e.g. `OPTIONS (dim = 400, learning_rate = 1 / 20, loss = 'softmax')`.",
        "",
        "## For all models",
        "",
        "| option | type | default | meaning |",
        "|---|---|---|---|",
    ]
    cell = lambda text: text.replace("|", "\\|")  # noqa: E731
    lines += [f"| `{n}` | {cell(types[n])} | `{sql(d)}` | {cell(told.get(n, ''))} |" for n, d in shared.items()]
    lines += ["", "## What each model adds or changes", "", "| TYPE | differs in |", "|---|---|"]
    for name in FAMILIES:
        kind = family(name).options_type
        own = meanings(kind)
        changed = []
        for option, value in defaults(kind).items():
            if option not in shared:
                changed.append(f"`{option}` (default `{sql(value)}`): {own.get(option, '')}")
            elif shared[option] != value:
                changed.append(f"`{option} = {sql(value)}`")
        lines.append(f"| `{name}` | {cell('; '.join(changed))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page())
