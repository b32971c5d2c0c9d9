"""Throughput of NET3 as published, compared with plain loops, and its memory on a large tensor.

    python -m benchmarks.series_speed [throughput] [memory] [--steps 35040] [--sensors 8600]

Throughput counts forward and backward passes on one thread, in CPU seconds. There are two references: the plain loops
that the tests compare with (one window, gate and subset of modes at a time), and the same loops over whole batches.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks import results
from graphlearn.models.net3.network.model import Net3, masked_loss
from graphlearn.models.net3.options import Net3Options

SHAPES = ((54, 4), (30, 30), (125, 16))
BATCH, WINDOW, CORE = 32, 5, 0.8
TESTS = Path(__file__).parent.parent / "tests" / "models" / "net3" / "test_model.py"


def ring(n: int) -> tuple[Any, Any, Any]:
    """Edges of a ring, in both directions."""
    at = np.arange(n)
    return np.r_[at, (at + 1) % n], np.r_[(at + 1) % n, at], np.ones(2 * n, np.float32)


def batched_loops(model: Net3, z: Tensor) -> tuple[Tensor, Tensor]:
    """The model as published, with loops over steps, gates and subsets of modes, for a batch of windows.

    shape: [B, W, N1..NM] -> [B, horizon, N1..NM], and the norm of the reconstruction error of the Tucker core
    """
    shape, graphs, trnn, head = model.shape, model.tgcn, model.trnn, model.head

    def multiply(x: Tensor, a: Tensor, mode: int) -> Tensor:
        return torch.tensordot(x, a, dims=([mode + 1], [1])).movedim(-1, mode + 1)

    def layer(x: Tensor, side: str, gate: int) -> Tensor:
        x = x @ trnn.weights[side][gate]
        for mode in range(len(shape)):
            x = multiply(x, trnn.modes[f"{side}{mode}"][gate], mode)
        return x

    subsets: list[tuple[int, ...]] = [()]
    for mode in range(len(shape)):
        subsets += [(*s, mode) for s in subsets]
    y = c = None
    lost = torch.zeros(())
    h = r = z
    for t in range(z.shape[1]):
        s = z[:, t].unsqueeze(-1)
        h = graphs.bias
        for k, subset in enumerate(subsets):
            moved = s
            for mode in subset:
                moved = multiply(moved, getattr(graphs, f"graph_{mode}_0"), mode)
            h = h + moved @ graphs.theta[k : k + 1]
        h = torch.relu(h)
        core = h
        for mode, u in enumerate(trnn.factors):
            core = multiply(core, u.T, mode)
        back = core
        for mode, u in enumerate(trnn.factors):
            back = multiply(back, u, mode)
        lost = lost + (h - back).flatten(1).norm(dim=1).mean() / z.shape[1]
        gates = [layer(core, "x", gate) + trnn.bias[gate].flatten() for gate in range(4)]
        if y is not None:
            gates = [gate + layer(y, "h", k) for k, gate in enumerate(gates)]
        f, i, o = (torch.sigmoid(gate) for gate in gates[:3])
        c = i * torch.tanh(gates[3]) + (f * c if c is not None else 0)
        y = o * torch.tanh(c)
    assert y is not None
    r = y
    for mode, u in enumerate(trnn.factors):
        r = multiply(r, u, mode)
    both = torch.cat([r, h], -1).flatten(1, -2)
    assert head.own is not None
    out = torch.stack([both[:, n] @ head.own[n].T + head.bias[n] for n in range(both.shape[1])], 1)
    return out.transpose(1, 2).reshape(len(z), -1, *shape), lost


def cpu_seconds(run: Callable[[], None], times: int) -> float:
    """The minimum CPU time of a call, after one warm-up call."""
    run()
    best = np.inf
    for _ in range(times):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return float(best)


def throughput() -> list[dict[str, Any]]:
    """Windows per second for each shape."""
    torch.set_num_threads(1)
    plain_loops: Callable[..., Tensor] = runpy.run_path(str(TESTS))["naive_forecast"]
    rows = []
    for shape in SHAPES:
        torch.manual_seed(0)
        model = Net3(
            shape,
            {mode: ring(n) for mode, n in enumerate(shape)},
            Net3Options(variant="paper", device="cpu", core=CORE, window=WINDOW),
        )
        z, target = torch.randn(BATCH, WINDOW, *shape), torch.randn(BATCH, 1, *shape)
        seen, phases = torch.ones_like(z, dtype=torch.bool), torch.zeros(BATCH, WINDOW + 1, 0, dtype=torch.int64)

        def backward(guess: Tensor, lost: Tensor | float, model: Net3 = model, target: Tensor = target) -> None:
            known = torch.ones_like(target[: len(guess)], dtype=torch.bool)
            loss = masked_loss(guess, target[: len(guess)], known, "rmse")
            (loss + 1e-3 * lost + 1e-3 * model.trnn.penalty()).backward()  # type: ignore[no-untyped-call]

        with torch.no_grad():
            torch.testing.assert_close(model(z, seen, phases)[0], batched_loops(model, z)[0], atol=1e-4, rtol=1e-4)
        ours = BATCH / cpu_seconds(lambda: backward(*model(z, seen, phases)), 5)  # noqa: B023
        batched = BATCH / cpu_seconds(lambda: backward(*batched_loops(model, z)), 3)  # noqa: B023
        few = 2
        plain = few / cpu_seconds(lambda: backward(plain_loops(model, z[:few], seen[:few]), 0.0), 1)  # noqa: B023
        rows.append(
            {
                "shape": " × ".join(map(str, shape)),
                "GraphLearn": f"{ours:,.0f} windows/s",
                "plain loops": f"{plain:.2f} windows/s",
                "ratio to plain loops": f"{ours / plain:.0f}×",
                "batched loops": f"{batched:,.0f} windows/s",
                "ratio to batched loops": f"{ours / batched:.1f}×",
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


class Peak(threading.Thread):
    """The peak private memory of this process (not mapped from files), sampled every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process, self.going, self.bytes = psutil.Process(), True, 0

    def run(self) -> None:
        """Sample until `going` is False."""
        while self.going:
            found = self.process.memory_info()
            self.bytes = max(self.bytes, found.rss - found.shared)
            time.sleep(0.02)


