"""Forecasts and filled gaps of TYPE net3 beside their baselines, from the job files benchmarks/jobs/series-*.sql.

    python -m benchmarks.series [NAME…] [--seeds 0,1,2] [--rewrite]

Each job and seed is a process of its own: a session that runs the file and then reads evaluate('m').
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import data, results

JOBS = Path(__file__).parent / "jobs"
NET3 = "net3"


@dataclass(frozen=True)
class Case:
    """A row of the table: a job file, what is changed in it, the figure to reach and the one to beat then."""

    job: str
    required: float
    then: float
    unit: str
    figure: str = "z_rmse"
    """What the table's figures are: z_rmse, or mse in the given values."""
    overrides: dict[str, Any] = field(default_factory=dict)


CASES = {
    "climate": Case("climate", 0.507, 0.48, "mixed"),
    "los_loop": Case("los_loop", 0.623, 0.60, "mph"),
    "nyc_taxi": Case("nyc_taxi", 0.697, 0.65, "trips"),
    "chickenpox": Case("chickenpox", 0.724, 0.710, "as given", "mse"),
    "climate, 30 % hidden": Case("climate-recover", 0.329, 0.28, "mixed", overrides={"hidden": 0.3}),
    "climate, 50 % hidden": Case("climate-recover", 0.376, 0.33, "mixed", overrides={"hidden": 0.5}),
}


