"""The picture of a run: some series with their forecasts, errors of the model and its baselines, curves over epochs.

matplotlib is optional (`pip install 'graphlearn[plot]'`) and imported only inside the functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphlearn.jobs.drawing import (
    COLOURS,
    History,
    any_script,
    draw_loss,
    finish_curve,
    literal,
    new_figure,
    plain,
    short,
    title,
)
from graphlearn.jobs.metrics import metrics_line, read_metrics
from graphlearn.jobs.net3.metrics import NET3_METRICS
from graphlearn.jobs.net3.parts import read_recovered
from graphlearn.jobs.net3.predictor import Net3Predictor
from graphlearn.storage.artifacts import MANIFEST, Artifact
from graphlearn.storage.files import read_json
from graphlearn.text import number
from graphlearn.types import BoolArray, FloatArray, Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graphlearn.storage.series.axis import TimeAxis
    from graphlearn.storage.series.tensor import SeriesTensor

PANELS = 4  # series that are drawn
FORECAST_STEPS, CONTEXT_STEPS, RECOVER_STEPS = 200, 60, 80  # time steps that are drawn of them
LEVEL = 0.9
BATCH = 16
FIRST = ("true", "known", "held out")  # in the legend
TRUTH, MODEL, FAR, AFTER = "#33373d", COLOURS[0], COLOURS[1], COLOURS[2]


@dataclass(frozen=True)
class Line:
    """Values of a series over a stretch of time, and half the width of their interval.

    shape: times, values: [n]
    """

    times: npt.NDArray[Any]
    values: FloatArray
    half: FloatArray | float = 0.0


@dataclass(frozen=True)
class Panel:
    """One series. `truth` is NaN where nothing is known; `held` marks the cells that a recovery did not see.

    `near` is forecast one step ahead, or recovered; `far` is the horizon's last step, `ahead` follows the data.
    """

    label: str
    truth: Line
    near: Line
    far: Line | None = None
    ahead: Line | None = None
    held: BoolArray | None = None


@dataclass(frozen=True)
class Stored:
    """What is drawn of a stored version."""

    task: str
    horizon: int
    freq: str
    value: str
    verdict: str
    rows: list[dict[str, Any]]
    panels: list[Panel] = field(default_factory=list)


def read_stored(version_folder: Path, panels: int = PANELS) -> Stored:
    """Metrics of a stored version, and its forecasts or recovered cells of some series."""
    manifest = read_json(version_folder / MANIFEST)
    model = Net3Predictor(Artifact(manifest["model"], manifest["version"], version_folder, manifest))
    make = _recovered if model.options.task == "recover" else _forecast
    return Stored(
        task=model.options.task,
        horizon=model.options.horizon,
        freq=model.series.axis.freq_text,
        value=model.series.value_name,
        verdict=manifest.get("verdict") or "",
        rows=read_metrics(version_folder),
        panels=make(model, panels),
    )


def choose_series(values: FloatArray, wanted: int) -> list[tuple[int, ...]]:
    """Places of series of high to low standard deviation, with entries of the modes that no other has, if possible.

    The highest and the lowest tenth are left out.
    shape: values: [steps, N1, ..., NM], z-scores
    """
    known = np.isfinite(values)
    count = np.maximum(1, known.sum(axis=0))
    mean = np.where(known, values, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / count)
    order = np.argsort(-spread, axis=None, kind="stable")
    enough = (2 * known.sum(axis=0) >= len(values)).ravel()[order]
    order = np.concatenate([order[enough], order[~enough]])
    places = [tuple(int(i) for i in np.unravel_index(k, spread.shape)) for k in order]
    usual = int(enough.sum()) or len(places)
    chosen: list[tuple[int, ...]] = []
    for goal in np.linspace(0.1, 0.9, wanted) * (usual - 1):
        used = [{place[m] for place in chosen} for m in range(spread.ndim)]
        free = [k for k, place in enumerate(places) if place not in chosen]
        if free:
            repeats = {k: sum(i in seen for i, seen in zip(places[k], used, strict=True)) for k in free}
            chosen.append(places[min(free, key=lambda k: (repeats[k], abs(k - goal)))])
    return chosen


def of_place(values: FloatArray, place: tuple[int, ...]) -> FloatArray:
    """One series. shape: values: [steps, N1, ..., NM] -> [steps]"""
    index: Any = (slice(None), *place)
    return np.asarray(values[index], np.float32)


def _forecast(model: Net3Predictor, panels: int) -> list[Panel]:
    training, series = model.training, model.series
    T, W, H = len(series.values), model.options.window, model.options.horizon
    lo = max(min(training.split.span(Split.TEST)[0], T - 1), T - FORECAST_STEPS)
    first = max(0, min(lo, T - CONTEXT_STEPS))
    shown = np.asarray(series.values[first:])
    chosen = choose_series(training.scaler.transform(shown), panels)
    at: Any = (slice(None), slice(None), *(np.array(i) for i in zip(*chosen, strict=True)))
    starts = np.arange(lo - W - H + 1, T - W + 1)
    predicted = np.concatenate([training.predict(starts[k : k + BATCH])[at] for k in range(0, len(starts), BATCH)])
    half = model.intervals.half_width(LEVEL)
    scale = training.scaler.scale[at[2:]]
    times, tested, ahead = (times_of(series.axis, *p) for p in ((first, T - first), (lo, T - lo), (T, H)))
    steps = np.arange(lo, T)
    out = []
    for k, place in enumerate(chosen):
        near, far = (predicted[steps - W - h - starts[0], h, k] for h in (0, H - 1))
        out.append(
            Panel(
                label=label_of(series, place),
                truth=Line(times, of_place(shown, place)),
                near=Line(tested, near, float(half[0] * scale[k])),
                far=Line(tested, far) if H > 1 else None,
                ahead=Line(ahead, predicted[-1, :, k], np.asarray(half[:H] * scale[k], np.float32)),
            )
        )
    return out


def _recovered(model: Net3Predictor, panels: int) -> list[Panel]:
    from graphlearn.models.net3.training.recover import hold_out

    series, scale = model.series, model.scale
    held = hold_out(series.values, model.options.hidden, model.options.seed)[0]
    first = max(0, len(series.values) - RECOVER_STEPS)
    shown, seen = np.asarray(series.values[first:]), np.moveaxis(held[first:], 0, -1)
    filled = read_recovered(model.artifact.path)[first:]
    half = float(model.intervals.half_width(LEVEL)[0])
    times = times_of(series.axis, first, len(shown))
    return [
        Panel(
            label=label_of(series, place),
            truth=Line(times, of_place(shown, place)),
            near=Line(times, of_place(filled, place), half * float(scale[place])),
            held=np.isfinite(of_place(shown, place)) & ~seen[place],
        )
        for place in choose_series(shown / scale, panels)
    ]


def times_of(axis: TimeAxis, first: int, count: int) -> npt.NDArray[Any]:
    """Stamps as matplotlib draws them: local dates; numbers for integer times and for years before 1 or after 9999."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stamps = axis.stamps(first, count)
    if pa.types.is_integer(stamps.type):
        return np.asarray(stamps.to_numpy(zero_copy_only=False))
    if pa.types.is_timestamp(stamps.type) and stamps.type.tz is not None:
        stamps = pc.local_timestamp(stamps)
    dates = np.asarray(stamps.to_numpy(zero_copy_only=False))
    years = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    return dates if years.min() >= 1 and years.max() <= 9999 else np.arange(first, first + count)


