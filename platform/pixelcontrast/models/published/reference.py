"""The method's reference code, tfzhou/ContrastiveSeg: HRNet, HRNet with OCR, DeepLabV3 (commit 287e5d3).

The networks with a memory hold everything below ``encoder_q.``, and their queues. Images are BGR in nearly
all configurations, and normalised as each configuration says: the checkpoint's own is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pixelcontrast.models.published.hrnet import BACKBONES, OBJECT_CONTEXT
from pixelcontrast.models.published.layout import Images, Layout

_MEMORY = {"segment_queue": "its memory", "pixel_queue": "its memory"}
_HEAD = "proj_head."
_PROJECTION = {
    "proj_head.proj.0.": "projection.conv1.",
    "proj_head.proj.1.0.": "projection.bn.",
    "proj_head.proj.2.": "projection.conv2.",
}


def _images(checkpoint: Mapping[str, Any]) -> Images:
    """What the configuration in the checkpoint says: x = (pixel / div_value − mean) / std, in its order."""
    try:
        settings = checkpoint["config_dict"]
        normalize = settings["normalize"]
        order, scale = settings["data"]["input_mode"], normalize["div_value"] / 255
        mean = _rgb(normalize["mean"], scale, order=order)
        std = _rgb(normalize["std"], scale, order=order)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"it has no config_dict with data.input_mode and normalize ({type(error).__name__}: {error}), "
            "which tell how its images were normalised; give the checkpoint as the trainer wrote it"
        ) from error
    return Images(order == "BGR", mean, std)


def _rgb(values: Sequence[float], scale: float, *, order: str) -> tuple[float, float, float]:
    """Values of red, green and blue for images in [0, 1]."""
    if order not in ("BGR", "RGB"):
        raise ValueError(f"data.input_mode is {order!r}, neither BGR nor RGB")
    first, green, last = (float(value) * scale for value in values)
    return (last, green, first) if order == "BGR" else (first, green, last)


def _dilated_images(checkpoint: Mapping[str, Any]) -> Images:
    """As ``_images``; refuses a network at another stride, which has the same tensors."""
    images = _images(checkpoint)
    network = checkpoint["config_dict"].get("network", {})
    backbone, grid = network.get("backbone"), network.get("multi_grid")
    if not str(backbone).endswith("dilated8") or grid not in (None, [1, 1, 1], (1, 1, 1)):
        raise ValueError(
            f"its network.backbone is {backbone!r} with network.multi_grid {grid}; what can be read is at "
            "stride 8 without multi-grid, deepbase_resnet101_dilated8"
        )
    return images


def _without_inplace_abn(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Leave aside a head with InPlaceABN: it has a leaky ReLU, which ours has not."""
    if f"{_HEAD}proj.1.weight" not in tensors:
        return tensors, []
    kept = {key: value for key, value in tensors.items() if not key.startswith(_HEAD)}
    return kept, ["its projection head has InPlaceABN and is left aside"]


HRNET = Layout(
    title="a HRNet of the method's reference",
    backbones=BACKBONES,
    wrapper="encoder_q.",
    recognised_by=("backbone.stage4.0.branches.0.0.conv1.weight", "cls_head.0.weight", "cls_head.3.weight"),
    settings={"decoder": "hrnet", "decoder_kernel": 3, "operators": "reference", "align_corners": "yes"},
    names=_PROJECTION
    | {
        "backbone.": "backbone.",
        "cls_head.0.": "decoder.conv.",
        "cls_head.1.0.": "decoder.bn.",
        "cls_head.3.": "decoder.classifier.",
    },
    dropped=_MEMORY,
    has_conv_biases=True,
    prepare=_without_inplace_abn,
    first_convolution="backbone.conv1.weight",
    images=_images,
)

OCR = Layout(
    title="a HRNet with OCR of the method's reference",
    backbones=BACKBONES,
    wrapper="encoder_q.",
    recognised_by=(
        "backbone.stage4.0.branches.0.0.conv1.weight",
        "conv3x3.0.weight",
        "ocr_distri_head.conv_bn_dropout.0.weight",
    ),
    settings={"decoder": "ocr", "operators": "reference", "align_corners": "yes"},
    names=_PROJECTION
    | OBJECT_CONTEXT
    | {
        "backbone.": "backbone.",
        "conv3x3.0.": "decoder.pixels.0.",
        "conv3x3.1.0.": "decoder.pixels.1.",
        "aux_head.0.": "decoder.auxiliary.hidden.0.",
        "aux_head.1.0.": "decoder.auxiliary.hidden.1.",
        "aux_head.2.": "decoder.auxiliary.classifier.",
        "cls_head.": "decoder.classifier.",
    },
    dropped=_MEMORY,
    has_conv_biases=True,
    prepare=_without_inplace_abn,
    first_convolution="backbone.conv1.weight",
    images=_images,
)

DEEPLABV3 = Layout(
    title="a DeepLabV3 of the method's reference",
    backbones="resnet101s",
    wrapper="encoder_q.",
    recognised_by=("backbone.resinit.conv1.weight", "decoder.layer_aspp.b0.0.weight"),
    settings={"decoder": "deeplabv3", "operators": "reference", "align_corners": "yes"},
    names=_PROJECTION
    | {
        "backbone.layer": "backbone.layer",
        "backbone.resinit.conv1.": "backbone.conv1.0.",
        "backbone.resinit.bn1.": "backbone.conv1.1.",
        "backbone.resinit.conv2.": "backbone.conv1.3.",
        "backbone.resinit.bn2.": "backbone.conv1.4.",
        "backbone.resinit.conv3.": "backbone.conv1.6.",
        "backbone.resinit.bn3.": "backbone.bn1.",
        "decoder.layer_aspp.b0.0.": "decoder.aspp.pointwise.0.",
        "decoder.layer_aspp.b0.1.0.": "decoder.aspp.pointwise.1.",
        "decoder.layer_aspp.b1.0.": "decoder.aspp.dilated.0.0.",
        "decoder.layer_aspp.b1.1.0.": "decoder.aspp.dilated.0.1.",
        "decoder.layer_aspp.b2.0.": "decoder.aspp.dilated.1.0.",
        "decoder.layer_aspp.b2.1.0.": "decoder.aspp.dilated.1.1.",
        "decoder.layer_aspp.b3.0.": "decoder.aspp.dilated.2.0.",
        "decoder.layer_aspp.b3.1.0.": "decoder.aspp.dilated.2.1.",
        "decoder.layer_aspp.b4.1.": "decoder.aspp.pooled.0.",
        "decoder.layer_aspp.b4.2.0.": "decoder.aspp.pooled.1.",
        "decoder.layer_aspp.project.0.": "decoder.aspp.fuse.0.",
        "decoder.layer_aspp.project.1.0.": "decoder.aspp.fuse.1.",
        "decoder.refine.0.": "decoder.refine.0.",
        "decoder.refine.1.": "decoder.refine.1.",
        "decoder.refine.2.": "decoder.classifier.",
        "decoder.layer_dsn.0.": "decoder.auxiliary.hidden.0.",
        "decoder.layer_dsn.1.0.": "decoder.auxiliary.hidden.1.",
        "decoder.layer_dsn.2.": "decoder.auxiliary.classifier.",
    },
    dropped=_MEMORY,
    has_conv_biases=True,
    prepare=_without_inplace_abn,
    first_convolution="backbone.conv1.0.weight",
    images=_dilated_images,
)

LAYOUTS = (HRNET, OCR, DEEPLABV3)
