"""What checkpoints cost: of embeddings of 1.6 million entities with 100 dimensions, and of larger ones.

    python -m benchmarks.checkpoints [--entities 1600000 5000000 10000000] [--train SECONDS]

The first table saves the state of ComplEx with Adagrad: the time that training stops, the processor time of the thread
that computes digests and flushes, and the interval that follows from them, compared with `safetensors.save_file`. With
--train, the second one trains CREATE MODEL on a generated graph for so long, and reports the share that was measured.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import psutil
import torch
from safetensors.torch import save_file

import graphlearn
from benchmarks import results
from graphlearn.errors import Interrupted
from graphlearn.events import CheckpointSaved, Event, Step
from graphlearn.jobs import checkpoint
from graphlearn.jobs.loop import Progress
from graphlearn.jobs.saver import SHARE, Saver

DIM = 100


def cost(folder: Path, entities: int) -> dict[str, Any]:
    """Save the state of so many entities twice; the second time counts."""
    weights = {"entities": torch.randn(entities, DIM)}
    state = {**weights, "optimiser.entities.sums": torch.rand(entities, DIM)}
    size = sum(value.nbytes for value in state.values())
    started = time.perf_counter()
    save_file(state, folder / "whole.safetensors")
    library = time.perf_counter() - started
    (folder / "whole.safetensors").unlink()
    memory = psutil.Process().memory_info().rss
    saver = Saver(folder / "checkpoints", "run", "job")
    saver.begin(state)
    saver.keep_best(0, weights)
    stops, threads, walls = [], [], []
    for step in range(1, 4):
        before, spent, started = saver.stopped, saver.spent, time.perf_counter()
        saver.save(Progress(step=step, total_steps=step).to_json(), lambda: state)
        stops.append(saver.stopped - before)
        saver.wait()
        walls.append(time.perf_counter() - started)
        threads.append(saver.spent - spent - stops[-1])
    memory = psutil.Process().memory_info().rss - memory
    found = checkpoint.newest(folder / "checkpoints", "run", "job")
    assert found is not None
    started = time.perf_counter()
    found.state(state)
    verified = time.perf_counter() - started
    shutil.rmtree(folder / "checkpoints")
    stop, thread = min(stops[1:]), min(threads[1:])
    return {
        "entities × dimensions": f"{entities:,} × {DIM}",
        "state": f"{size / 2**30:.2f} GiB",
        "training stops for": f"{stop:.2f} s",
        "processor time in the background": f"{thread:.2f} s",
        "complete after": f"{min(walls[1:]):.1f} s",
        "one every": f"{max(60.0, (stop + thread) / SHARE):.0f} s",
        "share of the training time": f"{(stop + thread) / max(60.0, (stop + thread) / SHARE):.1%}",
        "memory": f"{max(0, memory) / 2**20:.0f} MiB",
        "verified in": f"{verified:.1f} s",
        "save_file": f"{library:.2f} s",
        "raw": {"stop": stops, "thread": threads, "wall": walls, "library": library, "bytes": size},
    }


def trained(folder: Path, entities: int, seconds: float) -> dict[str, Any]:
    """Train so many entities for so many seconds; the share of the time that checkpoints took."""
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT i AS head, (random() * 20)::INT AS relation, (random() * {entities - 1})::BIGINT AS tail "
            f"FROM range({entities}) t(i)) TO '{folder / 'big.parquet'}' (FORMAT parquet)"
        )
    began: list[float] = []
    saved: list[float] = []
    savers: list[Saver] = []
    begin = Saver.begin

    def noted(self: Saver, *given: Any) -> None:
        savers.append(self)
        begin(self, *given)

    def listen(event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            saved.append(event.time)
        if isinstance(event, Step):
            began.append(event.time)
            if event.time - began[0] > seconds:
                raise Interrupted("enough")

    Saver.begin = noted  # type: ignore[method-assign]
    try:
        with graphlearn.connect(folder / "big.duckdb", emit=listen) as session:
            session.sql(
                f"CREATE OR REPLACE MODEL big TYPE complex OPTIONS (dim = {DIM}, epochs = 1000, baselines = false) "
                f"AS FROM '{folder / 'big.parquet'}'"
            )
    except Interrupted:
        pass
    finally:
        Saver.begin = begin  # type: ignore[method-assign]
    (saver,) = savers
    elapsed = began[-1] - began[0]
    return {
        "entities × dimensions": f"{entities:,} × {DIM}",
        "training": f"{elapsed:.0f} s",
        "checkpoints": len(saved),
        "training stopped for": f"{saver.stopped:.1f} s ({saver.stopped / elapsed:.1%})",
        "with processor time in the background": f"{saver.spent:.1f} s ({saver.spent / elapsed:.1%})",
        "raw": {"elapsed": elapsed, "stopped": saver.stopped, "spent": saver.spent, "saved": saved},
    }


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entities", type=int, nargs="+", default=[1_600_000, 5_000_000, 10_000_000])
    parser.add_argument("--train", type=float, metavar="SECONDS", help="also train the first size, for so long")
    parser.add_argument("--folder", type=Path, help="where to save, e.g. on the disk in question")
    parser.add_argument("--dry", action="store_true", help="do not write RESULTS.md")
    given = parser.parse_args()
    tables = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        tables.append([cost(Path(name), entities) for entities in given.entities])
        if given.train:
            tables.append([trained(Path(name), given.entities[0], given.train)])
    shown = [[{k: v for k, v in row.items() if k != "raw"} for row in rows] for rows in tables]
    body = "\n\n".join(results.markdown(rows) for rows in shown)
    print(body)
    if not given.dry:
        title = f"Checkpoints (bound: {SHARE:.0%} of the training time)"
        results.write("checkpoints", title, body, [row["raw"] for rows in tables for row in rows])


if __name__ == "__main__":
    main()
