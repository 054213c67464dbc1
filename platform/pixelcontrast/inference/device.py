"""Where a network runs."""

from typing import Literal

import torch


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> str:
    """``cuda`` for ``auto`` where there is a GPU, else ``cpu``.

    Raises:
        ValueError: ``cuda`` without a GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch sees no GPU here; allowed are cpu and auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
