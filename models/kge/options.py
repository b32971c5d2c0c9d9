"""Options every knowledge-graph embedding shares. Each model's own file adds its fields and changes the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphlearn.errors import OptionError
from graphlearn.models.core.options import Options


@dataclass(frozen=True, kw_only=True)
class KgeOptions(Options):
    """Options of all knowledge-graph embedding models."""

    dim: int = 200
    """Real numbers per entity. Complex models use dim / 2 complex numbers, so it must be even there."""
    epochs: int = 50
    """Passes over the training triples."""
    batch_size: int = 1000
    """Queries per optimiser step. A query asks for one end of a triple."""
    chunk_size: int = 500
    """Queries that share one set of negatives; the unit of parallel work (results do not depend on threads)."""
    negatives: int = 200
    """Shared negatives per chunk, drawn with replacement; 0 scores every query against all entities."""
    negative_sampling: Literal["shared", "independent"] = "shared"
    """shared: one draw per chunk, scored by matrix product. independent: a draw per query, which costs more."""
    degree_exponent: float = 0.0
    """Draw negatives with probability proportional to degree ** exponent; 0 is uniform."""
    filter_negatives: bool = False
    """Leave out negatives that are known training answers of the query."""
    sides: Literal["both", "alternate", "tail", "head"] = "both"
    """Which end to ask for: both ends of every triple in each epoch, one end by turns, or always the same end."""
    reciprocal: bool = False
    """Ask for heads as tails of an inverse relation with its own embedding (Lacroix et al. 2018)."""
    loss: Literal["softmax", "logistic", "margin", "bce"] = "softmax"
    """softmax: cross-entropy, sampled or 1-vs-all. logistic: self-adversarial (Sun et al. 2019). margin: hinge on each
    negative. bce: binary cross-entropy summed over negatives or all entities."""
    margin: float = 0.0
    """Margin of the margin loss, or the constant added to every score by the logistic and bce losses."""
    adversarial_temperature: float = 0.0
    """logistic: negatives are weighted by softmax(temperature * score); 0 weights them alike."""
    regularizer: Literal["n3", "l2", "dura"] = "n3"
    """Penalty on the embeddings of each query and its answer: sum |x|^3 (n3) or sum x^2 (l2); dura (Zhang et al. 2020):
    sum x^2 of both entities and of the query vector, where the relation has acted, in place of the relation itself."""
    regularization: float = 0.0
    """Weight of the penalty."""
    entity_dropout: float = 0.0
    """Dropout on the embedding of the given entity, while training."""
    relation_dropout: float = 0.0
    """Dropout on the relation embedding, while training."""
    query_dropout: float = 0.0
    """Dropout on the query vector that is compared with candidates, while training."""
    optimizer: Literal["adagrad", "row_adagrad", "row_adam"] = "adagrad"
    """adagrad: an accumulator per entry. row_adagrad: one per row. row_adam: second moment per row. Rows that a step
    does not touch do not move."""
    learning_rate: float = 0.1
    """Step size at the start."""
    schedule: Literal["constant", "linear"] = "constant"
    """linear: the step size falls to zero at the last epoch."""
    init_scale: float = 0.1
    """Embeddings start as normal numbers of this standard deviation (RotatE: see there)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the score products; tables and updates stay float32."""
    evaluate_every: int = 5
    """Epochs between evaluations on the validation triples; 0 evaluates at the end only."""
    evaluate_at_most: int = 5000
    """Validation triples used while training: a fixed random part, or all of them when fewer."""
    evaluate_all: bool = False
    """Rank all validation and test triples for the final report; by default at most 20,000 of each split, drawn at
    random."""
    patience: int = 3
    """Stop after this many evaluations without a better validation MRR; 0 never stops early."""
    test_fraction: float = 0.05
    """Share of triples held out for the test when the query has no split column."""
    valid_fraction: float = 0.05
    """Share of triples held out for validation when the query has no split column."""
    threads: int = 0
    """Worker threads on a CPU; 0 takes all cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "dim", "batch_size", "chunk_size", "evaluate_at_most")
        self.check_at_least(0, "negatives", "degree_exponent", "margin", "adversarial_temperature", "regularization")
        self.check_above(0, "init_scale")
        self.check_fractions("entity_dropout", "relation_dropout", "query_dropout", "test_fraction", "valid_fraction")
        if self.test_fraction + self.valid_fraction >= 1:
            raise OptionError("test_fraction and valid_fraction leave nothing to train on", key="test_fraction")
        if self.negatives == 0 and self.loss not in ("softmax", "bce"):
            raise OptionError(
                f"the {self.loss} loss needs sampled negatives",
                key="negatives",
                help="set negatives to 200, say, or use loss = 'softmax'",
            )
        if self.loss != "logistic":
            self.replace_default("adversarial_temperature", 0.0)  # a model's default belongs to its default loss
        if self.loss == "softmax":
            self.replace_default("margin", 0.0)
        if self.loss != "logistic":
            without = f"with loss = '{self.loss}'"
            self.refuse(["adversarial_temperature"], without, "leave it out, or use loss = 'logistic'")
        if self.loss == "softmax":
            self.refuse(["margin"], "with loss = 'softmax'", "leave it out, or choose another loss")
        if self.negative_sampling == "independent" and self.negatives == 0:
            raise OptionError("independent sampling needs a number of negatives", key="negatives")
        if self.negatives == 0:
            self.refuse(
                ["degree_exponent", "negative_sampling"], "with negatives = 0", "leave it out, or set negatives"
            )
        if self.regularization == 0:
            self.refuse(["regularizer"], "with regularization = 0", "leave it out, or set regularization")
        if self.reciprocal and self.sides in ("tail", "head"):
            raise OptionError(
                f"with reciprocal relations, sides = '{self.sides}' would leave half of the relations untrained",
                key="sides",
                help="add reciprocal = false, or leave sides out",
            )

    def check_even_dim(self, why: str) -> None:
        if self.dim % 2:
            raise OptionError(f"dim must be even: {why}", key="dim", help=f"use {self.dim + 1}")
