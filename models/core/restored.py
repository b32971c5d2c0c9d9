"""Whether stored tensors belong to a model, before memory for the model is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def check_restored(tensors: Mapping[str, Tensor], prefix: str, make: Callable[[], Mapping[str, Tensor]]) -> None:
    """Raise ValueError unless the tensors whose names start with `prefix` are those that `make` makes, by name.

    Shapes and types are compared. `make` makes them on the device `meta`, where tensors have no values.
    """
    with torch.device("meta"):
        wanted = {f"{prefix}{name}": _form(value) for name, value in make().items()}
    found = {name: _form(value) for name, value in tensors.items() if name.startswith(prefix)}
    odd = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    if odd:
        name = odd[0]
        given, fits = found.get(name, "missing"), wanted.get(name, "no tensor of that name")
        raise ValueError(f"the tensor {name} is {given}, and the options of the model ask for {fits}")


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}".removeprefix("torch.")
