"""AdamW with an exponential moving average (EMA) of the weights for predictions.

`state()` is a flat dict of tensors, from which another optimiser of the same model continues, on a CPU bit for bit.
`weights()` is the part that predictions need.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphlearn.errors import TrainingDiverged


class AdamWEma:
    """Optimises the parameters of a model except those in `fixed`, with weight decay for those in `decayed`.

    `ema`: the decay of the moving average, 0 for none. The first steps use a smaller decay.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decayed: Collection[str],
        learning_rate: float,
        weight_decay: float,
        ema: float,
        fixed: Collection[str] = (),
    ) -> None:
        self.model, self.ema = model, ema
        named = {name: p for name, p in model.named_parameters() if name not in fixed}
        groups = [
            {"params": [p for name, p in named.items() if name in decayed], "weight_decay": weight_decay},
            {"params": [p for name, p in named.items() if name not in decayed], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=learning_rate)
        self.moments = {
            name: {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
            for name, p in named.items()
        }
        for name, p in named.items():
            self.adamw.state[p] = self.moments[name]
        self.mean_weights = {name: p.detach().clone() for name, p in named.items()} if ema else {}
        self.done = torch.zeros(1, dtype=torch.int64)

    def step(self, loss: Tensor, epoch: int, help: str) -> float:
        """Take an optimiser step on a loss; returns the loss. Raises TrainingDiverged if it is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDiverged(f"the loss is {value} in epoch {epoch + 1}", help=help)
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.adamw.step()
        self.done += 1
        decay = min(self.ema, (1 + int(self.done)) / (10 + int(self.done)))
        for name, mean in self.mean_weights.items():
            mean.lerp_(self.model.get_parameter(name).detach(), 1 - decay)
        return value

    @contextmanager
    def using_mean(self) -> Iterator[None]:
        """Inside the block, the model has the weights for predictions: their moving average, if there is one."""
        kept = {name: self.model.get_parameter(name).detach().clone() for name in self.mean_weights}
        self.model.eval()
        try:
            self._put(self.mean_weights)
            with torch.no_grad():
                yield
        finally:
            self._put(kept)

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self.model.get_parameter(name).copy_(value)

    def weights(self) -> dict[str, Tensor]:
        """Copies, on the CPU, of the tensors that predictions need."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        return copied(found | {f"model.{k}": v for k, v in self.mean_weights.items()})

    def state(self) -> dict[str, Tensor]:
        """Copies, on the CPU, of all tensors that change during training."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"mean.{k}": v for k, v in self.mean_weights.items()}
        found |= {f"adam.{name}.{k}": v for name, moments in self.moments.items() for k, v in moments.items()}
        return copied(found | {"steps": self.done})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the `state()` or `weights()` of an optimiser of the same model."""
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(model)
        with torch.no_grad():
            for name, mean in self.mean_weights.items():
                mean.copy_(tensors.get(f"mean.{name}", model[name]))
            for name, moments in self.moments.items():
                for k, v in moments.items():
                    v.copy_(tensors.get(f"adam.{name}.{k}", v))
            self.done.copy_(tensors.get("steps", self.done))


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in tensors.items()}
