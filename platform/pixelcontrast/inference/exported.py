"""Files of a trained network that are loaded without its run: safetensors and torch."""

import io
import json
import pickle
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pixelcontrast.inference.metadata import Metadata
from pixelcontrast.storage import Storage

ENDINGS = (".safetensors", ".pt", ".onnx")
"""What the names of exported files end with."""


def to_safetensors(model: nn.Module, metadata: Metadata) -> bytes:
    """A safetensors file of the network's parameters and buffers, with its metadata in the header."""
    return safetensors.torch.save(_tensors(model), metadata=metadata.to_strings())


def to_torch(model: nn.Module, metadata: Metadata) -> bytes:
    """A file for ``torch.load(weights_only=True)``: ``weights``, the state dict, and ``metadata``."""
    buffer = io.BytesIO()
    torch.save({"weights": _tensors(model), "metadata": metadata.to_strings()}, buffer)
    return buffer.getvalue()


def read_exported(storage: Storage) -> tuple[Metadata, dict[str, Tensor]]:
    """Read a file of ``to_safetensors`` or ``to_torch``, without executing code from it.

    Raises:
        ValueError: the file is not there, is damaged, or is another kind of file.
    """
    name = storage.location
    if storage.name.endswith(".onnx"):
        raise ValueError(
            f"{name}: an ONNX file is run by onnxruntime; give the run, or export it as safetensors or torch"
        )
    try:
        content = storage.parent.read(storage.name)
    except OSError as error:
        raise ValueError(f"{name}: there is no such file, or it cannot be read: {error}") from error
    try:
        parse = _parse_safetensors if storage.name.endswith(".safetensors") else _parse_torch
        strings, tensors = parse(content)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{name}: damaged, or no file of `pixelcontrast export` ({type(error).__name__}); export it again"
        ) from error
    return Metadata.from_strings(strings, file=name), tensors


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _parse_safetensors(content: bytes) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    # The library reads metadata only from a path; the JSON header with them follows its length in 8 bytes.
    tensors = safetensors.torch.load(content)
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return json.loads(header).get("__metadata__", {}), tensors


def _parse_torch(content: bytes) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise KeyError("metadata")
    return found["metadata"], found["weights"]
