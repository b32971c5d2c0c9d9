"""Forecasts of other models with the split, cells and scaling of TYPE net3: Graph WaveNet, DCRNN, STID, a linear model.

    python -m benchmarks.peers_series [NAME…] [--peers linear,stid,…] [--seeds 0,1,2] [--budget 150] [--rewrite]

The first three are torch-spatiotemporal's (pip install --no-deps torch-spatiotemporal torch-geometric einops
pytorch-lightning lightning-utilities torchmetrics tqdm tables pandas scikit-learn …). Its imports of torch-sparse and
torch-scatter, which have no wheels for torch 2.13, are replaced by stubs that are never called here.
net3's row comes from `python -m benchmarks.series`, so run that first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import data, results
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.models.net3.data.time_split import TimeSplit
from graphlearn.models.net3.metrics import Metrics
from graphlearn.types import FloatArray, IdArray, Split

BATCH, PATIENCE, EPOCHS = 32, 5, 100


@dataclass(frozen=True)
class Series:
    """A data set for the peers. values: [T, nodes, channels]; phase: [T], of the cycle; edges: [2, E]."""

    values: FloatArray
    phase: IdArray
    period: int
    edges: Tensor
    weights: Tensor
    window: int


SOURCES = {  # readings, node and channel columns, value, edge table, calendar phase, period, window
    "climate": ("readings", "site", "variable", "value", "site_graph", "month(ts) - 1", 12, 5),
    "los_loop": ("speed", "sensor", "0", "speed", "road", "hour(ts) * 12 + minute(ts) // 5", 288, 12),
}


def load(name: str) -> Series:
    """Read a data set, with nodes and channels in key order as in the tensor of TYPE net3."""
    table, node, channel, value, graph, phase, period, window = SOURCES[name]
    folder = data.FOLDER / "series" / name
    with duckdb.connect() as connection:
        found = connection.sql(
            f"SELECT dense_rank() OVER (ORDER BY ts) - 1 AS t, dense_rank() OVER (ORDER BY {node}) - 1 AS n, "
            f"dense_rank() OVER (ORDER BY {channel}) - 1 AS c, {phase} AS phase, {value}::FLOAT AS v "
            f"FROM '{folder / table}.parquet'"
        ).fetchnumpy()
        keys = f"(SELECT DISTINCT {node} AS key FROM '{folder / table}.parquet')"
        edges = connection.sql(
            f"WITH k AS (SELECT key, row_number() OVER (ORDER BY key) - 1 AS id FROM {keys}) "
            f"SELECT s.id AS source, t.id AS target, weight::FLOAT AS weight FROM '{folder / graph}.parquet' g "
            "JOIN k s ON g.source = s.key JOIN k t ON g.target = t.key"
        ).fetchnumpy()
    at = tuple(found[k].astype(np.int64) for k in ("t", "n", "c"))
    values = np.full([int(a.max()) + 1 for a in at], np.nan, np.float32)
    values[at] = found["v"]
    phases = np.zeros(len(values), np.int64)
    phases[at[0]] = found["phase"]
    pairs = torch.from_numpy(np.stack([edges["source"], edges["target"]]).astype(np.int64))
    return Series(values, phases, period, pairs, torch.from_numpy(edges["weight"].astype(np.float32)), window)


class Linear(nn.Module):
    """After DLinear: a moving mean and the remainder, each with linear weights over the window, per series.

    A table adds an offset per calendar phase and series. All weights start at 0, those of the last value at 1.
    """

    def __init__(self, series: Series) -> None:
        super().__init__()
        n, window = int(np.prod(series.values.shape[1:])), series.window
        self.smooth, self.rest = nn.Parameter(torch.zeros(n, window)), nn.Parameter(torch.zeros(n, window))
        with torch.no_grad():
            self.smooth[:, -1] = 1
            self.rest[:, -1] = 1
        self.season = nn.Parameter(torch.zeros(series.period, n))

    def forward(self, x: Tensor, phase: Tensor) -> Tensor:
        """shape: [B, W, nodes, channels], [B] -> [B, 1, nodes, channels]"""
        flat = x.flatten(2)
        mean = nn.functional.avg_pool1d(flat.transpose(1, 2), 5, 1, 2, count_include_pad=False).transpose(1, 2)
        out = torch.einsum("bwn,nw->bn", mean, self.smooth) + torch.einsum("bwn,nw->bn", flat - mean, self.rest)
        return (out + self.season[phase]).reshape(len(x), 1, *x.shape[2:])


def linear(series: Series) -> nn.Module:
    """The linear model."""
    return Linear(series)


def stand_ins() -> None:
    """Stub the two extensions that torch-spatiotemporal imports but that cannot be installed; calling them fails."""
    import torch_geometric  # noqa: F401 looks for them itself, and must find them missing

    for name in ("torch_sparse", "torch_scatter", "torch_scatter.utils"):
        module = ModuleType(name)
        names = (
            "fill_diag",
            "remove_diag",
            "set_diag",
            "matmul",
            "cat",
            "gather_csr",
            "scatter",
            "segment_csr",
            "broadcast",
        )
        for function in names:
            setattr(module, function, None)
        module.SparseTensor = type("SparseTensor", (), {})  # type: ignore[attr-defined]
        sys.modules[name] = module


class OnGraph(nn.Module):
    """A torch-spatiotemporal model on nodes with channels; the phase is encoded as sine and cosine."""

    def __init__(self, series: Series, model: nn.Module) -> None:
        super().__init__()
        self.model, self.series = model, series

    def forward(self, x: Tensor, phase: Tensor) -> Tensor:
        """shape: [B, W, nodes, channels], [B] -> [B, 1, nodes, channels]"""
        back = torch.arange(x.shape[1] - 1, -1, -1)
        angle = 2 * torch.pi * (phase[:, None] - back) / self.series.period
        cycle = torch.stack([angle.sin(), angle.cos()], -1)
        out: Tensor = self.model(x, self.series.edges, self.series.weights, u=cycle)
        return out


def graph_wavenet(series: Series) -> nn.Module:
    """Graph WaveNet: 4 blocks of 16 channels, diffusion of order 2, learnt adjacency, dropout 0.1."""
    stand_ins()
    from tsl.nn.models.stgn.graph_wavenet_model import GraphWaveNetModel

    _, nodes, channels = series.values.shape
    model = GraphWaveNetModel(
        channels, channels, 1, 2, hidden_size=16, ff_size=64, n_layers=4, n_nodes=nodes, dropout=0.1
    )
    return OnGraph(series, model)


def dcrnn(series: Series) -> nn.Module:
    """DCRNN: one layer of 32 channels, diffusion of order 2, both directions."""
    stand_ins()
    from tsl.nn.models.stgn.dcrnn_model import DCRNNModel

    channels = series.values.shape[2]
    model = DCRNNModel(channels, channels, 1, 2, hidden_size=32, ff_size=64, kernel_size=2, cache_support=True)
    return OnGraph(series, model)


class Identity(nn.Module):
    """torch-spatiotemporal's STID with one node per series."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, phase: Tensor) -> Tensor:
        """shape: [B, W, nodes, channels], [B] -> [B, 1, nodes, channels]"""
        out: Tensor = self.model(x.flatten(2).unsqueeze(-1), phase[:, None])
        return out.reshape(len(x), 1, *x.shape[2:])


