"""Files of weights, read without running code that they may hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    *[(_NUMPY_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")],
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
]
"""NumPy's numbers, which trainers leave among their settings (the best mIoU): data, not code."""


class WeightsFile(NamedTuple):
    """The content of a file."""

    path: Path
    tensors: dict[str, Tensor]
    """The state dict, without ``module.``, the prefix of a network that was saved from DDP."""
    extra: Mapping[str, Any]
    """What a checkpoint holds in addition to the state dict."""


def read_weights_file(path: Path) -> WeightsFile:
    """Read a state dict, plain or nested under ``state_dict``, or a file of ``pixelcontrast export``.

    Raises:
        ValueError: the file is damaged, holds more than tensors and plain settings, or no state dict.
    """
    content = _read(path)
    extra: Mapping[str, Any] = {}
    for nested in ("state_dict", "weights"):
        if isinstance(content, dict) and isinstance(content.get(nested), dict):
            extra = {str(key): value for key, value in content.items() if key != nested}
            content = content[nested]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict")
    tensors = {
        str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)
    }
    return WeightsFile(path, tensors, extra)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return {"weights": safetensors.torch.load_file(path), "metadata": file.metadata()}
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(
            f"{path}: cannot be read as weights: damaged, or a pickle of more than tensors, which could run "
            f"code and is refused; save the state dict alone, best as .safetensors ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    if "mmengine" in str(error):
        return "it holds mmengine's objects, as the files of mmsegmentation 1.x do"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def first(keys: list[str]) -> str:
    """The first keys of a list, and how many more there are."""
    shown = ", ".join(keys[:3]) or "no tensors"
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
