"""Estimates of EXPLAIN against measurements: eight jobs of all families, first without and then with past runs.

    python -m benchmarks.estimates [--jobs umls,acm] [--once]

Each run is a process of its own, as `graphlearn run` is, with an empty cache folder before the first one. CPU seconds
are compared, since the time from start to end depends on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import results
from benchmarks.data import FOLDER
from graphlearn import connect
from graphlearn.events import Event, PhaseFinished

LARGE = 1.0
"""CPU seconds from which an operator is listed."""
FACTOR = 2.0
KG, SERIES, GRAPHS = FOLDER / "kg", FOLDER / "series", FOLDER / "hetero"
IMDB_MOVIES = (
    f"SELECT movie AS id, regexp_extract_all(plot_keywords, '\\w+') AS words FROM '{GRAPHS}/imdb/movie.parquet'"
)
JOBS = {
    "umls": f"""TYPE complex OPTIONS (dim = 200, epochs = 60, negatives = 0, batch_size = 200, patience = 0)
        AS FROM '{KG}/umls.parquet'""",
    "fb15k-237": f"""TYPE complex OPTIONS (dim = 100, epochs = 4, patience = 0) AS FROM '{KG}/fb15k-237.parquet'""",
    "wn18rr": f"""TYPE rotate OPTIONS (dim = 100, epochs = 5, negatives = 64, patience = 0)
        AS FROM '{KG}/wn18rr.parquet'""",
    "chickenpox": f"""TYPE net3 OPTIONS (modes = ['place'], freq = INTERVAL 7 DAY, window = 4)
        AS (series AS (SELECT ts, place, value FROM '{SERIES}/chickenpox/readings.parquet'),
            place AS (FROM '{SERIES}/chickenpox/graph.parquet'))""",
    "los_loop": f"""TYPE net3 OPTIONS (modes = ['sensor'], freq = INTERVAL 5 MINUTE, window = 12, horizon = 3,
                      epochs = 4)
        AS (series AS (SELECT ts, sensor, speed FROM '{SERIES}/los_loop/speed.parquet'),
            sensor AS (FROM '{SERIES}/los_loop/road.parquet'))""",
    "climate": f"""TYPE net3 OPTIONS (task = 'recover', modes = ['site', 'variable'], freq = INTERVAL 1 MONTH,
                      hidden = 0.3, window = 1, graphs = {{'variable': 'pearson'}}, epochs = 4)
        AS (series AS (SELECT ts, site, variable, value FROM '{SERIES}/climate/readings.parquet'),
            site AS (FROM '{SERIES}/climate/site_graph.parquet'))""",
    "acm": f"""TYPE dhan OPTIONS (target = 'subject_area')
        AS (paper AS (SELECT paper AS id, words, subject_area, split_20 AS split FROM '{GRAPHS}/acm/paper.parquet'),
            author AS (SELECT author AS id, words FROM '{GRAPHS}/acm/author.parquet'),
            writes AS (SELECT author AS source, paper AS target FROM '{GRAPHS}/acm/writes.parquet'),
            subject AS (SELECT paper AS source, subject AS hub FROM '{GRAPHS}/acm/about.parquet'))""",
    "imdb links": f"""TYPE dhan OPTIONS (target = 'plays', embeddings = ['actor'], epochs = 20)
        AS (movie AS ({IMDB_MOVIES}), actor AS (SELECT DISTINCT actor AS id FROM '{GRAPHS}/imdb/plays.parquet'),
            plays AS (SELECT movie AS source, actor AS target FROM '{GRAPHS}/imdb/plays.parquet'),
            director AS (SELECT movie AS source, director AS hub FROM '{GRAPHS}/imdb/directs.parquet'))""",
}


def measure(job: str) -> dict[str, Any]:
    """Plan and run a job; estimated and measured seconds by operator."""
    seen: dict[str, PhaseFinished] = {}

    def note(event: Event) -> None:
        if isinstance(event, PhaseFinished):
            seen[event.phase] = event

    with connect(emit=note) as session:
        plan = session.sql(f"EXPLAIN CREATE MODEL m {JOBS[job]}")
        assert not isinstance(plan, str)
        rows = [dict(zip(plan.columns, row, strict=True)) for row in plan.fetchall()]  # type: ignore[union-attr]
        session.sql(f"CREATE MODEL m {JOBS[job]}")
    return {
        row["operator"]: {
            "estimated": row["cpu_seconds"],
            "measured": seen[row["operator"]].cpu_seconds,
            "estimated_wall": row["seconds"],
            "measured_wall": seen[row["operator"]].seconds,
            "runs": row["runs"],
        }
        for row in rows
    }


def in_process(job: str, cache: str) -> dict[str, Any]:
    """`measure` in a new process with this cache folder."""
    command = [sys.executable, "-m", "benchmarks.estimates", "--measure", job]
    done = subprocess.run(
        command, env={**os.environ, "XDG_CACHE_HOME": cache}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def total(run: dict[str, Any]) -> dict[str, float]:
    """The sums over all operators."""
    names = ("estimated", "measured", "estimated_wall", "measured_wall")
    return {name: sum(operator[name] or 0.0 for operator in run.values()) for name in names}


def lines(job: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a job: its operators that take long or were expected to, and the total."""
    out = []
    for name in ("total", *runs[0]):
        found = [total(run) if name == "total" else run[name] for run in runs]
        if name != "total" and max(found[0]["estimated"], found[0]["measured"]) < LARGE:
            continue
        row: dict[str, Any] = {"job": job, "operator": name}
        for when, run in zip(("first run", "second run"), found, strict=False):
            row[f"{when}: estimated"] = f"{run['estimated']:.1f}"
            row[f"{when}: measured"] = f"{run['measured']:.1f}"
            row[f"{when}: ratio"] = f"{run['estimated'] / run['measured']:.2f}"
            row[f"{when}: wall"] = f"{run['estimated_wall']:.1f} / {run['measured_wall']:.1f}"
        out.append(row)
        print("  ".join(f"{value:>10}" for value in row.values()), flush=True)
    return out


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated names")
    parser.add_argument("--once", action="store_true", help="leave out the second run")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    raw: dict[str, list[dict[str, Any]]] = {}
    table: list[dict[str, Any]] = []
    for job in given.jobs.split(","):
        if not FOLDER.exists():
            raise SystemExit(f"{FOLDER} does not exist; set GRAPHLEARN_DATA to the folder of the data sets")
        with tempfile.TemporaryDirectory() as cache:
            raw[job] = [in_process(job, cache) for _ in range(1 if given.once else 2)]
        table += lines(job, raw[job])
    ratios = [total(runs[0])["estimated"] / total(runs[0])["measured"] for runs in raw.values()]
    good = sum(1 / FACTOR <= ratio <= FACTOR for ratio in ratios)
    body = (
        f"CPU seconds of each operator that takes at least {LARGE:.0f} s. Without past runs, the estimate of\n"
        f"{good} of {len(ratios)} jobs is within a factor of {FACTOR:.0f}. The second run of the same job, in a new\n"
        "process, has the measurements of the first one. Ratio: estimated / measured. Wall: the same two, next to\n"
        "what else ran."
    )
    if not given.once and set(raw) == set(JOBS):
        results.write("estimates", "Estimates of EXPLAIN", f"{body}\n\n{results.markdown(table)}", raw)
    else:
        print(body)


if __name__ == "__main__":
    main()