def label_of(series: SeriesTensor, place: tuple[int, ...]) -> str:
    """The keys of a series with their modes: `site Oslo · variable wind`."""
    pairs = zip(series.modes, place, strict=True)
    names = [f"{mode.name} {short(str(mode.keys.keys[i].as_py()), 40)}" for mode, i in pairs if mode.name is not None]
    return " · ".join(names) or series.value_name


def draw(history: History, version_folder: Path | None) -> Figure:
    """The curves and, with a stored version, some of its series and its errors."""
    stored = read_stored(version_folder) if version_folder is not None else None
    text = title(history, f"test {metrics_line(history.final, NET3_METRICS, ', ')}" if history.final else "")
    if stored is None or not stored.panels:
        figure = new_figure(11, 4.2)
        axes = figure.subplot_mosaic([["loss", "valid"]])
    else:
        figure = new_figure(15, 9.2)
        left: Any = [[f"series{k}"] for k in range(len(stored.panels))]
        right: Any = [["error"], ["error"], ["loss"], ["valid"]]
        axes = figure.subplot_mosaic([[left, right]], width_ratios=[2.4, 1])
        text += literal(f"\n{stored.verdict}") if stored.verdict else ""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12)
    draw_loss(axes["loss"], history)
    _draw_valid(axes["valid"], history)
    if stored is not None and stored.panels:
        with any_script():
            for k, panel in enumerate(stored.panels):
                _draw_panel(axes[f"series{k}"], panel, stored, last=k == len(stored.panels) - 1)
            _draw_errors(axes["error"], stored)
            figure.legend(*_legend(axes, stored), loc="outside lower left", ncols=6, frameon=False, fontsize=9)
    return figure


