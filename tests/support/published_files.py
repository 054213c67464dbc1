"""Files of published networks, with the settings that build them, and the logits that their sources give.

torchvision's network is its own; the others are those of ``published_sources`` and ``published_mmseg``.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor

import published_mmseg as mmseg
import published_sources as sources
from pixelcontrast.config import Model
from pixelcontrast.models import SegmentationModel, build_model
from published_sources import CLASSES, HRNET, RESNET, tensors_of, vary

BGR = {
    "data": {"input_mode": "BGR"},
    "normalize": {"div_value": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "network": {"backbone": "hrnet48"},
    "performance": np.float64(0.81),  # the trainer leaves NumPy's numbers there
}
CAFFE = {
    "data": {"input_mode": "BGR"},
    "normalize": {"div_value": 1.0, "mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0]},
    "network": {"backbone": "deepbase_resnet101_dilated8", "multi_grid": [1, 1, 1]},
}
RGB_OF_BGR = {"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}
RGB_OF_CAFFE = {"mean": (122.7717 / 255, 115.9465 / 255, 102.9801 / 255), "std": (1 / 255, 1 / 255, 1 / 255)}


class Source(NamedTuple):
    """A published network, its file, and the settings that build it."""

    network: Callable[[], Any]
    file: Callable[[dict[str, Tensor]], dict[str, Any]]
    settings: dict[str, Any]
    images: Callable[[Tensor], Tensor]
    """RGB in [0, 1] → what the source's loader gives its network."""
    size: tuple[int, int]


def of_reference(configuration: Mapping[str, Any]) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    return lambda state: {
        "config_dict": configuration,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
    }


def official(state: dict[str, Tensor]) -> dict[str, Any]:
    """The state dict of its FullModel, which holds the loss."""
    inside = {f"model.{key.removeprefix('backbone.')}": value for key, value in state.items()}
    return inside | {"loss.criterion.weight": torch.ones(CLASSES)}


def of_mmseg(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "meta": {"mmseg_version": "0.30.0", "CLASSES": ("road", "car", "sky", "tree", "sign")},
        "state_dict": state,
    }


def as_configured(configuration: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """Blue, green, red in 0 … 255, then the reference's ToTensor and Normalize."""
    normalize = configuration["normalize"]

    def images(rgb: Tensor) -> Tensor:
        pixels = rgb.flip(1) * 255 / normalize["div_value"]
        mean, std = (rgb.new_tensor(normalize[key])[:, None, None] for key in ("mean", "std"))
        return (pixels - mean) / std

    return images


def imagenet(rgb: Tensor) -> Tensor:
    mean, std = (rgb.new_tensor(BGR["normalize"][key])[:, None, None] for key in ("mean", "std"))
    return (rgb - mean) / std


def torchvision_deeplabv3() -> Any:
    build = torchvision.models.segmentation.deeplabv3_resnet50
    return build(weights=None, weights_backbone=None, aux_loss=True, num_classes=CLASSES)


def plain(state: dict[str, Tensor]) -> dict[str, Any]:
    return state


ON_HRNET, ON_RESNET = {"backbone": HRNET}, {"backbone": RESNET, "decoder": "deeplabv3"}
OF_HRNET, OF_MMSEG = {"operators": "hrnet"}, {"operators": "mmsegmentation"}
SIZE, ODD = (64, 96), (57, 80)
REFERENCES = {
    "reference HRNet": Source(
        sources.ReferenceHRNet,
        of_reference(BGR),
        {**ON_HRNET, "decoder_kernel": 3, **RGB_OF_BGR},
        as_configured(BGR),
        SIZE,
    ),
    "reference OCR": Source(
        sources.ReferenceOCR,
        of_reference(BGR),
        {**ON_HRNET, "decoder": "ocr", **RGB_OF_BGR},
        as_configured(BGR),
        SIZE,
    ),
    "reference DeepLabV3": Source(
        sources.ReferenceDeepLabV3,
        of_reference(CAFFE),
        {**ON_RESNET, **RGB_OF_CAFFE},
        as_configured(CAFFE),
        SIZE,
    ),
}
SOURCES = REFERENCES | {
    "official HRNet, branch HRNet-OCR": Source(
        lambda: sources.OfficialHRNet(align_corners=True),
        official,
        {**ON_HRNET, **OF_HRNET, "align_corners": "yes"},
        imagenet,
        SIZE,
    ),
    "official HRNet, branch pytorch-v1.1": Source(
        lambda: sources.OfficialHRNet(align_corners=False),
        official,
        {**ON_HRNET, **OF_HRNET, "align_corners": "no"},
        imagenet,
        SIZE,
    ),
    "official OCR": Source(
        sources.OfficialOCR, official, {**ON_HRNET, **OF_HRNET, "decoder": "ocr"}, imagenet, SIZE
    ),
    "mmsegmentation HRNet": Source(mmseg.MmsegHRNet, of_mmseg, {**ON_HRNET, **OF_MMSEG}, imagenet, SIZE),
    "mmsegmentation OCR": Source(
        mmseg.MmsegOCR, of_mmseg, {**ON_HRNET, **OF_MMSEG, "decoder": "ocr"}, imagenet, SIZE
    ),
    "mmsegmentation DeepLabV3": Source(
        lambda: mmseg.MmsegDeepLabV3(align_corners=False),
        of_mmseg,
        {**ON_RESNET, **OF_MMSEG, "align_corners": "no"},
        imagenet,
        ODD,
    ),
    "mmsegmentation DeepLabV3, 769": Source(
        lambda: mmseg.MmsegDeepLabV3(align_corners=True),
        of_mmseg,
        {**ON_RESNET, **OF_MMSEG, "align_corners": "yes"},
        imagenet,
        SIZE,
    ),
    "torchvision DeepLabV3": Source(
        torchvision_deeplabv3,
        plain,
        {"backbone": "resnet50", "decoder": "deeplabv3", "operators": "torchvision"},
        imagenet,
        SIZE,
    ),
}


class Published(NamedTuple):
    """What a source saves and gives."""

    state: dict[str, Tensor]
    logits: Tensor
    embedding: Tensor | None


@functools.cache
@torch.inference_mode()
def published(name: str) -> Published:
    torch.manual_seed(0)
    source = SOURCES[name]
    network = vary(source.network())
    state = tensors_of(network)
    images = source.images(picture(source.size))
    logits = network(images)
    embedding = network.embed(images) if name in REFERENCES else None
    return Published(state, logits["out"] if isinstance(logits, dict) else logits, embedding)


def save(content: object, folder: Path, name: str = "published.pth") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def file_of(name: str, folder: Path) -> str:
    return save(SOURCES[name].file(dict(published(name).state)), folder)


def build(settings: Mapping[str, Any], *, num_classes: int = CLASSES, embedding: bool = False) -> Any:
    """Ours, in evaluation."""
    torch.manual_seed(1)
    return build_model(Model(**settings), num_classes=num_classes, embedding=embedding).eval()


def normalised(rgb: Tensor, model: SegmentationModel) -> Tensor:
    mean, std = (rgb.new_tensor(values)[:, None, None] for values in (model.mean, model.std))
    return (rgb - mean) / std


def picture(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))


def assert_same(got: Tensor, want: Tensor, *, tolerance: float = 1e-4) -> None:
    """Equal but for the rounding of many layers; another operator differs by a hundred times that."""
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))
