"""CPU time to check and run a job file, by number of statements and by length of a literal.

python -m benchmarks.statements
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import results
from graphlearn import connect

FILES = {
    "250 statements": ";\n".join(f"CREATE TABLE t{i} AS SELECT {i} AS a, 'x{i}' AS b" for i in range(250)),
    "1,000 statements": ";\n".join(f"CREATE TABLE t{i} AS SELECT {i} AS a, 'x{i}' AS b" for i in range(1000)),
    "1,000 variables": ";\n".join(f"SET VARIABLE v{i} = {i}" for i in range(1000)),
    "a literal of 5 MB": f"CREATE TABLE t AS SELECT '{'x' * 5_000_000}' AS x; SELECT length(x) FROM t",
    "a literal of 50 MB": f"CREATE TABLE t AS SELECT '{'x' * 50_000_000}' AS x; SELECT length(x) FROM t",
    "50 MB at the end of the file": f"SELECT length('{'x' * 50_000_000}') AS n",
}


def main() -> None:
    """Measure and write the section."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sql"
        for name, text in FILES.items():
            path.write_text(text)
            with connect() as session:
                started = time.process_time()
                session.run_file(path)
                rows.append({"file": name, "CPU seconds": f"{time.process_time() - started:.2f}"})
            print(rows[-1], flush=True)
    results.write("statements", "Checking and running long job files", results.markdown(rows), rows)


if __name__ == "__main__":
    main()
