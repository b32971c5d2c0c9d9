"""The device that a model is trained on."""

from __future__ import annotations

import torch

from graphlearn.errors import OptionError


def choose_device(wanted: str) -> torch.device:
    """The device of an option: 'cpu', 'cuda', or 'auto': a GPU when there is one.

    Raises OptionError (key "device") when a GPU is asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise OptionError("device = 'cuda', but torch sees no GPU here", key="device", help="use device = 'auto'")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
