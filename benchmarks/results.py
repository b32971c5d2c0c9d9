"""The sections of RESULTS.md, each written by the script that measures it, and their raw figures as JSON."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
RAW = HERE / "raw"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Records as a Markdown table with the columns of the first record."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def write(section: str, title: str, body: str, raw: Any) -> None:
    """Replace a section of RESULTS.md, between its markers, and store its raw figures."""
    from benchmarks.machine import describe

    command = "python -m " + " ".join(["benchmarks." + Path(sys.argv[0]).stem, *sys.argv[1:]])
    begin, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    text = f"{begin}\n## {title}\n\n`{command}`  \n{describe()}\n\n{body}\n{end}"
    old = (
        RESULTS.read_text()
        if RESULTS.exists()
        else "# Benchmark results\n\nEach section is written by the script that it names.\n"
    )
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    new = pattern.sub(lambda _: text, old) if pattern.search(old) else f"{old.rstrip()}\n\n{text}\n"
    RESULTS.write_text(new)
    RAW.mkdir(exist_ok=True)
    (RAW / f"{section}.json").write_text(json.dumps(raw, indent=1, default=str) + "\n")


def stored(section: str) -> Any:
    """Raw figures of a section from an earlier run, or None."""
    path = RAW / f"{section}.json"
    return json.loads(path.read_text()) if path.exists() else None
