"""What the encoder reads, and what it attended to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphlearn.models.dhan.attention import Seen
from graphlearn.models.dhan.edges import Block
from graphlearn.models.hetero.features import FeatureBatch


@dataclass(frozen=True)
class Batch:
    """What the encoder reads: features by type and blocks by (level, type), see `build_blocks`."""

    columns: Mapping[str, FeatureBatch]
    blocks: Mapping[tuple[str, str], Block]


@dataclass
class Trace:
    """What the encoder looked at, for explanations: by (layer, level, type)."""

    seen: dict[tuple[int, str, str], Seen] = field(default_factory=dict)
    blocks: dict[tuple[int, str, str], Block] = field(default_factory=dict)
