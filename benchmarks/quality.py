"""Filtered test MRR of every job file in benchmarks/jobs, each trained from scratch in a separate process.

    python -m benchmarks.quality [NAME…] [--rewrite]

Options were chosen on validation MRR only. `--rewrite` regenerates the table from the stored figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import data, results

JOBS = Path(__file__).parent / "jobs"
ANCHORS = {  # LibKGE's published figure, and the figure to reach
    ("fb15k-237", "transe"): (0.313, 0.305),
    ("fb15k-237", "distmult"): (0.343, 0.335),
    ("fb15k-237", "complex"): (0.348, 0.345),
    ("fb15k-237", "rotate"): (0.333, 0.330),
    ("fb15k-237", "rescal"): (0.356, 0.345),
    ("wn18rr", "transe"): (0.228, 0.22),
    ("wn18rr", "distmult"): (0.452, 0.44),
    ("wn18rr", "complex"): (0.475, 0.47),
    ("wn18rr", "rotate"): (0.478, 0.47),
    ("wn18rr", "rescal"): (0.467, 0.455),
    ("codex-s", "complex"): (0.465, 0.46),
}


def child(job: Path) -> None:
    """Run one job file in this process and print its figures."""
    import graphlearn
    from graphlearn.events import Event, JobFinished, PhaseFinished, Step

    dataset, model = split_name(job.stem)
    phases: dict[str, float] = {}
    last: dict[str, Any] = {}
    cpu: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseFinished):
            phases[event.phase] = event.seconds
            cpu[event.phase] = time.process_time()
        elif isinstance(event, Step) and event.epoch_done:
            last.update(epoch=event.epoch, loss=event.loss)
            print(
                f"{job.stem} epoch {event.epoch} loss {event.loss:.4f} "
                f"{event.examples_per_second / 1e3:.0f} k {event.unit}/s",
                file=sys.stderr,
                flush=True,
            )
        elif isinstance(event, JobFinished):
            last.update(metrics=event.metrics, status=event.status)

    with tempfile.TemporaryDirectory() as folder, graphlearn.connect(Path(folder) / "q.duckdb", emit=listen) as session:
        session.run_file(job, overrides={"path": str(data.path(dataset))})
        valid = session.sql(
            "SELECT mrr FROM evaluate('m') WHERE relation IS NULL AND side = 'both' AND split = 'valid'"
        )
        valid_mrr = valid.fetchall()[0][0]  # type: ignore[union-attr]
    minutes = (cpu["train"] - cpu["split"]) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "dataset": dataset,
                "model": model,
                "valid_mrr": valid_mrr,
                "phases": phases,
                "cpu_minutes": minutes,
                "peak_gib": peak,
                **last,
            }
        )
    )


def split_name(stem: str) -> tuple[str, str]:
    """fb15k-237-complex -> (fb15k-237, complex)."""
    dataset, _, model = stem.rpartition("-")
    return dataset, model


def table(figures: dict[str, Any]) -> str:
    """The Markdown table of all rows measured so far."""
    rows = []
    for name, f in sorted(figures.items()):
        m = f["metrics"]
        published, required = ANCHORS.get((f["dataset"], f["model"]), (None, None))
        rows.append(
            {
                "job": f"[{name}](jobs/{name}.sql)",
                "test MRR": f"**{m['mrr']:.3f}**",
                "required": f"{required:.3f}" if required else "",
                "LibKGE": f"{published:.3f}" if published else "",
                "Hits@1": f"{m['hits_at_1']:.3f}",
                "Hits@10": f"{m['hits_at_10']:.3f}",
                "valid MRR": f"{f['valid_mrr']:.3f}",
                "epochs": f["epoch"],
                "training": f"{f['phases']['train']:.0f} s, {f['cpu_minutes']:.1f} CPU-min",
                "peak memory": f"{f['peak_gib']:.1f} GiB",
                "commit": f.get("commit", ""),
            }
        )
    return results.markdown(rows)


def main() -> None:
    """Run the named jobs, or all of them, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    jobs = [job for job in sorted(JOBS.glob("*.sql")) if not job.stem.startswith("series-")]
    for job in [] if given.rewrite else jobs:
        if given.names and job.stem not in given.names:
            continue
        command = [sys.executable, "-m", "benchmarks.quality", "--child", str(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{job.stem} failed", file=sys.stderr)
            continue
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        found = json.loads(done.stdout.splitlines()[-1]) | {"commit": head.stdout.strip()}
        print(job.stem, found["metrics"], flush=True)
        write({job.stem: found})
    if given.rewrite:
        write({})


def write(found: dict[str, Any]) -> None:
    """Add figures to the stored ones, which another process may have updated in the meantime."""
    figures = (results.stored("quality") or {}) | found
    body = (
        "Filtered ranking of both sides among all entities, with ties at their mean rank; entities that occur only in "
        "the test set are ranked too. Seed 0. Each row is one job file, with options chosen on validation MRR. The "
        "machine was busy: disregard wall times that are far above the CPU-minutes.\n\n"
    )
    results.write("quality", "Quality: filtered test MRR", body + table(figures), figures)


if __name__ == "__main__":
    main()
