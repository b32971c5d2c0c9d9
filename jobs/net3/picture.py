"""The picture of a run: some series with their forecasts, errors of the model and its baselines, curves over epochs.

matplotlib is optional (`pip install 'graphlearn[plot]'`) and imported only inside the functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphlearn.jobs.drawing import (
    COLOURS,
    History,
    any_script,
    below,
    draw_loss,
    finish_curve,
    literal,
    new_figure,
    plain,
    short,
    title,
)
from graphlearn.jobs.metrics import read_metrics
from graphlearn.jobs.net3.metrics import NET3_METRICS
from graphlearn.jobs.net3.parts import read_recovered
from graphlearn.jobs.net3.predictor import Net3Predictor
from graphlearn.models.net3.data.tensor import blocks
from graphlearn.storage.artifacts import MANIFEST, Artifact
from graphlearn.storage.files import read_json
from graphlearn.text import counted, number
from graphlearn.types import BoolArray, FloatArray, Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graphlearn.storage.series.axis import TimeAxis
    from graphlearn.storage.series.tensor import SeriesTensor

PANELS = 4  # series that are drawn
FORECAST_STEPS, CONTEXT_STEPS, RECOVER_STEPS = 200, 60, 80  # time steps that are drawn of them
LEVEL = 0.9
FIRST = ("true", "known", "held out")  # in the legend
TRUTH, MODEL, FAR, AFTER, *OTHERS = "#33373d", *COLOURS  # what is drawn; the last ones are those of the baselines


@dataclass(frozen=True)
class Line:
    """Values of a series over a stretch of time, and their interval. shape: [n] each"""

    times: npt.NDArray[Any]
    values: FloatArray
    lower: FloatArray | None = None
    upper: FloatArray | None = None


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
    time: str
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
        time=model.series.time_name,
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
    start = max(0, lo - W - H + 1)
    found = []
    for _, predicted, spread in training.rolling(start, T - W + 1):
        bounds = model.intervals.interval(predicted, spread, training.scaler.scale, LEVEL)
        found.append(np.stack([x[at] for x in (model.intervals.clip(predicted), *bounds)]))
    drawn = np.concatenate(found, axis=1)  # value, lower and upper bound by window, step ahead and panel
    lo = max(lo, start + W + H - 1)
    times, tested, ahead = (times_of(series.axis, *p) for p in ((first, T - first), (lo, T - lo), (T, H)))
    steps = np.arange(lo, T)
    out = []
    for k, place in enumerate(chosen):
        near, far = (drawn[:, steps - W - h - start, h, k] for h in (0, H - 1))
        out.append(
            Panel(
                label=label_of(series, place),
                truth=Line(times, of_place(shown, place)),
                near=Line(tested, *near),
                far=Line(tested, far[0]) if H > 1 else None,
                ahead=Line(ahead, *drawn[:, -1, :, k]),
            )
        )
    return out


def _recovered(model: Net3Predictor, panels: int) -> list[Panel]:
    """The series with the longest gap, around it, and others at the end of the data."""
    from graphlearn.models.net3.training.recover import hold_out

    series, scale, intervals = model.series, model.scale, model.intervals
    held = hold_out(series.values, model.options.hidden, model.options.seed)[0]
    filled = read_recovered(model.artifact.path, series.values.shape)
    assert intervals.spread is not None
    T = len(series.values)
    end = max(0, T - RECOVER_STEPS)
    places = [(place, end) for place in choose_series(np.asarray(series.values[end:]) / scale, panels)]
    gap = longest_gap(series.values)
    if gap is not None:
        place, begin, length = gap
        around = max(0, min(begin + length // 2 - RECOVER_STEPS // 2, T - RECOVER_STEPS))
        places = [(place, around), *((other, first) for other, first in places if other != place)][:panels]
    out = []
    for place, first in places:
        steps = slice(first, min(T, first + RECOVER_STEPS))
        truth, seen = of_place(series.values[steps], place), np.moveaxis(held[steps], 0, -1)[place]
        found = np.asarray(filled[steps])[:, None]
        bounds = intervals.interval(found, intervals.spread, scale, LEVEL)
        times = times_of(series.axis, first, len(truth))
        out.append(
            Panel(
                label=label_of(series, place),
                truth=Line(times, truth),
                near=Line(times, *(of_place(x[:, 0], place) for x in (found, *bounds))),
                held=np.isfinite(truth) & ~seen,
            )
        )
    if gap is not None:
        out[0] = replace(out[0], label=f"{out[0].label} · the longest gap: {counted(gap[2], 'step')}")
    return out


def longest_gap(values: FloatArray) -> tuple[tuple[int, ...], int, int] | None:
    """The longest run of missing cells between known ones: its series, first step and length; None without a gap.

    shape: [T, N1, ..., NM]
    """
    shape = values.shape[1:]
    last = np.full(int(np.prod(shape)), -1)  # the last known step of each series
    length, series, begin = 0, 0, 0
    for lo, block in blocks(values):
        for t, row in enumerate(np.isfinite(block).reshape(len(block), -1), lo):
            gaps = np.where(row & (last >= 0), t - last - 1, 0)
            n = int(gaps.argmax())
            if gaps[n] > length:
                length, series, begin = int(gaps[n]), n, int(last[n]) + 1
            last[row] = t
    return (tuple(int(i) for i in np.unravel_index(series, shape)), begin, length) if length else None


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
    text = title(history, NET3_METRICS)
    if stored is None or not stored.panels:
        figure = new_figure(11, 4.2)
        axes = figure.subplot_mosaic([["loss", "valid"]])
    else:
        figure = new_figure(15, 9.2)
        left: Any = [[f"series{k}"] for k in range(len(stored.panels))]
        right: Any = [["error"], ["error"], ["loss"], ["valid"]]
        axes = figure.subplot_mosaic([[left, right]], width_ratios=[2.4, 1])
        text += below(stored.verdict)
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
        axes.plot(*zip(*rmse, strict=True), color=MODEL, marker="o", markersize=4)
        epoch, best = min(rmse, key=lambda point: point[1])
        axes.annotate(
            f"best: {number(best)}", (epoch, best), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=9
        )
        axes.margins(x=0.12, y=0.25)
    finish_curve(axes, bool(rmse), "no validation cells")


def _draw_panel(axes: Axes, panel: Panel, stored: Stored, *, last: bool) -> None:
    near, truth = panel.near, panel.truth
    axes.set_title(literal(panel.label), loc="left", fontsize=9.5)
    recover = panel.held is not None
    name = "recovered" if recover else "forecast one step ahead"
    _draw_interval(axes, near, MODEL, 0.16, _interval_label(stored))
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
    axes.set_ylabel(literal(short(stored.value, 24)), fontsize=8.5)
    _draw_dates(axes, truth.times)
    if last:
        axes.set_xlabel(literal(short(stored.time, 24)), fontsize=8.5)
    elif not recover:
        axes.tick_params(labelbottom=False)


def _draw_ahead(axes: Axes, ahead: Line) -> None:
    """Draw the forecast after the data: a line in its interval, or a point with a bar for a single step."""
    if len(ahead.times) == 1:
        axes.errorbar(
            ahead.times, ahead.values, yerr=_arms(ahead), color=AFTER, fmt="o", markersize=4, capsize=2.5,
            linewidth=1.3, label="after the data",
        )  # fmt: skip
        return
    axes.plot(ahead.times, ahead.values, color=AFTER, linewidth=1.6, label="after the data")
    _draw_interval(axes, ahead, AFTER, 0.2)


def _draw_interval(axes: Axes, line: Line, colour: str, alpha: float, label: str | None = None) -> None:
    if line.lower is not None and line.upper is not None and np.isfinite(line.upper).any():
        axes.fill_between(line.times, line.lower, line.upper, color=colour, alpha=alpha, linewidth=0, label=label)


def _arms(line: Line) -> Any:
    """The distances to the bounds of an interval; None where it is unbounded. shape: [2, n]"""
    if line.lower is None or line.upper is None or not np.isfinite(line.upper).all():
        return None
    return np.stack([line.values - line.lower, line.upper - line.values])


def _interval_label(stored: Stored) -> str:
    """The nominal level and the coverage on the test split."""
    name = f"coverage_{100 * LEVEL:g}"
    reached = next((row[name] for row in stored.rows if row["split"] == "test" and row.get("step") is None), None)
    contains = f" (contains {100 * reached:.1f} % of the test cells)" if reached is not None else ""
    return f"{100 * LEVEL:g} % interval{contains}"


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
    part, unit = {"test": "test", "valid": "validation"}[split], literal(short(stored.value, 24))
    plain(axes)
    if not total:
        axes.set_title("RMSE", loc="left", fontsize=10)
        axes.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=axes.transAxes, color="#777777")
        return
    others = [row["method"] for row in total if row["method"] != model]
    colours = {model: MODEL} | {name: OTHERS[k % len(OTHERS)] for k, name in enumerate(others)}
    if steps:
        from matplotlib.ticker import MaxNLocator

        axes.set_title(f"RMSE by steps ahead, {part} split", loc="left", fontsize=10)
        for k, row in enumerate(total):
            line = [(r["step"], r["rmse"]) for r in steps if r["method"] == row["method"]]
            ours = row["method"] == model
            axes.plot(
                *zip(*line, strict=True), color=colours[row["method"]], linewidth=5 if ours else 1.5,
                linestyle="-" if ours else ("--", "-.", ":")[k % 3], alpha=0.5 if ours else 1,
                marker="o" if len(line) <= 24 else None, markersize=7 if ours else 3,
                label=row["method"], zorder=2 if ours else 3,  # dashes on a pale line, so that equal ones are both seen
            )  # fmt: skip
        axes.set_xlabel("steps" if stored.freq.isdigit() else f"steps of {stored.freq}", fontsize=9)
        axes.set_ylabel(f"RMSE ({unit})", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        return
    axes.set_title(f"RMSE on the {part} split", loc="left", fontsize=10)
    names = [row["method"] for row in total]
    values = [float(row["rmse"] or 0) for row in total]
    arms = [
        (v - (low if (low := row["rmse_low"]) is not None else v), (row["rmse_high"] or v) - v)
        for v, row in zip(values, total, strict=True)
    ]
    axes.barh(
        names, values, xerr=np.maximum(np.array(arms).T, 0), height=0.3,
        color=["#a9c3e8" if name == model else "#dfe2e7" for name in names],
        error_kw={"ecolor": "#8a8f98", "elinewidth": 1.2, "capsize": 2.5},
    )  # fmt: skip
    axes.set_xlabel(f"RMSE ({unit}), with 95 % interval", fontsize=9)
    axes.set_yticks(range(len(names)), [""] * len(names))
    for k, row in enumerate(total):
        text = f"{row['method']}   {number(row['rmse'])}   (z {row['z_rmse']:.3f})"
        axes.annotate(
            text, (0, k - 0.2), textcoords="offset points", xytext=(2, 2), va="bottom", fontsize=9,
            color="#16181c", weight="bold" if row["method"] == model else "normal",
        )  # fmt: skip
    axes.set_ylim(len(names) - 0.6, -0.8)
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
