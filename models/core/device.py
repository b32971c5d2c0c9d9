"""The device that a model is trained on."""

from __future__ import annotations

import torch

from graphlearn.errors import OptionError


def choose_device(wanted: str) -> torch.device:
    """The device for an option 'cpu', 'cuda' or 'auto' (a GPU if there is one).

    Raises OptionError (key "device") for 'cuda' if torch finds no GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise OptionError("device = 'cuda', but torch finds no GPU", key="device", help="use device = 'auto'")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
