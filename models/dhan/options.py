"""Options of DHAN, the encoder of graphs with several node types and relations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphlearn.errors import OptionError
from graphlearn.models.core.options import Options

DEEPEST = 100
"""Layers or hops of a network. After far fewer of them, all connected nodes have nearly the same state."""


@dataclass(frozen=True, kw_only=True)
class DhanOptions(Options):
    """Options of the DHAN model and its training; those of its input belong to the job."""

    renamed: ClassVar[Mapping[str, str]] = {
        "highway": "linear",
        "similar": "knn",
        "averaging": "ema",
        "published": "variant = 'paper'",
    }

    variant: Literal["default", "paper"] = "default"
    """paper: the model as published: linear attention with one head and no mask, intra layers, then inter layers."""
    hidden: int = 64
    """Width of the hidden states; a multiple of heads."""
    heads: int = 4
    """Attention heads."""
    layers: int = 1
    """Layers of each level: intra layers (within a type) and inter layers (between types)."""
    attention: Literal["linear", "gat", "gatv2"] = "gat"
    """How a neighbour is scored: by its own state; by its state and the target's (Velickovic et al. 2018); or by both
    after a nonlinearity (Brody et al. 2022)."""
    mask: bool = True
    """A relation in which a node has no neighbours gets no share of its attention."""
    reverse: bool = True
    """Add the reverse of every relation that is not symmetric as a relation of its own."""
    fusion: Literal["sequential", "concat", "gate"] = "sequential"
    """Intra and inter layers one after the other; in parallel and concatenated; or in parallel and mixed by a gate."""
    jumping: bool = True
    """The output combines the states of all layers (Xu et al. 2018, jumping knowledge), not only the last."""
    knn: int = 10
    """Node classification: link each node of the labelled type to this many nodes with the most similar features, as
    an additional relation (Wang et al. 2020, AM-GCN); 0 adds none. Skipped for types with too many nodes to compare."""
    hops: int = 2
    """Steps over which features are averaged along all relations before any attention; 0 averages none."""
    restart: float = 0.5
    """Share of its own features that a node keeps at each of these steps."""
    linear: bool = True
    """Node classification: combine the network with a linear model on averaged features; how far they are averaged and
    the weight of the linear model are selected on the validation split. Not with fanout."""
    hop_labels: bool = True
    """Average the labels of the training nodes along the same paths, excluding a node's own label."""
    weighting: Literal["raw", "mean", "tfidf"] = "tfidf"
    """Sparse features as they are, scaled so that each row sums to 1, or weighted by tf-idf with rows of length 1."""
    input_dropout: float = 0.3
    """Dropout on the features."""
    dropout: float = -1.0
    """Dropout on the hidden states; -1: 0.5 for node classification, 0.1 for links and embeddings."""
    attention_dropout: float = 0.2
    """Dropout on the attention weights of neighbours."""
    fanout: tuple[int, ...] = ()
    """Neighbours sampled per relation, for each layer; without it every step reads the whole graph."""
    batch_size: int = 1024
    """Nodes or edges per step when neighbours are sampled."""
    negatives: int = 200
    """Links and embeddings: random nodes that each true link is contrasted with."""
    candidates: int = 0
    """Links: random candidates that a true target is ranked against; 0 ranks against every node of its type."""
    epochs: int = 200
    """Passes over the training split."""
    learning_rate: float = 0.005
    """Step size of AdamW."""
    weight_decay: float = 0.001
    """Decoupled weight decay."""
    ema: float = 0.9
    """Decay of the exponential moving average of the weights that predictions use; 0 uses the last weights."""
    patience: int = 30
    """Stop after this many evaluations without an improvement on the validation split; 0 never stops early."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fanout", tuple(self.fanout))
        super().__post_init__()
        self.check_at_least(1, "hidden", "heads", "layers", "batch_size", "negatives")
        self.check_at_least(0, "hops", "candidates", "weight_decay", "knn")
        for name in ("layers", "hops"):
            if getattr(self, name) > DEEPEST:
                raise OptionError(f"{name} must be at most {DEEPEST}, not {getattr(self, name)}", key=name)
        self.check_fractions("restart", "input_dropout", "attention_dropout", "ema")
        if self.dropout != -1 and not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must lie in [0, 1) or be -1, not {self.dropout}", key="dropout")
        if any(f < 1 for f in self.fanout):
            raise OptionError(
                "each number of neighbours in fanout must be at least 1", key="fanout", help="fanout = [10, 5]"
            )
        if self.variant == "paper":
            self._use_paper()
        if not self.fanout:
            self.refuse(["batch_size"], "without fanout", "leave it out, or set fanout")
        elif self.linear:
            self.refuse(["linear"], "with fanout", "leave it out: a sampled model has no linear part")
        if not self.hops:
            self.refuse(["restart"], "with hops = 0", "leave it out, or set hops")
        if self.hidden % self.heads:
            raise OptionError(f"hidden must be a multiple of heads ({self.heads}), not {self.hidden}", key="hidden")

    def _use_paper(self) -> None:
        paper: dict[str, object] = {
            "heads": 1,
            "attention": "linear",
            "mask": False,
            "fusion": "sequential",
            "jumping": False,
            "hops": 0,
            "hop_labels": False,
            "linear": False,
            "weighting": "raw",
            "input_dropout": 0.0,
            "attention_dropout": 0.0,
            "knn": 0,
            "ema": 0.0,
        }
        self.replace_defaults(paper)
