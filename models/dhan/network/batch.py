"""Input of the encoder, and a trace of its attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphlearn.models.dhan.graph.edges import Block
from graphlearn.models.dhan.network.attention import Attention
from graphlearn.models.hetero.features import FeatureBatch


@dataclass(frozen=True)
class Batch:
    """Input of the encoder: features by type, and blocks by (level, type) as `build_blocks` makes them."""

    columns: Mapping[str, FeatureBatch]
    blocks: Mapping[tuple[str, str], Block]


@dataclass
class Trace:
    """Attention weights of the encoder, for explanations, by (layer, level, type)."""

    attention: dict[tuple[int, str, str], Attention] = field(default_factory=dict)
    blocks: dict[tuple[int, str, str], Block] = field(default_factory=dict)
