"""The last tasks of every dataflow: train, evaluate, publish."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.events import Note, PhaseStarted
from graphlearn.jobs.budget import LEAST, Budget
from graphlearn.jobs.dataflow import Data, Dataflow, Estimate, Needs, Operator, Task
from graphlearn.jobs.family import Sizes
from graphlearn.jobs.metrics import MetricTable
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelRequest
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.types import Json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.loop import Loop
    from graphlearn.models.core.options import Options

ANYWHERE = Needs(devices=("cuda", "cpu"))
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a trained model: headline metrics, rows of its metric table, a description of the protocol.

    `verdict` compares it with its baselines; it is empty if there are none.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    protocol: str
    verdict: str = ""


class Part(Protocol):
    """Data stored with a version: files in its folder and keys of its manifest."""

    def write(self, folder: Path) -> None:
        """Write the files to a folder."""

    def manifest(self) -> Json:
        """The keys that it adds to the manifest."""


def expected_epochs(options: Options) -> int:
    """Epochs until early stopping, for estimates: the best one tends to come within `patience` evaluations."""
    if not (options.patience and options.evaluate_every):
        return options.epochs
    return min(options.epochs, 2 * options.patience * options.evaluate_every)


def within_budget(needed: Estimate, training: Estimate, share: float) -> Estimate:
    """What baselines will cost: what their methods need, or their share of the training if that is less."""
    if not share:
        return replace(needed, method="no limit")
    return replace(needed, method="limited", limit=training * share)


def budget_text(share: float) -> str:
    """The limit of baselines in a plan, such as `; at most 20 % of the CPU time of training, at least 1 s`."""
    return f"; at most {100 * share:g} % of the CPU time of training, at least {LEAST:g} s" if share else ""


class Train(Task):
    """Train a model in a `Loop`; the outputs are `trained`, the model with its best weights, and `training_seconds`."""

    needs: ClassVar[Needs] = ANYWHERE

    @abstractmethod
    def loop(self, data: Data, context: Context) -> Loop:
        """The loop that trains the model."""

    def run(self, data: Data, context: Context) -> Data:
        loop = self.loop(data, context)
        loop.job = context.job
        context.emit(PhaseStarted(phase="train", total=loop.loop_options.epochs, unit="epochs"))
        try:
            with loop.threads():
                if context.resume:
                    loop.resume()
                loop.fit()
                return {"trained": loop.trained(), "training_seconds": loop.progress.cpu_seconds}
        finally:
            loop.close()


class Baselines(Task):
    """Train and measure simple methods that a model is compared with, after its training.

    The outputs are `baselines` and `cuts`: a sentence on what was left out to save time, empty if nothing was. The
    inputs are those that the methods need, `training_seconds`: the CPU seconds of training, and `preparation_seconds`
    if a part of the model was fitted before. `share`: of these, what the methods may use; see `Budget`.
    """

    needs: ClassVar[Needs] = ANYWHERE

    share: float

    @abstractmethod
    def measure(self, data: Data, context: Context, budget: Budget) -> Any:
        """What `evaluate` needs to compare: the metrics of each method, and samples of its test items."""

    def run(self, data: Data, context: Context) -> Data:
        budget = Budget(data["training_seconds"] + data.get("preparation_seconds", 0.0), self.share)
        found = self.measure(data, context, budget)
        cuts = budget.note()
        if cuts:
            context.emit(Note(message=cuts))
        return {"baselines": found, "cuts": cuts}


PUBLISHED = ("version", "metrics", "counts", "verdict")
"""The outputs of `Publish`."""


@dataclass(frozen=True, kw_only=True)
class Publish(Task):
    """Store weights, parts and metrics as a new version. `parts`: the names of the data to store; see `Part`.

    Its inputs are the parts, `trained`, `evaluation` and, after `Baselines`, `cuts`, which becomes part of the
    protocol. Its outputs are the version, the headline metrics, the counts of the parts and the verdict.
    """

    needs: ClassVar[Needs] = Needs(workspace=True)

    request: ModelRequest
    fingerprint: str
    table: MetricTable
    parts: tuple[str, ...]
    extra: Json = field(default_factory=dict)

    def run(self, data: Data, context: Context) -> Data:
        from safetensors.torch import save_file

        request, evaluation, cuts = self.request, data["evaluation"], data.get("cuts")
        if cuts:
            evaluation = replace(evaluation, protocol=f"{evaluation.protocol}; baselines: {cuts}")
        parts: list[Part] = [data[name] for name in self.parts]
        weights: Mapping[str, Tensor] = data["trained"].weights()
        keys: Json = {}
        for part in parts:
            keys |= part.manifest()
        with ArtifactStore(context.workspace.folder).stage(request.name) as staged:
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, staged.path / WEIGHTS)
            for part in parts:
                part.write(staged.path)
            self.table.write(staged.path, evaluation.rows, evaluation.protocol)
            manifest = {
                "family": request.family.lower(),
                "options": asdict(request.options),
                "inputs": request.inputs,
                "statement": request.statement,
                "fingerprint": self.fingerprint,
                "metrics": evaluation.metrics,
                "verdict": evaluation.verdict,
                "protocol": evaluation.protocol,
                "run": context.run,
                "seconds": time.perf_counter() - context.started,
            }
            with context.workspace.writing():
                version = staged.commit({**manifest, **self.extra, **keys})
        for part in parts:
            if hasattr(part, "close"):  # temporary files
                part.close()
        counts = keys.get("counts", {})
        return {"version": version, "metrics": evaluation.metrics, "counts": counts, "verdict": evaluation.verdict}

    def describe(self, outputs: Data) -> str:
        return f"version {outputs['version']}"


def pipeline(request: ModelRequest, sizes: Sizes, *, encode: Task, train: Train, evaluate: Task) -> Dataflow:
    """The simplest plan, without estimates: encode -> train -> evaluate -> publish.

    `encode` produces `encoded`, a `Part`; `evaluate` produces `evaluation`, an `Evaluation` with the family's metrics
    by split.
    """
    publish = Publish(
        request=request,
        fingerprint=request.fingerprint(sizes.fingerprints),
        table=MetricTable((pa.field("split", pa.string()),), family(request.family).metrics),
        parts=("encoded",),
    )
    last = ("encoded", "trained", "evaluation")
    return Dataflow(
        [
            Operator(name="encode", task=encode, outputs=last[:1]),
            Operator(name="train", task=train, inputs=last[:1], outputs=last[1:2], reports_itself=True),
            Operator(name="evaluate", task=evaluate, inputs=last[:2], outputs=last[2:]),
            Operator(name="publish", task=publish, inputs=last, outputs=PUBLISHED),
        ],
        request.options,
    )


def check_unchanged(found: str, measured: str, role: str) -> None:
    """Raise InputError if the rows have changed since they were measured."""
    if found != measured:
        raise InputError(
            "the rows of the query changed while the job was reading them", role=role, help="run the job again"
        )