def stid(series: Series) -> nn.Module:
    """STID: a 3-layer MLP on the window and 32-dimensional embeddings of series and phase."""
    stand_ins()
    from tsl.nn.models.temporal.stid_model import STIDModel

    n = int(np.prod(series.values.shape[1:]))
    return Identity(STIDModel(1, n, series.window, 1, n_exog_emb=[series.period], hidden_size=32))


PEERS: dict[str, tuple[Callable[[Series], nn.Module], float, str]] = {
    "linear": (linear, 1e-3, "Linear (after DLinear)"),
    "stid": (stid, 2e-3, "STID"),
    "dcrnn": (dcrnn, 3e-3, "DCRNN"),
    "graph_wavenet": (graph_wavenet, 3e-3, "Graph WaveNet"),
}


def child(name: str, peer: str, seed: int, budget: float) -> dict[str, Any]:
    """Train a peer with early stopping. Returns the validation and test metrics of its best epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    series = load(name)
    make, rate, _ = PEERS[peer]
    began = time.process_time()
    split = TimeSplit.of(len(series.values))
    scaler = Scaler.fit(series.values, split.train_end)
    z = scaler.transform(series.values)
    model = make(series)
    optimiser = torch.optim.Adam(model.parameters(), rate)

    def forecast(starts: IdArray) -> Tensor:
        windows = torch.from_numpy(gather(z, starts, series.window))
        out: Tensor = model(windows, torch.from_numpy(series.phase[starts + series.window]))
        return out

    @torch.no_grad()
    def evaluate(part: Split) -> Metrics:
        model.eval()
        metrics = Metrics(scaler.scale, 1)
        for starts in np.array_split(split.starts(part, series.window, 1), 8):
            actual = gather(series.values, starts, 1, series.window)
            metrics.add(scaler.inverse(forecast(starts).numpy()), actual, np.isfinite(actual))
        return metrics

    order = np.random.default_rng(seed)
    best, kept, best_epoch, epoch, ended = np.inf, model.state_dict(), 0, 0, "epochs"
    for epoch in range(1, EPOCHS + 1):
        model.train()
        starts = order.permutation(split.starts(Split.TRAIN, series.window, 1))
        for lo in range(0, len(starts), BATCH):
            chosen = starts[lo : lo + BATCH]
            actual = torch.from_numpy(gather(z, chosen, 1, series.window))
            loss = (forecast(chosen) - actual).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            if time.process_time() - began > budget:
                break
        score = evaluate(Split.VALID).total["z_rmse"]
        print(f"{name} {peer} {seed} epoch {epoch} valid {score:.4f}", file=sys.stderr, flush=True)
        if score < best:
            best, best_epoch = score, epoch
            kept = {k: v.clone() for k, v in model.state_dict().items()}
        if epoch - best_epoch >= PATIENCE or time.process_time() - began > budget:
            ended = "patience" if epoch - best_epoch >= PATIENCE else "time"
            break
    model.load_state_dict(kept)
    test = evaluate(Split.TEST).total
    return {
        **{k: test[k] for k in ("rmse", "mae", "z_rmse", "cells")},
        "valid": best,
        "seed": seed,
        "best": best_epoch,
        "epochs": epoch,
        "ended": ended,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu": time.process_time() - began,
    }


BODY = """One step ahead, with the split, windows and scaling of `benchmarks.series`; z-scored RMSE on the test set,
mean ± standard deviation over the seeds. Every peer trains with Adam on batches of {batch} windows, on one thread,
until the validation error has not improved for {patience} epochs or {budget:g} CPU-seconds have passed (marked *), and
keeps its best epoch. Learning rates and sizes are the peers' defaults or common values for data of this size;
they were not tuned. All peers have the calendar phase (month; five minutes of the day) as an input. net3 has
the options of its job file; see the previous section."""


def table(figures: dict[str, Any]) -> str:
    """One row per data set and model, best first."""
    rows = []
    for name, by_peer in figures.items():
        net3 = [
            {**run, **next(r for r in run["rows"] if r["method"] == "net3" and r["split"] == "test"), "ended": ""}
            for run in (results.stored("series") or {}).get(name, [])
        ]
        labelled = {"**net3**": net3, **{PEERS[peer][2]: runs for peer, runs in by_peer.items()}}
        found = []
        for label, runs in labelled.items():
            if not runs:
                continue
            scores = [run["z_rmse"] for run in runs]
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            found.append(
                {
                    "data": name,
                    "model": label + ("*" if any(run["ended"] == "time" for run in runs) else ""),
                    "z-RMSE, test": f"{statistics.mean(scores):.4f}{spread}",
                    "seeds": len(runs),
                    "RMSE": f"{statistics.mean([run['rmse'] for run in runs]):.4g}",
                    "MAE": f"{statistics.mean([run['mae'] for run in runs]):.4g}",
                    "CPU-seconds per run": f"{statistics.mean([run['cpu'] for run in runs]):.0f}",
                }
            )
        rows += sorted(found, key=lambda row: row["z-RMSE, test"])
    return results.markdown(rows)


def measure(name: str, peer: str, seed: int, budget: float) -> dict[str, Any]:
    """One peer with one seed in a separate process, on one thread."""
    command = [sys.executable, "-m", "benchmarks.peers_series", name, "--peers", peer, "--child", str(seed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTORCH_JIT": "0"}  # the stubs cannot be compiled
    done = subprocess.run([*command, "--budget", str(budget)], stdout=subprocess.PIPE, text=True, check=True, env=env)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure the named peers on the named data, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", type=float, default=150, help="CPU-seconds per run")
    parser.add_argument("--rewrite", action="store_true", help="regenerate the table from the stored figures")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    peers = given.peers.split(",")
    for kind, names, known in (("data", given.names, SOURCES), ("peer", peers, PEERS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            parser.error(f"unknown {kind} {unknown[0]}: choose from {', '.join(known)}")
    if given.child is not None:
        print(json.dumps(child(given.names[0], peers[0], given.child, given.budget)))
        return
    figures: dict[str, Any] = results.stored("peers_series") or {}
    body, heading = (
        BODY.format(batch=BATCH, patience=PATIENCE, budget=given.budget),
        "Tensor time series: net3 compared with other models",
    )
    for name in () if given.rewrite else given.names or SOURCES:
        for peer in peers:
            runs = [measure(name, peer, int(seed), given.budget) for seed in given.seeds.split(",")]
            figures.setdefault(name, {})[peer] = runs
            print(name, peer, [round(run["z_rmse"], 4) for run in runs], flush=True)
            results.write("peers_series", heading, f"{body}\n\n{table(figures)}", figures)
    if given.rewrite:
        results.write("peers_series", heading, f"{body}\n\n{table(figures)}", figures)


if __name__ == "__main__":
    main()
