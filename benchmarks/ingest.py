"""Out-of-core dictionary encoding of a generated graph: rate and peak memory, in a separate process.

    python -m benchmarks.ingest [--triples 100000000] [--entities 10000000] [--limit-gib 4]

Keys are texts such as `entity/0123456`. Heads and tails are uniform, so nearly all triples are distinct. The limit is
DuckDB's `memory_limit`; the id arrays, 12 bytes per triple, and the dictionary are not included in it.
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

GIB = 1 << 30


def child(folder: Path, limit: int) -> None:
    """Encode, then print the peak memory of this process."""
    from graphlearn.events import silent
    from graphlearn.storage.triples.ingest import encode_triples

    with duckdb.connect(str(folder / "big.duckdb")) as connection:
        started = time.perf_counter()
        encoded = encode_triples(connection, f"FROM '{folder / 'big.parquet'}'", memory_limit=limit, emit=silent)
        seconds = time.perf_counter() - started
    found = {
        "seconds": seconds,
        "kept": sum(len(split) for split in encoded.splits.values()),
        "entities": encoded.n_entities,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(found))


def main() -> None:
    """Generate the graph, encode it in a child process and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=100_000_000)
    parser.add_argument("--entities", type=int, default=10_000_000)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    limit = int(given.limit_gib * GIB)
    if given.child:
        child(given.child, limit)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = f"'entity/' || lpad(((hash(i, {{}}) % {given.entities})::BIGINT)::VARCHAR, 8, '0')"
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT {key.format(1)} AS head, 'relation/' || hash(i, 2) % 100 AS relation, "
                f"{key.format(3)} AS tail FROM range({given.triples}) t(i)) TO '{folder / 'big.parquet'}'"
            )
        size = (folder / "big.parquet").stat().st_size
        command = [sys.executable, "-m", "benchmarks.ingest", "--child", name, "--limit-gib", str(given.limit_gib)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    rows = [
        {
            "rows": f"{given.triples:,}",
            "Parquet": f"{size / GIB:.1f} GiB",
            "triples kept": f"{found['kept']:,}",
            "entities": f"{found['entities']:,}",
            "DuckDB's memory limit": f"{given.limit_gib:g} GiB",
            "peak memory": f"{found['peak'] / GIB:.2f} GiB",
            "time": f"{found['seconds']:.0f} s",
            "rate": f"{given.triples / found['seconds'] / 1e6:.2f} M rows/s",
        }
    ]
    results.write("ingest", "Encoding text keys out of core", results.markdown(rows), {"rows": rows, **found})


if __name__ == "__main__":
    main()