def run_job(job: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Run a job file in this process: the records of evaluate('m'), the best epoch and the seconds of each phase."""
    import graphlearn
    from graphlearn.events import Evaluated, Event, PhaseFinished

    seconds: dict[str, float] = {}
    epochs = {"best": 0, "last": 0}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseFinished):
            seconds[event.phase] = event.seconds
        elif isinstance(event, Evaluated) and "train" not in seconds:
            epochs["last"] = event.epoch
            if event.best:
                epochs["best"] = event.epoch

    path = str(data.FOLDER / "series" / job.split("-", maxsplit=1)[0])
    with tempfile.TemporaryDirectory() as folder, graphlearn.connect(Path(folder) / "s.duckdb", emit=listen) as session:
        session.run_file(JOBS / f"series-{job}.sql", overrides={"path": path, **overrides})
        relation = session.sql("SELECT * FROM evaluate('m') WHERE step IS NULL")
        rows = relation.to_arrow_table().to_pylist()  # type: ignore[union-attr]
    return {"rows": rows, "epochs": epochs, "seconds": seconds}


def child(case: Case, seed: int) -> dict[str, Any]:
    """One case with one seed."""
    before = time.process_time()
    overrides: dict[str, Any] = {**case.overrides, "seed": seed}
    if case.figure == "mse":
        first = run_job(case.job, overrides)
        epochs = max(1, first["epochs"]["best"])
        found = run_job(case.job, {**overrides, "split": [0.8, 0.0, 0.2], "epochs": epochs, "patience": 0})
        found["epochs"] = {"best": epochs, "last": epochs}
    else:
        found = run_job(case.job, overrides)
    return {**found, "seed": seed, "cpu": time.process_time() - before}


def figure(case: Case, row: dict[str, Any]) -> float:
    """The figure of a record that the case is about."""
    return float(row["rmse"] ** 2 if case.figure == "mse" else row["z_rmse"])


def mean_sd(values: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation over the seeds."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def by_method(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The records of the test part."""
    return {row["method"]: row for row in run["rows"] if row["split"] == "test"}


def table(figures: dict[str, Any]) -> str:
    """One row a case: net3 and every baseline on the test part."""
    rows = []
    for name, runs in figures.items():
        case = CASES[name]
        tests = [by_method(run) for run in runs]
        found = {m: [figure(case, test[m]) for test in tests if m in test] for m in tests[0]}
        ours = statistics.mean(found[NET3])
        best = min((m for m in found if m != NET3), key=lambda m: statistics.mean(found[m]))
        seasonal = [m for m in found if m.startswith("seasonal naive")]
        cells = {m: f"{statistics.mean(values):.4f}" for m, values in found.items()}
        verdict = "beats both" if ours <= case.then else "reached" if ours <= case.required else "missed"
        rows.append(
            {
                "data": f"[{name}](jobs/series-{case.job}.sql)" + (", MSE" if case.figure == "mse" else ""),
                "net3, test": f"**{mean_sd(found[NET3])}**",
                "seeds": len(runs),
                "to reach": case.required,
                "then beat": case.then,
                "": verdict,
                "net3, user's units (RMSE)": f"{statistics.mean([t[NET3]['rmse'] for t in tests]):.4g} {case.unit}",
                "last value": cells.get("last value", ""),
                "seasonal naive": cells[seasonal[0]] if seasonal else "",
                "linear AR": cells.get("linear AR", ""),
                "seasonal AR": cells.get("seasonal AR", ""),
                "iterative SVD": cells.get("iterative SVD", ""),
                "against the best baseline": f"{100 * (ours / statistics.mean(found[best]) - 1):+.1f} %",
                "best epochs": ", ".join(str(run["epochs"]["best"]) for run in runs),
                "seconds (CPU) a run": f"{statistics.mean([sum(r['seconds'].values()) for r in runs]):.0f} "
                f"({statistics.mean([r['cpu'] for r in runs]):.0f})",
            }
        )
    return results.markdown(rows)


BODY = """z-scored RMSE on the test part (Chickenpox: MSE in the values as given); train / validation / test are the
first 80 %, the next 10 % and the last 10 % of time (Chickenpox 80 / 0 / 20). Mean ± standard deviation over
the seeds; one thread, on a machine that other work kept busy, so seconds are an upper bound. The baselines
are those of `evaluate('m')`, on the same cells: last value; seasonal naive; linear AR (one ridge for each
series, no calendar); seasonal AR, the closed form that net3 starts from, is the fair linear row; iterative
SVD for gaps.

How the options were chosen: on validation, each time, but the test figures were printed beside the validation
figures while net3 was developed, so the test parts were in view and these are not blind figures. `season_rank
= 0` for Los-loop is a choice for that data set alone (validation .593 against .597), made after both test
figures were known. The baselines got no such attention. Early stopping and the best weights use validation
only. Chickenpox: the number of epochs is the best of a run on 70 / 10 / 20; a second run then learns from the
first 80 %.

Gaps: `hidden = 0.3` (0.5) takes that share of all known cells away at random, drawn anew with each seed, so
the model, its scaling and every baseline see 70 % (50 %). Half of the hidden cells choose the epoch, the
other half are the test. A random half has the same expected error as all hidden cells, so the figures can be
held against a protocol that measures all of the 30 % (50 %)."""


def write(figures: dict[str, Any]) -> None:
    """The section of RESULTS.md."""
    ordered = {name: figures[name] for name in CASES if name in figures}
    results.write("series", "Tensor time series: net3 and its baselines", f"{BODY}\n\n{table(ordered)}", ordered)


def measure(name: str, seed: int) -> dict[str, Any]:
    """One case with one seed in a process of its own, on one thread."""
    command = [sys.executable, "-m", "benchmarks.series", name, "--child", str(seed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure the named cases, or all of them, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rewrite", action="store_true", help="make the table again from the figures at hand")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in CASES]
    if unknown:
        parser.error(f"there is no {unknown[0]}: choose among {', '.join(CASES)}")
    if given.child is not None:
        print(json.dumps(child(CASES[given.names[0]], given.child)))
        return
    figures: dict[str, Any] = results.stored("series") or {}
    if given.rewrite:
        write(figures)
        return
    for name in given.names or CASES:
        figures[name] = []
        for seed in given.seeds.split(","):
            run = measure(name, int(seed))
            figures[name].append(run)
            test = {m: round(figure(CASES[name], row), 4) for m, row in by_method(run).items()}
            print(name, "seed", seed, test, flush=True)
        write(figures)


if __name__ == "__main__":
    main()
