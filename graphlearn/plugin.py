"""The API for packages that provide a model family; see "Write your own family" in CONTRIBUTING.md."""

from __future__ import annotations

from graphlearn.errors import InputError, OptionError, UserError
from graphlearn.events import Evaluated, Note
from graphlearn.jobs.dataflow import Data, Dataflow, Estimate, Needs, Operator, Task
from graphlearn.jobs.execute import Context
from graphlearn.jobs.family import (
    Count,
    Family,
    ModelShape,
    Predictor,
    Question,
    Role,
    Sizes,
    Summary,
    SummaryTable,
    TableFunction,
)
from graphlearn.jobs.loop import Loop
from graphlearn.jobs.metrics import Metric, MetricTable
from graphlearn.jobs.request import ModelRequest
from graphlearn.jobs.train import PUBLISHED, WEIGHTS, Evaluation, Publish, Train, pipeline
from graphlearn.models.core.options import Options

__all__ = [
    "PUBLISHED",
    "WEIGHTS",
    "Context",
    "Count",
    "Data",
    "Dataflow",
    "Estimate",
    "Evaluated",
    "Evaluation",
    "Family",
    "InputError",
    "Loop",
    "Metric",
    "MetricTable",
    "ModelRequest",
    "ModelShape",
    "Needs",
    "Note",
    "Operator",
    "OptionError",
    "Options",
    "Predictor",
    "Publish",
    "Question",
    "Role",
    "Sizes",
    "Summary",
    "SummaryTable",
    "TableFunction",
    "Task",
    "Train",
    "UserError",
    "pipeline",
]
