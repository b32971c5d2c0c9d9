"""The picture of a run, drawn by its family."""

from __future__ import annotations

from pathlib import Path

from graphlearn.errors import UserError
from graphlearn.jobs.drawing import can_draw, read_history, save
from graphlearn.jobs.registry import family

PICTURE = "report.png"


def draw_report(run_folder: Path, version_folder: Path | None = None, path: Path | None = None) -> Path:
    """Draw a run as a PNG, by default report.png in its folder, including the learnt model if its folder is given.

    Raises UserError if matplotlib is missing or the run has no events, ArtifactError if the version is damaged.
    """
    if not can_draw():
        raise UserError("the picture needs matplotlib", help="pip install 'graphlearn[plot]'")
    history = read_history(run_folder)
    figure = family(history.family).picture(history, version_folder)
    target = path or run_folder / PICTURE
    save(figure, target)
    return target
