"""The tables of a model and one optimiser step on them: what every engine has in common.

Engines get the same batches, and under one seed they follow the same loss curve.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from graphlearn.models.core.table import LocalTable
from graphlearn.models.kge.batches import Batch, table_rows
from graphlearn.models.kge.embedding import Embedding
from graphlearn.models.kge.scorer import Scorer


class Engine(ABC):
    """Entities [E, D], relations [R or 2R, width] and dense parameters, each a table with its optimiser state."""

    def __init__(self, scorer: Scorer, n_entities: int, n_relations: int, device: torch.device) -> None:
        self.scorer, self.options, self.device = scorer, scorer.options, device
        self.n_entities, self.n_relations = n_entities, n_relations
        seed, kind = self.options.seed, self.options.optimizer
        generator = torch.Generator().manual_seed(seed)
        self.entities = LocalTable(
            scorer.initial_entities(n_entities, generator).to(device), kind, scorer.initial_entities, seed=(seed, 0)
        )
        rows = table_rows(n_relations, self.options)
        self.relations = LocalTable(
            scorer.initial_relations(rows, generator).to(device),
            kind,
            scorer.initial_relations,
            seed=(seed, 1),
            parts=table_rows(1, self.options),
        )
        self.dense = {
            name: LocalTable(value.to(device), kind) for name, value in scorer.initial_dense(generator).items()
        }

    @property
    def tables(self) -> dict[str, LocalTable]:
        """Everything that is learnt, by name."""
        return {"entities": self.entities, "relations": self.relations, **self.dense}

    @property
    def embedding(self) -> Embedding:
        """The current model. It shares memory with the tables until they grow."""
        dense = {name: table.weights for name, table in self.dense.items()}
        return Embedding(self.scorer, self.entities.weights, self.relations.weights, dense, self.n_relations)

    def weights(self) -> dict[str, Tensor]:
        """The weights of every table, by name: what predictions need."""
        return {name: table.weights for name, table in self.tables.items()}

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state, flat: what a checkpoint holds."""
        out = self.weights()
        for name, table in self.tables.items():
            out |= {f"optimiser.{name}.{key}": value for key, value in table.state().items() if key != "weights"}
        return out

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy weights, and optimiser state where given, into place. Sizes must agree: grow first."""
        for name, value in self.state().items():
            if name in tensors:
                value.copy_(tensors[name])

    def grow(self, n_entities: int, n_relations: int) -> None:
        """Append entities and relations. Ids stay, except that inverse relations follow all relations again."""
        self.n_entities, self.n_relations = n_entities, n_relations
        self.entities.grow(n_entities)
        self.relations.grow(table_rows(n_relations, self.options))

    @abstractmethod
    def step(self, batch: Batch, rate: float) -> float | Tensor:
        """One optimiser step; returns the sum of the losses and penalties of its training examples.

        A tensor on the device where reading the number at once would make the device wait.
        """

    def close(self) -> None:  # noqa: B027
        """Release threads, where the engine has any."""