def _draw_valid(axes: Axes, history: History) -> None:
    axes.set_title("RMSE on the validation split", loc="left", fontsize=10)
    rmse = history.valid.get("rmse", [])
    if rmse:
        axes.plot(*zip(*rmse, strict=True), color=COLOURS[2], marker="o", markersize=4)
        epoch, best = min(rmse, key=lambda point: point[1])
        axes.annotate(
            f"best: {number(best)}", (epoch, best), textcoords="offset points", xytext=(0, -14), ha="center", fontsize=9
        )
        axes.margins(x=0.12, y=0.25)
    finish_curve(axes, bool(rmse), "no validation cells")


def _draw_panel(axes: Axes, panel: Panel, stored: Stored, *, last: bool) -> None:
    near, truth = panel.near, panel.truth
    axes.set_title(literal(panel.label), loc="left", fontsize=9.5)
    recover = panel.held is not None
    name = "recovered" if recover else "forecast one step ahead"
    axes.fill_between(
        near.times, near.values - near.half, near.values + near.half, color=MODEL, alpha=0.16, linewidth=0,
        label=f"interval ({LEVEL:.0%})",
    )  # fmt: skip
    if panel.far is not None:
        label = f"forecast {stored.horizon} steps ahead"
        axes.plot(panel.far.times, panel.far.values, color=FAR, linewidth=1.1, label=label)
    if panel.held is not None:
        shown = np.where(panel.held, np.float32(np.nan), truth.values)
        axes.plot(near.times, near.values, color=MODEL, linewidth=1.2, label=name)
        axes.plot(truth.times, shown, "o", color=TRUTH, markersize=3, label="known")
        held = np.where(panel.held, truth.values, np.float32(np.nan))
        axes.plot(truth.times, held, "D", markerfacecolor="white", markeredgecolor=FAR, markersize=5, label="held out")
        gaps = np.where(np.isfinite(truth.values), np.float32(np.nan), near.values)
        axes.plot(near.times, gaps, "s", color=MODEL, markersize=3.5, label="recovered where nothing is known")
    else:
        marker = "." if len(truth.times) <= CONTEXT_STEPS else None
        axes.plot(truth.times, truth.values, color=TRUTH, linewidth=1.3, marker=marker, markersize=4, label="true")
        axes.plot(near.times, near.values, color=MODEL, linewidth=1.3, label=name)
        axes.axvline(near.times[0], color="#8a8f98", linestyle=":", linewidth=1)
    if panel.ahead is not None:
        _draw_ahead(axes, panel.ahead)
    plain(axes)
    _draw_dates(axes, truth.times)
    if not last:
        axes.tick_params(labelbottom=False)


