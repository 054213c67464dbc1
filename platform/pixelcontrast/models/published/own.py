"""The platform's own networks: checkpoints' ``model.safetensors`` and files of ``pixelcontrast export``."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor

from pixelcontrast.models.operators import SOURCES
from pixelcontrast.models.published.layout import CLASSIFIERS, HEAD, Images, Layout, Target
from pixelcontrast.models.weights_file import WeightsFile

_RECOGNISED_BY = "decoder.classifier.weight"


def is_own(file: WeightsFile) -> bool:
    """Whether the file is of a network of the platform."""
    return _RECOGNISED_BY in file.tensors


def own_layout(file: WeightsFile, target: Target) -> Layout | None:
    """The layout of a network of the platform; None for another file, and where the decoder does not fit.

    The settings that decide its results are those that an export carries, or that lie beside a checkpoint;
    without either, the target's are taken to be right.
    """
    if not is_own(file) or _shapes(file.tensors, "decoder.") != _shapes(target.tensors, "decoder."):
        return None
    exported = _metadata(file)
    model = asdict(target.settings) | (exported.get("model") or _of_checkpoint(file))
    source = timm.models.get_pretrained_cfg(model["backbone"])  # whose mean is taken where none is set
    normalisation: dict[str, Any] = {
        key: tuple(exported.get(key) or model[key] or getattr(source, key, None) or getattr(target, key))
        for key in ("mean", "std")
    }
    aligned = SOURCES[model["operators"]].align_corners
    return Layout(
        title="a network of pixelcontrast",
        backbones=model["backbone"],
        recognised_by=(_RECOGNISED_BY,),
        settings={
            "backbone": _architecture(model["backbone"], target.settings.backbone),
            "operators": model["operators"],
            "align_corners": model["align_corners"] or ("yes" if aligned else "no"),
        },
        names={part: part for part in ("backbone.", "decoder.", HEAD)},
        has_conv_biases=True,
        prepare=partial(_without_other_head, target),
        first_convolution="",  # its images are RGB
        images=lambda _: Images(**normalisation),
        class_names=lambda _: exported.get("classes", ()),
    )


def _architecture(backbone: str, target: str) -> str:
    """The target's name if both are one architecture, with whatever weights; else the backbone's own."""
    same = backbone.partition(".")[0] == target.partition(".")[0]  # timm's names are architecture.weights
    return target if same else backbone


def _without_other_head(target: Target, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without a projection head that is not the network's."""
    ours, theirs = _shapes(target.tensors, HEAD), _shapes(tensors, HEAD)
    if not ours or not theirs or ours == theirs:
        return tensors, []
    kept = {key: value for key, value in tensors.items() if not key.startswith(HEAD)}
    return kept, [
        "its projection head is left aside, and a new one trained: model.embedding_dim or "
        "model.embedding_batchnorm was another"
    ]


def _shapes(tensors: Mapping[str, Tensor], part: str) -> dict[str, torch.Size]:
    """Key → shape in a part of a network, without its classifiers."""
    return {
        key: value.shape
        for key, value in tensors.items()
        if key.startswith(part) and not key.startswith(CLASSIFIERS)
    }


def _metadata(file: WeightsFile) -> dict[str, Any]:
    """Field → value, as exported files carry them; none of a checkpoint."""
    found = file.extra.get("metadata") or {}
    return {key: json.loads(found[key]) for key in ("model", "mean", "std", "classes") if key in found}


def _of_checkpoint(file: WeightsFile) -> dict[str, Any]:
    """The settings of the network as a checkpoint records them beside it; none of another file."""
    beside = file.path.with_name("experiment.json")
    if file.path.name != "model.safetensors" or not beside.is_file():
        return {}
    return json.loads(beside.read_bytes())["model"]
