"""Options of DHAN, the encoder of graphs with several node types and relations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphlearn.errors import OptionError
from graphlearn.models.core.checks import (
    check_at_least,
    check_finite,
    check_fractions,
    check_positive_rate,
    take_published,
)


@dataclass(frozen=True, kw_only=True)
class DhanOptions:
    """Options of DHAN that the model and its training know; where the graph comes from is the job's."""

    published: bool = False
    """The form of the paper: linear attention of one head without a mask, intra layers, then inter layers."""
    hidden: int = 64
    """Width of the hidden states; a multiple of heads."""
    heads: int = 4
    """Attention heads."""
    layers: int = 1
    """Layers of each level: intra layers (within a type) and inter layers (between types)."""
    attention: Literal["linear", "gat", "gatv2"] = "gat"
    """How a neighbour is scored: by itself; with the node that asks (Velickovic et al. 2018); or with it, after a
    nonlinearity (Brody et al. 2022)."""
    mask: bool = True
    """A relation in which a node has no neighbours takes no share of its attention."""
    reverse: bool = True
    """Messages also run against the edges, as relations of their own, where a relation is not symmetric."""
    fusion: Literal["sequential", "concat", "gate"] = "sequential"
    """Intra and inter layers one after another; side by side and concatenated; or side by side and mixed by a gate."""
    jumping: bool = True
    """The output reads the states of all layers, not only the last (Xu et al. 2018, jumping knowledge)."""
    similar: int = 10
    """Classes: nodes with the most similar features that each node of the labelled type is linked to, as one more
    relation (Wang et al. 2020, AM-GCN); 0 adds none. Not in a type too large to compare all its nodes."""
    hops: int = 2
    """Steps along relations of all kinds over which features are averaged before any attention; 0 leaves them out."""
    restart: float = 0.5
    """Share of its own features that a node keeps in each of these steps."""
    highway: bool = True
    """Classes: a linear model on averaged features stands beside the network; the validation part chooses how far they
    are averaged and how much it counts. Not when neighbours are sampled."""
    hop_labels: bool = True
    """Average the labels of the train part along the same paths, a node's own label left out."""
    weighting: Literal["raw", "mean", "tfidf"] = "tfidf"
    """Sparse features as they are, scaled to rows that add up to 1, or by rarity to rows of length 1."""
    input_dropout: float = 0.3
    """Share of the features that is dropped while training."""
    dropout: float = -1.0
    """Share of the hidden states that is dropped while training; -1: 0.5 for classes, 0.1 for links and embeddings."""
    attention_dropout: float = 0.2
    """Share of the neighbours that is dropped while training."""
    fanout: tuple[int, ...] = ()
    """Neighbours that are sampled of each relation, per layer; without it every step sees the whole graph."""
    batch_size: int = 1024
    """Nodes or edges per step when neighbours are sampled."""
    negatives: int = 200
    """Links and embeddings: random nodes that each true link is told apart from."""
    candidates: int = 0
    """Links: candidates a true target is ranked against, at random; 0 ranks against every node of its type."""
    epochs: int = 200
    """Passes over the train part."""
    learning_rate: float = 0.005
    """Step size of Adam."""
    weight_decay: float = 0.001
    """Decoupled weight decay."""
    averaging: float = 0.9
    """Predictions use an exponential mean of the weights over steps with this memory; 0 uses the last weights."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation part; 0 evaluates at the end only."""
    patience: int = 30
    """Stop after this many evaluations without a better validation figure; 0 never stops early."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, from which a killed run continues."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model lives; auto takes a GPU when there is one."""
    threads: int = 0
    """Threads on a CPU; 0 leaves them as they are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fanout", tuple(self.fanout))
        check_finite(self)
        check_at_least(self, 1, "hidden", "heads", "layers", "batch_size", "negatives", "epochs")
        check_at_least(self, 0, "hops", "candidates", "weight_decay", "evaluate_every", "patience", "seed", "threads")
        check_at_least(self, 0, "checkpoint_seconds", "similar")
        check_fractions(self, "restart", "input_dropout", "attention_dropout", "averaging")
        if self.dropout != -1 and not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must lie in [0, 1) or be -1, not {self.dropout}", key="dropout")
        check_positive_rate(self)
        if any(f < 1 for f in self.fanout):
            raise OptionError(
                "fanout holds numbers of neighbours, each at least 1", key="fanout", help="fanout = [10, 5]"
            )
        if self.published:
            self._as_published()
        if self.hidden % self.heads:
            raise OptionError(
                f"hidden must be a multiple of heads, {self.hidden} is none of {self.heads}", key="hidden"
            )

    def _as_published(self) -> None:
        """Defaults that are ours become the paper's; the ones of ours that were asked for are an error."""
        theirs: dict[str, object] = {
            "heads": 1,
            "attention": "linear",
            "mask": False,
            "fusion": "sequential",
            "jumping": False,
            "hops": 0,
            "hop_labels": False,
            "highway": False,
            "weighting": "raw",
            "input_dropout": 0.0,
            "attention_dropout": 0.0,
            "similar": 0,
            "averaging": 0.0,
        }
        take_published(self, theirs)
