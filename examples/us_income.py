"""Write the income per capita of the 48 contiguous US states from 1929 to 2009, and their borders, as Parquet.

    pip install --no-deps libpysal          (or pip install '.[examples]', which includes libpysal's dependencies)
    python examples/us_income.py build/us_income
    graphlearn run examples/us_income.sql --workspace build/us_income.duckdb

The figures are from the Bureau of Economic Analysis, in current dollars, and are among libpysal's example data. The
package is not imported; only its files are read. Two files are written: income.parquet (year, state, income) and
borders.parquet (source, target).
"""

from __future__ import annotations

import argparse
import csv
from importlib.util import find_spec
from pathlib import Path


def shipped() -> Path | None:
    """The data folder of the installed package; None if it is not installed."""
    spec = find_spec("libpysal")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "examples" / "us_income"
        if (folder / "usjoin.csv").exists():
            return folder
    return None


def read_income(path: Path) -> tuple[list[str], list[tuple[int, str, float]]]:
    """The states in file order, and rows of (year, state, income) by year and state."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    years = sorted(name for name in rows[0] if name.isdigit())
    return [row["Name"] for row in rows], [(int(year), row["Name"], float(row[year])) for year in years for row in rows]


def read_borders(path: Path, states: list[str]) -> list[tuple[str, str]]:
    """Pairs of adjacent states from a GAL file: number of nodes, then per node `node count` and its neighbours."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if int(lines[0][-1] if len(lines[0]) == 1 else lines[0][1]) != len(states):
        raise SystemExit(f"{path} does not have {len(states)} states")
    pairs = []
    for (node, count), neighbours in zip(lines[1::2], lines[2::2], strict=True):
        if int(count) != len(neighbours):
            raise SystemExit(f"{path}: {node} has {count} neighbours, but {len(neighbours)} follow")
        pairs += [(states[int(node)], states[int(neighbour)]) for neighbour in neighbours]
    return pairs


def main() -> int:
    """Read the package's files, write Parquet and print a summary."""
    parser = argparse.ArgumentParser(description="Write the income per capita of US states and their borders.")
    parser.add_argument("output", type=Path, help="the folder for income.parquet and borders.parquet")
    parser.add_argument("--data", type=Path, help="a folder with usjoin.csv and states48.gal, in place of libpysal's")
    arguments = parser.parse_args()

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder: Path | None = arguments.data or shipped()
    if folder is None:
        parser.error("libpysal is not installed: pip install --no-deps libpysal")
    states, income = read_income(folder / "usjoin.csv")
    borders = read_borders(folder / "states48.gal", states)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, columns, rows in (
        ("income", ("year", "state", "income"), income),
        ("borders", ("source", "target"), borders),
    ):
        table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
        pq.write_table(table, arguments.output / f"{name}.parquet", compression="zstd")
    years = sorted({year for year, *_ in income})
    print(
        f"{len(states)} states, {years[0]} to {years[-1]}: {len(income):,} readings, {len(borders)} borders "
        f"(each in both directions) -> {arguments.output}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
