"""A backbone's weights, from timm or from a local file. Reading a file never runs code that it may hold."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from torch import Tensor, nn

_SUFFIXES = ".safetensors, .pth, .pt"
_HUB_FILE = "model.safetensors"
_HUB_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


def check_weights(weights: str, *, backbone: str) -> None:
    """Raise ``ValueError`` unless ``weights`` is ``none``, ``timm`` where timm has some, or an existing file.

    Neither reads the file nor goes to the network.
    """
    if weights == "timm":
        _hub_repository(backbone)
    elif weights != "none":
        _check_file(Path(weights))


def _check_file(path: Path) -> None:
    if path.suffix not in _SUFFIXES.split(", "):
        close = difflib.get_close_matches(path.name, ("none", "timm"))
        suggestion = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"model.weights: {str(path)!r} is neither none, timm, nor a file ({_SUFFIXES}){suggestion}"
        )
    if not path.is_file():
        raise ValueError(f"model.weights: there is no file {str(path)!r}")


def _hub_repository(backbone: str) -> str:
    source = timm.models.get_pretrained_cfg(backbone)
    if source is None or not source.hf_hub_id:
        raise ValueError(
            f"model.weights: timm has no pretrained weights of {backbone}; use none, or a file ({_SUFFIXES})"
        )
    return source.hf_hub_id


def tell_licence(backbone: str) -> None:
    """Log under which licence timm says that its pretrained weights of ``backbone`` are."""
    source = timm.models.get_pretrained_cfg(backbone)
    licence = (source and source.license) or "not named by timm"
    repository = _hub_repository(backbone)
    logger.info("model.weights: licence of %s: %s; read it before you use them", repository, licence)


def fetch_timm_weights(backbone: str) -> Path:
    """The file of timm's pretrained weights of ``backbone``: the local cache's, else downloaded into it.

    Raises:
        ValueError: timm has none, or they are not in the cache and the hub cannot be reached (said at once).
    """
    repository = _hub_repository(backbone)
    cached = try_to_load_from_cache(repository, _HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # One request, without retries: hf_hub_download alone, without a network, tries for most of a minute.
        get_hf_file_metadata(hf_hub_url(repository, _HUB_FILE), timeout=_HUB_TIMEOUT_S)
        return Path(hf_hub_download(repository, _HUB_FILE))
    except Exception as error:  # of the HTTP library below, which the hub's client may exchange
        raise ValueError(
            f"model.weights: timm's pretrained weights of {backbone} cannot be had: they are not in this "
            f"machine's cache, and {hf_hub_url(repository, _HUB_FILE)} cannot be fetched ({_line(error)}). "
            f"Run once where there is a network and take its cache (HF_HOME) along; or set model.weights to "
            f"a local file ({_SUFFIXES}) of this backbone, or to none for random weights."
        ) from error


def load_weights(backbone: nn.Module, path: Path, *, name: str) -> None:
    """Copy a file's tensors into ``backbone``, in its dtype and on its device.

    The file holds a state dict, of timm's network, of the backbone alone or of a network that has it under
    ``backbone.``, perhaps nested under ``state_dict``, perhaps written from DDP (``module.``). Every tensor
    of the backbone must be there, except BatchNorm's step counters, which old files lack; further ones, such
    as a classifier's, are left aside.

    Raises:
        ValueError: the file cannot be read safely, lacks a tensor, or has one of another shape.
    """
    wanted = backbone.state_dict()
    found = _read_fitting(path, wanted, name=name)
    backbone.load_state_dict({key: found[key] for key in wanted if key in found}, strict=False)


def check_fits(backbone: nn.Module, path: Path, *, name: str) -> None:
    """Raise ``ValueError`` where ``load_weights`` would; the backbone may be on the meta device."""
    _read_fitting(path, backbone.state_dict(), name=name)


def _read_fitting(path: Path, wanted: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """The file's tensors, also under timm's other names, all wanted ones among them in their shapes."""
    in_file = _strip_prefixes(_read(path))
    found = _with_wrapped_names(in_file)
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        there = _first(list(in_file))
        raise ValueError(f"{path}: not weights of {name}: {_first(missing)} missing; the file has {there}")
    wrong = [key for key in wanted if key in found and found[key].shape != wanted[key].shape]
    if wrong:
        there, here = list(found[wrong[0]].shape), list(wanted[wrong[0]].shape)
        raise ValueError(
            f"{path}: not weights of {name}: other shapes in {_first(wrong)}: first {there}, not {here}"
        )
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(
            f"{path}: cannot be read as weights: damaged, or a pickle of more than tensors, which could run "
            f"code and is refused; save the state dict alone, best as .safetensors ({_line(error)})"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("module."): value for key, value in state.items()}
    inside = {
        key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")
    }
    return inside or state


def _with_wrapped_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor also under the names that timm's ``features_only`` may give it.

    timm's wrappers of networks flatten the first level (``stages.0.weight`` is ``stages_0.weight``), or hold
    the network as ``model`` or ``body``.
    """
    wrapped = {}
    for key, value in state.items():
        wrapped |= dict.fromkeys((key.replace(".", "_", 1), f"model.{key}", f"body.{key}"), value)
    return wrapped | state


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _first(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) or "no tensors"
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
