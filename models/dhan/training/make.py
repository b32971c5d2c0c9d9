"""The training that belongs to a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graphlearn.models.dhan.training.classes import ClassTraining
from graphlearn.models.dhan.training.embeddings import EmbeddingTraining
from graphlearn.models.dhan.training.links import LinkTraining
from graphlearn.models.hetero.tasks import LinkRanking, Unsupervised

if TYPE_CHECKING:
    from torch import Tensor

    from graphlearn.models.dhan.options import DhanOptions
    from graphlearn.models.dhan.training.training import HeteroTraining
    from graphlearn.models.hetero.graph import HeteroGraph
    from graphlearn.models.hetero.tasks import Task


def make_training(
    graph: HeteroGraph, task: Task, options: DhanOptions, fitted: Mapping[str, Tensor] | None = None
) -> HeteroTraining:
    """A new training, or one restored from `fitted`, the state or weights of such a training."""
    if isinstance(task, LinkRanking):
        return LinkTraining(graph, task, options, fitted)
    if isinstance(task, Unsupervised):
        return EmbeddingTraining(graph, task, options, fitted)
    return ClassTraining(graph, task, options, fitted)
