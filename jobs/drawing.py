"""Shared by the pictures of all families: the history of a run, its curves, creating and saving a figure.

matplotlib is optional (`pip install 'graphlearn[plot]'`) and imported only inside the functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from graphlearn.errors import UserError
from graphlearn.jobs.metrics import Metric, metrics_line
from graphlearn.storage.files import write_bytes
from graphlearn.storage.runs import read_events
from graphlearn.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPOCHS_ONLY = 10  # with more epochs, draw the loss per epoch only: within an epoch, its mean is noisy
COLOURS = ("#3b6fb6", "#e07b39", "#3f9e5f", "#c2453f", "#8a63b8", "#a9742f", "#d06aa8", "#2f9fa8")
GREY = "#b9bcc2"
WIDTH = 165  # characters of a line under the title


@dataclass
class History:
    """The course of a run: points (epochs done, value), and the metrics of the stored model."""

    model: str = ""
    family: str = ""
    status: str = "running"
    seconds: float = 0.0
    speed: float = 0.0
    unit: str = ""
    loss: list[tuple[float, float]] = field(default_factory=list)
    valid: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Metrics on the validation split, by name: points over the epochs."""
    final: dict[str, float] = field(default_factory=dict)
    split: str = "test"
    """Where the metrics of the stored model were measured."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def read_history(run_folder: Path) -> History:
    """Read the curves of a run. Steps repeated after a resume count once. Raises UserError if there are no events."""
    history = History()
    loss: dict[float, float] = {}
    whole: dict[float, float] = {}
    valid: dict[str, dict[float, float]] = {}
    speeds: list[float] = []
    empty = True
    for event in read_events(run_folder):
        empty = False
        match event:
            case {"event": "job_started", "model": str(model), "family": str(family)}:
                history.model, history.family = model, family
            case {"event": "step", "epoch": epoch, "step": step, "steps": steps, "loss": float(value)}:
                loss[epoch - 1 + step / max(1, steps)] = value
                if event.get("epoch_done"):
                    whole[epoch] = value
                speeds.append(event.get("examples_per_second") or 0.0)
                history.unit = event.get("unit") or history.unit
            case {"event": "evaluated", "epoch": 0, "split": "test", "metrics": dict(metrics)}:
                history.final = metrics
            case {"event": "evaluated", "epoch": int(epoch), "split": "valid", "metrics": dict(metrics)} if epoch:
                for name, value in metrics.items():
                    if isinstance(value, float):
                        valid.setdefault(name, {})[epoch] = value
            case {"event": "job_finished", "status": str(status)}:
                history.status, history.seconds = status, event.get("seconds") or 0.0
                history.final = event.get("metrics") or history.final
                history.split = event.get("split") or history.split
    if empty:
        raise UserError(f"run {run_folder.name} has no events", help="graphlearn runs lists all runs")
    history.loss = sorted(whole.items() if len(whole) >= EPOCHS_ONLY else loss.items())
    history.valid = {name: sorted(points.items()) for name, points in valid.items()}
    history.speed = float(np.median(speeds)) if speeds else 0.0
    return history


def save(figure: Figure, target: Path) -> None:
    """Write the figure as a PNG, atomically."""
    with any_script():
        picture = BytesIO()
        figure.savefig(picture, format="png")
        write_bytes(target, picture.getvalue(), durable=False)


@contextmanager
def any_script() -> Iterator[None]:
    """Silence warnings about characters that the font lacks."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def title(history: History, metrics: Sequence[Metric], protocol: str = "") -> str:
    """Model, metrics with their split, speed and time in one line. `protocol`: see `Family`."""
    figures = metrics_line(history.final, metrics, ", ") if history.final else ""
    parts = [
        f"{history.model} ({history.family})" if history.model else "",
        f"{protocol} {history.split} {figures}".strip() if figures else "",
        f"{history.speed:,.0f} {history.unit}/s" if history.speed else "",
        f"{history.seconds:.0f} s" if history.seconds else history.status,
    ]
    return literal("   ·   ".join(part for part in parts if part))


def below(verdict: str) -> str:
    """The lines under the title: a line for each clause of the verdict, wrapped; empty without one."""
    clauses = re.split(r"; (?![^()]*\))", verdict) if verdict else []
    return literal("".join("\n" + fill(clause, WIDTH) for clause in clauses))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with automatic layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def draw_loss(axes: Axes, history: History) -> None:
    """Draw the loss over the epochs, on a log scale if it falls far."""
    axes.set_title("training loss", loc="left", fontsize=10)
    if history.loss:
        axes.plot(*zip(*history.loss, strict=True), color=COLOURS[0], linewidth=1.6)
        low, high = min(v for _, v in history.loss), max(v for _, v in history.loss)
        if low > 0 and high > 20 * low:
            axes.set_yscale("log")
    finish_curve(axes, bool(history.loss), "no step was reported")


def draw_curves(history: History, metrics: Sequence[Metric]) -> Figure:
    """Loss and headline metric over the epochs: the default picture of a family."""
    metric = next((metric for metric in metrics if metric.name in history.valid), None)
    figure = new_figure(11, 4.2)
    axes = figure.subplot_mosaic([["loss", "valid"]])
    figure.suptitle(title(history, metrics), x=0.01, ha="left", fontsize=12)
    draw_loss(axes["loss"], history)
    axes["valid"].set_title(f"{metric.label if metric else 'metrics'} on the validation split", loc="left", fontsize=10)
    if metric is not None:
        axes["valid"].plot(*zip(*history.valid[metric.name], strict=True), color=COLOURS[2], marker="o", markersize=4)
    finish_curve(axes["valid"], metric is not None, "nothing to validate on")
    return figure


def principal(vectors: FloatArray, width: int = 2) -> tuple[FloatArray, float]:
    """The first `width` principal components of the vectors, and their share of the variance.

    shape: vectors [n, D] -> [n, width]
    """
    centred = vectors - vectors.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:width].T
    missing = width - flat.shape[1]
    if missing > 0:
        flat = np.pad(flat, ((0, 0), (0, missing)))
    total = float((values**2).sum())
    return flat.astype(np.float32), float((values[:width] ** 2).sum()) / total if total > 0 else 1.0


def plain(axes: Axes) -> None:
    """Small ticks, a faint grid, no frame."""
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish_curve(axes: Axes, filled: bool, otherwise: str) -> None:
    """Style a curve over epochs; an empty one shows `otherwise`."""
    plain(axes)
    axes.set_xlabel("epochs", fontsize=9)
    if filled:
        axes.set_xlim(left=0)
    else:
        axes.text(0.5, 0.5, otherwise, ha="center", va="center", transform=axes.transAxes, color="#777777")


def short(text: str, width: int) -> str:
    """Shorten a text to `width` characters: paths and dotted names keep their end, other texts their start."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    path_like = " " not in text and ("." in text or "/" in text)
    return f"…{text[-width + 1 :]}" if path_like else f"{text[: width - 1]}…"


def literal(text: str) -> str:
    """The text with dollar signs escaped, so that matplotlib does not read a formula."""
    return text.replace("$", r"\$")
