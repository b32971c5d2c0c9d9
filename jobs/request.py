"""A bound CREATE MODEL, and the results of CREATE MODEL and DROP MODEL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from html import escape
from pathlib import Path
from typing import Any

from graphlearn.jobs.metrics import METRICS, metrics_line, present
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.stored import read_parquet
from graphlearn.types import Json


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A bound CREATE MODEL: `options` is the family's dataclass, `inputs` maps role -> SQL query."""

    name: str
    family: str
    options: Any
    inputs: dict[str, str]
    statement: str

    def definition(self) -> Json:
        """What a request asks for, apart from the data."""
        return {"family": self.family.lower(), "options": asdict(self.options), "inputs": self.inputs}

    def fingerprint(self, data: Mapping[str, str]) -> str:
        """The identity of the job: a digest of its definition and of the rows of every input.

        The options in `Options.runtime`, such as `threads`, do not count. `data` maps role -> digest of its rows. A
        model is up to date if it has the same fingerprint, and a run can be resumed by a job that has.
        """
        defined = self.definition()
        defined["options"] = {k: v for k, v in defined["options"].items() if k not in self.options.runtime}
        text = json.dumps([defined, dict(sorted(data.items()))], sort_keys=True, default=str)
        return blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """The result of CREATE MODEL.

    `status`: "done" or "unchanged". `metrics` were measured on `split`: the test split or, if that is empty, another;
    it is empty if nothing was measured. `verdict` compares the model with its baselines.
    """

    model: str
    family: str
    version: int
    status: str
    seconds: float = 0.0
    run: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    split: str = ""
    counts: Json = field(default_factory=dict)
    verdict: str = ""

    @classmethod
    def stored(cls, artifact: Artifact, *, status: str, run: str | None = None) -> ModelResult:
        """The result for a version that is already stored."""
        manifest = artifact.manifest
        return cls(
            model=artifact.model,
            family=str(manifest.get("family", "")),
            version=artifact.version,
            status=status,
            run=run or manifest.get("run"),
            metrics=manifest.get("metrics", {}),
            split=measured_split(artifact.path),
            counts=manifest.get("counts", {}),
            verdict=manifest.get("verdict") or "",
        )

    def __repr__(self) -> str:
        from graphlearn.jobs.registry import family

        if self.status == "unchanged":
            return f"model {self.model} version {self.version}: unchanged"
        kind = family(self.family)
        line = f"model {self.model} version {self.version}: {self.family}, trained in {self.seconds:.1f} s"
        figures = metrics_line(self.metrics, kind.metrics, ", ")
        measured = f"{kind.protocol} {self.split} {figures}".strip() if figures else ""
        return "; ".join(part for part in (line, measured, self.verdict) if part)

    def _repr_html_(self) -> str:
        """The result as a table, for notebooks."""
        from graphlearn.jobs.registry import family

        shown = {"model": self.model, "type": self.family, "version": self.version, "status": self.status}
        shown |= {
            metric.title: metric.text(value) for metric, value in present(self.metrics, family(self.family).metrics)
        }
        if self.split:
            shown["measured on"] = self.split
        if self.verdict:
            shown["compared with baselines"] = self.verdict
        head = "".join(f"<th>{escape(name)}</th>" for name in shown)
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in shown.values())
        return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"


def measured_split(version_folder: Path) -> str:
    """The split on which the metrics of a version were measured: the first of its metric table; empty without metrics.

    Raises ArtifactError if the table is damaged.
    """
    path = version_folder / METRICS
    table = read_parquet(path, "metric table") if path.exists() else None
    found = set() if table is None or "split" not in table.column_names else set(table["split"].unique().to_pylist())
    return next((split for split in ("test", "all", "valid", "train") if split in found), "")


@dataclass(frozen=True, kw_only=True)
class DropResult:
    """The versions removed by DROP MODEL; none if IF EXISTS found no model."""

    model: str
    versions: tuple[int, ...] = ()

    def __repr__(self) -> str:
        if not self.versions:
            return f"model {self.model} does not exist"
        return (
            f"model {self.model}: dropped, version{'s' * (len(self.versions) > 1)} {', '.join(map(str, self.versions))}"
        )
