"""What a network starts from: timm's weights of its backbone, or a local file."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from torch import Tensor

from pixelcontrast.models.backbone import wrapped_names
from pixelcontrast.models.published import Start, Target, is_own, map_published, own_layout, recognise
from pixelcontrast.models.weights_file import WeightsFile, first, read_weights_file

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


def find_start(target: Target) -> tuple[Path, Start]:
    """The file that ``model.weights`` names, and what it holds for the network; ``none`` has no file.

    timm's file is downloaded if the local cache lacks it.

    Raises:
        ValueError: timm's file cannot be had, or a file does not fit the network.
    """
    settings = target.settings
    if settings.weights != "timm":
        path = Path(settings.weights)
        return path, starting_weights(path, target)
    path = fetch_timm_weights(settings.backbone)
    try:
        return path, starting_weights(path, target)
    except ValueError as error:
        repository = _hub_repository(settings.backbone)
        raise ValueError(
            f"model.weights: timm's pretrained weights {repository} cannot be taken: {error}"
        ) from error


def starting_weights(path: Path, target: Target) -> Start:
    """What a file of the backbone, or of a published network, holds for the network.

    A backbone's file holds a state dict, of timm's network, of the backbone alone or of a network that has it
    under ``backbone.``. Every tensor of the backbone must be there, except BatchNorm's step counters, which
    old files lack; further ones, such as a classifier's, are left aside. A published network's file is mapped
    as ``models.published`` says, and so is the platform's own whose decoder fits. Each may be nested under
    ``state_dict``, or be written from DDP.

    Raises:
        ValueError: the file cannot be read safely, or does not fit the network.
    """
    file = read_weights_file(path)
    layout = recognise(file) or own_layout(file, target)
    if layout is not None:
        return map_published(layout, file, target)
    if target.settings.classifier == "keep":
        raise ValueError(
            f"model.classifier is keep, but {path} is not recognised as a network with such a decoder, and "
            "only its backbone would be taken; leave model.classifier out"
        )
    wanted = {
        key.removeprefix("backbone."): value
        for key, value in target.tensors.items()
        if key.startswith("backbone.")
    }
    found = _fitting(file, wanted, name=target.settings.backbone)
    told = f"only its backbone is taken: its decoder has other layers than {target.settings.decoder} here"
    notes = [told] if is_own(file) else []
    return Start({f"backbone.{key}": found[key] for key in wanted if key in found}, notes)


def _fitting(file: WeightsFile, wanted: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """The file's tensors, also under timm's other names, all wanted ones among them in their shapes."""
    in_file = _of_backbone(file.tensors)
    found = _with_wrapped_names(in_file)
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        there = first(list(in_file))
        raise ValueError(
            f"{file.path}: not weights of {name}: {first(missing)} missing; the file has {there}"
        )
    wrong = [key for key in wanted if key in found and found[key].shape != wanted[key].shape]
    if wrong:
        there, here = list(found[wrong[0]].shape), list(wanted[wrong[0]].shape)
        raise ValueError(
            f"{file.path}: not weights of {name}: other shapes in {first(wrong)}: first {there}, not {here}"
        )
    return found


def _of_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    inside = {
        key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")
    }
    return inside or state


def _with_wrapped_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor also under the names that timm's ``features_only`` may give it."""
    wrapped = {}
    for key, value in state.items():
        wrapped |= dict.fromkeys(wrapped_names(key), value)
    return wrapped | state


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
