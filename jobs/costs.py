"""What operators cost on this machine: pairs of estimate and measurement of recent runs, which correct later estimates.

A JSON file per machine in the user's cache folder, since speed belongs to the machine and not to a workspace. It maps a
key, such as the class of a task, to its newest pairs. A pair corrects estimates of a similar size; a short run says how
long the start takes. Nothing depends on the file: one that is damaged, from another version or not writable only means
plans without correction.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

from graphlearn.storage.files import write_json

FORMAT = 1
KEYS, PAIRS = 256, 16
"""Keys in a file, and pairs per key; the oldest are dropped."""
NEAREST = 5
"""Pairs that correct an estimate: those whose estimates are closest to it."""
RANGE = 10.0
"""How many times larger or smaller the estimate of a pair may be for its ratio to apply."""
WORST = 4.0
"""The largest ratio that is applied, in either direction."""
SMALL = 0.5
"""Seconds below which start-up, such as imports, decides how long an operator takes."""
START = 5.0
"""The largest difference in seconds that counts as start-up."""
LEAST = 0.05
"""Seconds below which a measurement says more about noise than about the operator."""
LARGEST_FILE = 1 << 20
Pair: TypeAlias = tuple[float, float]
"""Estimated and measured seconds of one run."""


def cache_folder() -> Path:
    """The user's folder for files that can be made again: `$XDG_CACHE_HOME/graphlearn`, by default in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "graphlearn"


def machine_id() -> str:
    """A digest of the processor's model and the number of cores."""
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        model = next(line for line in file if line.startswith("model name"))
    return blake2b(f"{model} {os.cpu_count()}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Costs:
    """The pairs by key, oldest first. `path`: where they are stored, None for nowhere."""

    path: Path | None = None
    pairs: Mapping[str, list[Pair]] = field(default_factory=dict)

    @staticmethod
    def load() -> Costs:
        """The costs that are stored for this machine; none if the file is missing or unusable."""
        try:
            path = cache_folder() / f"costs-{machine_id()}.json"
        except RuntimeError:  # no home folder
            return Costs()
        return Costs(path, _read(path))

    def factor(self, key: str, estimated: float) -> tuple[float, int]:
        """What to multiply an estimate by, and the number of runs that this follows from; (1, 0) without any.

        The median over the pairs whose estimates are closest to this one. Without any within `RANGE`, small pairs show
        the start-up, which is the same for any size.
        """
        known = self.pairs.get(key, [])
        if not known or not estimated > 0:
            return 1.0, 0
        near = [pair for pair in known if _distance(pair, estimated) < 1] or [pair for pair in known if _small(pair)]
        near.reverse()  # the newest first among equals
        near = sorted(near, key=lambda pair: _distance(pair, estimated))[:NEAREST]
        if not near:
            return 1.0, 0
        return statistics.median(_correction(pair, estimated) for pair in near), len(near)

    def add(self, key: str, estimated: float, measured: float) -> None:
        """Store a measurement, next to what other processes have stored since. Failures to write are ignored."""
        if self.path is None or not _usable((estimated, measured)) or max(estimated, measured) < LEAST:
            return
        pairs = _read(self.path)
        pairs[key] = [*pairs.pop(key, []), (estimated, measured)][-PAIRS:]
        newest = dict(list(pairs.items())[-KEYS:])
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"format": FORMAT, "pairs": newest}, durable=False)


def _distance(pair: Pair, estimated: float) -> float:
    """How far a pair is from an estimate: 1 for a factor of `RANGE`."""
    return abs(math.log(pair[0] / estimated)) / math.log(RANGE)


def _small(pair: Pair) -> bool:
    return min(pair) < SMALL


def _correction(pair: Pair, estimated: float) -> float:
    """What to multiply an estimate by according to one pair.

    The difference of a small pair is added, as start-up. The ratio of a large one is applied, the less the farther the
    pair is from the estimate.
    """
    guess, measured = pair
    if _small(pair):
        return max(1 / WORST, 1 + min(START, measured - guess) / estimated)
    ratio = min(WORST, max(1 / WORST, measured / guess))
    return float(ratio ** (1 - _distance(pair, estimated)))


def _read(path: Path) -> dict[str, list[Pair]]:
    """The usable pairs of a file, whatever else it contains."""
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read(LARGEST_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    stored = record.get("pairs") if isinstance(record, dict) and record.get("format") == FORMAT else None
    found: dict[str, list[Pair]] = {}
    for key, pairs in list(stored.items())[-KEYS:] if isinstance(stored, dict) else ():
        kept = [(float(p[0]), float(p[1])) for p in pairs if _usable(p)] if isinstance(pairs, list) else []
        if kept:
            found[key] = kept[-PAIRS:]
    return found


def _usable(pair: object) -> bool:
    """Whether it is two positive numbers that seconds can be."""
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(n, int | float) and not isinstance(n, bool) and 1e-9 < n < 1e9 for n in pair)
    )
