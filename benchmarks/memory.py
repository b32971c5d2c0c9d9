"""Peak memory of training 10 million entities with 100 dimensions, including optimiser state, in a separate process.

    python -m benchmarks.memory [--entities 10000000] [--triples 50000000] [--steps 2000]

The graph is generated. The child process runs CREATE MODEL from Parquet, as a user would, for one epoch.
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

import duckdb

from benchmarks import results


def child(folder: Path, dim: int) -> None:
    """Train, then print the peak memory of this process."""
    import graphlearn
    from graphlearn.events import Event, JobFinished, PhaseFinished, Step

    def listen(event: Event) -> None:
        if isinstance(event, PhaseFinished):
            print(f"{event.phase}: {event.seconds:.0f} s {event.detail}", file=sys.stderr, flush=True)
        if isinstance(event, Step):
            print(
                f"  step {event.step}/{event.steps} {event.examples_per_second / 1e3:.0f} k {event.unit}/s",
                end="\r",
                file=sys.stderr,
            )
        if isinstance(event, JobFinished):
            print(f"{event.status} in {event.seconds:.0f} s", file=sys.stderr)

    started = time.perf_counter()
    with graphlearn.connect(folder / "big.duckdb", emit=listen) as session:
        result = session.sql(
            f"CREATE OR REPLACE MODEL big TYPE distmult OPTIONS (dim = {dim}, epochs = 1, negatives = 200, "
            "optimizer = 'row_adagrad', sides = 'alternate', batch_size = 4000, chunk_size = 1000, "
            "evaluate_every = 0, valid_fraction = 0.0, test_fraction = 0.000002, checkpoint_seconds = 100000) "
            f"AS FROM '{folder / 'big.parquet'}'"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": time.perf_counter() - started, "counts": result.counts}))


def main() -> None:
    """Generate the graph, train in a child process and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entities", type=int, default=10_000_000)
    parser.add_argument("--triples", type=int, default=20_000_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--child", type=Path)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.dim)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT (i % {given.entities})::BIGINT AS head, (random() * 100)::INT AS relation, "
                f"(random() * {given.entities - 1})::BIGINT AS tail FROM range({given.triples}) t(i)) "
                f"TO '{folder / 'big.parquet'}' (FORMAT parquet)"
            )
        command = [sys.executable, "-m", "benchmarks.memory", "--child", str(folder), "--dim", str(given.dim)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        measured = json.loads(out.splitlines()[-1])
    weights = given.entities * given.dim * 4
    rows = [
        {
            "entities": f"{measured['counts']['entities']:,}",
            "dimensions": given.dim,
            "triples": f"{given.triples:,}",
            "weights": f"{weights / 2**30:.2f} GiB",
            "peak memory": f"{measured['peak'] / 2**30:.2f} GiB",
            "time for ingest, one epoch and publishing": f"{measured['seconds']:.0f} s",
        }
    ]
    body = results.markdown(rows)
    print(body)
    results.write("memory", "Memory: 10M entities × 100 dimensions (bound: 12 GB)", body, measured)


if __name__ == "__main__":
    main()