def _draw_ahead(axes: Axes, ahead: Line) -> None:
    """Draw the forecast after the data: a line in its interval, or a point with a bar for a single step."""
    if len(ahead.times) == 1:
        axes.errorbar(
            ahead.times, ahead.values, yerr=ahead.half, color=AFTER, fmt="o", markersize=4, capsize=2.5,
            linewidth=1.3, label="after the data",
        )  # fmt: skip
        return
    axes.plot(ahead.times, ahead.values, color=AFTER, linewidth=1.6, label="after the data")
    axes.fill_between(
        ahead.times, ahead.values - ahead.half, ahead.values + ahead.half, color=AFTER, alpha=0.2, linewidth=0
    )


def _draw_dates(axes: Axes, times: npt.NDArray[Any]) -> None:
    if times.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator: Any = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _draw_errors(axes: Axes, stored: Stored) -> None:
    """RMSE of the model and the baselines: lines over the steps of a longer horizon, else bars."""
    split = "test" if any(row["split"] == "test" for row in stored.rows) else "valid"
    rows = [row for row in stored.rows if row["split"] == split]
    steps = [row for row in rows if row["step"] is not None]
    total = sorted((row for row in rows if row["step"] is None), key=lambda row: float(row["rmse"] or 0))
    model = stored.rows[0]["method"] if stored.rows else ""
    part = {"test": "test", "valid": "validation"}[split]
    plain(axes)
    if not total:
        axes.set_title("RMSE", loc="left", fontsize=10)
        axes.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=axes.transAxes, color="#777777")
        return
    others = [row["method"] for row in total if row["method"] != model]
    colours = {model: MODEL} | {name: COLOURS[1 + k % (len(COLOURS) - 1)] for k, name in enumerate(others)}
    if steps:
        from matplotlib.ticker import MaxNLocator

        axes.set_title(f"RMSE by steps ahead, {part} split", loc="left", fontsize=10)
        for k, row in enumerate(total):
            line = [(r["step"], r["rmse"]) for r in steps if r["method"] == row["method"]]
            ours = row["method"] == model
            axes.plot(
                *zip(*line, strict=True), color=colours[row["method"]], linewidth=2.2 if ours else 1.3,
                linestyle="-" if ours else ("--", "-.", ":")[k % 3],
                marker="o" if len(line) <= 24 else None, markersize=3.5, label=row["method"], zorder=3 if ours else 2,
            )  # fmt: skip
        axes.set_xlabel("steps" if stored.freq.isdigit() else f"steps of {stored.freq}", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8.5, loc="lower right")
        return
    axes.set_title(f"RMSE on the {part} split", loc="left", fontsize=10)
    names = [row["method"] for row in total]
    values = [float(row["rmse"] or 0) for row in total]
    axes.barh(names, values, color=["#a9c3e8" if name == model else "#dfe2e7" for name in names], height=0.62)
    axes.set_yticks(range(len(names)), [""] * len(names))
    for k, row in enumerate(total):
        text = f"{row['method']}   {number(row['rmse'])}   (z {row['z_rmse']:.3f})"
        axes.annotate(
            text, (0, k), textcoords="offset points", xytext=(6, 0), va="center", fontsize=9,
            color="#16181c", weight="bold" if row["method"] == model else "normal",
        )  # fmt: skip
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _legend(axes: dict[str, Axes], stored: Stored) -> tuple[list[Any], list[str]]:
    """Every label of the series once."""
    found: dict[str, Any] = {}
    for k in range(len(stored.panels)):
        for handle, label in zip(*axes[f"series{k}"].get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: FIRST.index(label) if label in FIRST else len(FIRST))
    return [found[label] for label in labels], labels