def memory_child(path: Path) -> None:
    """Fit the closed forms, run three optimiser steps and forecast; print the peak memory."""
    from graphlearn.models.net3.data.calendar import Calendar
    from graphlearn.models.net3.training.make import make_training

    torch.set_num_threads(2)
    values = np.load(path, mmap_mode="r")
    peak = Peak()
    peak.start()
    started = time.perf_counter()
    options = Net3Options(device="cpu", window=WINDOW)
    training = make_training(values, {0: ring(values.shape[1])}, options, Calendar.cycles(len(values), (96,)))
    fitted = time.perf_counter() - started
    began = time.perf_counter()
    for step in range(3):
        training.step(0, step)
    steps = (time.perf_counter() - began) / 3
    training.predict(np.arange(BATCH))
    peak.going = False
    print(json.dumps({"peak": peak.bytes, "fit": fitted, "step": steps}))


def memory(sensors: int, steps: int) -> list[dict[str, Any]]:
    """A generated tensor of random readings with a daily cycle, in a child process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.npy"
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(steps, sensors))
        generator = np.random.default_rng(0)
        for lo in range(0, steps, 512):
            at = np.arange(lo, min(lo + 512, steps))
            values[at] = np.sin(2 * np.pi * at / 96)[:, None] + generator.standard_normal(
                (len(at), sensors), np.float32
            )
        size = values.nbytes
        del values
        command = [sys.executable, "-m", "benchmarks.series_speed", "--child", str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    gib = 1 << 30
    return [
        {
            "sensors × steps": f"{sensors:,} × {steps:,}",
            "tensor, mapped from its file": f"{size / gib:.2f} GiB",
            "other memory of the process": f"{found['peak'] / gib:.2f} GiB",
            "sum / tensor": f"{(found['peak'] + size) / size:.2f}×",
            "closed forms": f"{found['fit']:.0f} s",
            "one step of 32 windows": f"{found['step']:.1f} s",
        }
    ]


def main() -> None:
    """Measure and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="throughput, memory (default: both)")
    parser.add_argument("--sensors", type=int, default=8600)
    parser.add_argument("--steps", type=int, default=35_040)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        memory_child(given.child)
        return
    what = given.what or ["throughput", "memory"]
    if set(what) - {"throughput", "memory"}:
        parser.error("choose from throughput and memory")
    if "throughput" in what:
        rows = throughput()
        body = f"variant = 'paper', core {CORE}, {BATCH} windows of {WINDOW} steps, forward and backward, one thread."
        results.write("series-throughput", "NET3: throughput", f"{body}\n\n{results.markdown(rows)}", rows)
    if "memory" in what:
        rows = memory(given.sensors, given.steps)
        body = "Default options, window 5, a ring as graph. Windows are read from the mapped tensor and not kept."
        results.write("series-memory", "NET3: memory", f"{body}\n\n{results.markdown(rows)}", rows)


if __name__ == "__main__":
    main()
