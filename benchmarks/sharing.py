"""CPU time of training next to another program, by how idle OpenMP threads wait.

    python -m benchmarks.sharing [--rounds N] [--jobs acm,climate]

Each run is a process of its own. The settings take turns, first on an idle machine, then next to one process that is
always busy. "GNU OpenMP" is how threads wait without GraphLearn: they look for work 300,000 times before they sleep.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.data import FOLDER

WAITS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "GNU OpenMP": {"GOMP_SPINCOUNT": "300000"},
}
ACM, CLIMATE = FOLDER.resolve() / "hetero" / "acm", FOLDER.resolve() / "series" / "climate"
JOBS = {
    "acm": f"""TYPE dhan OPTIONS (target = 'subject_area', epochs = 8, patience = 0, baselines = false)
        AS (paper AS (SELECT paper AS id, words, subject_area, split_20 AS split FROM '{ACM}/paper.parquet'),
            author AS (SELECT author AS id, words FROM '{ACM}/author.parquet'),
            writes AS (SELECT author AS source, paper AS target FROM '{ACM}/writes.parquet'),
            subject AS (SELECT paper AS source, subject AS hub FROM '{ACM}/about.parquet'))""",
    "climate": f"""TYPE net3 OPTIONS (modes = ['site', 'variable'], freq = INTERVAL 1 MONTH,
                     graphs = {{'variable': 'pearson'}}, epochs = 30, patience = 0, baselines = false)
        AS (series AS (SELECT ts, site, variable, value FROM '{CLIMATE}/readings.parquet'),
            site AS (SELECT source, target, weight FROM '{CLIMATE}/site_graph.parquet'))""",
}


def run(job: str, wait: str) -> tuple[float, float]:
    """Wall and CPU seconds of `graphlearn run` with the job."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sql"
        path.write_text(f"CREATE MODEL m {JOBS[job]};")
        started = time.perf_counter()
        process = subprocess.Popen(
            [Path(sys.executable).with_name("graphlearn"), "run", "-q", path],
            cwd=folder,
            env=clean | WAITS[wait],
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{job} failed")
        return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


@contextmanager
def other_program(busy: bool) -> Iterator[None]:
    """Keep one processor busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated names")
    given = parser.parse_args()
    raw: list[dict[str, Any]] = []
    for job in given.jobs.split(","):
        for busy in (False, True):
            with other_program(busy):
                for turn in range(given.rounds):
                    for wait in WAITS:
                        wall, cpu = run(job, wait)
                        raw.append({"job": job, "busy": busy, "turn": turn, "wait": wait, "wall": wall, "cpu": cpu})
                        print(raw[-1], flush=True)
    rows = []
    for job in given.jobs.split(","):
        for wait in WAITS:
            row = {"job": job, "waiting": wait}
            for busy, title in ((False, "alone"), (True, "next to a busy process")):
                found = [r for r in raw if (r["job"], r["busy"], r["wait"]) == (job, busy, wait)]
                for what in ("wall", "cpu"):
                    times = [r[what] for r in found]
                    row[f"{title}: {what} s"] = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
            rows.append(row)
    body = (
        f"Medians of {given.rounds} runs that took turns, from start to end of the process, with the range. "
        "acm: dhan, 8 epochs; climate: net3, 30 epochs.\n\n"
    )
    results.write("sharing", "Training next to another program", body + results.markdown(rows), raw)


if __name__ == "__main__":
    main()
