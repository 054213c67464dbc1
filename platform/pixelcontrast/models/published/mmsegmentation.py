"""mmsegmentation's HRNet, OCR on HRNet and DeepLabV3 (open-mmlab/mmsegmentation 0.x and 1.x).

No convolution before a BatchNorm has a bias. A HRNet upsamples without aligned corners, whatever the
configuration says of its head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pixelcontrast.models.published.hrnet import BACKBONES
from pixelcontrast.models.published.layout import Layout

_HRNET = {"operators": "mmsegmentation", "align_corners": "no"}
_IN_A_STAGE = "backbone.stage4.0.branches.0.0.conv1.weight"


def _conv_modules(names: dict[str, str]) -> dict[str, str]:
    """A ConvModule (conv, bn) by the name of our block (0, 1)."""
    return {
        f"{source}.{part}.": f"{ours}.{place}."
        for source, ours in names.items()
        for place, part in enumerate(("conv", "bn"))
    }


def _class_names(checkpoint: Mapping[str, Any]) -> Sequence[str]:
    """``meta`` of the versions 0.x, and of 1.x."""
    meta = checkpoint.get("meta") or {}
    return meta.get("CLASSES") or meta.get("dataset_meta", {}).get("classes") or ()


FCN_HRNET = Layout(
    title="a HRNet of mmsegmentation",
    backbones=BACKBONES,
    recognised_by=(_IN_A_STAGE, "decode_head.convs.0.conv.weight", "decode_head.conv_seg.weight"),
    settings={"decoder": "hrnet", "decoder_kernel": 1, **_HRNET},
    names={
        "backbone.": "backbone.",
        "decode_head.convs.0.conv.": "decoder.conv.",
        "decode_head.convs.0.bn.": "decoder.bn.",
        "decode_head.conv_seg.": "decoder.classifier.",
    },
    first_convolution="backbone.conv1.weight",
    class_names=_class_names,
)

_ATTENTION = "decode_head.1.object_context_block"
OCR_HRNET = Layout(
    title="a HRNet with OCR of mmsegmentation",
    backbones=BACKBONES,
    recognised_by=(_IN_A_STAGE, "decode_head.0.convs.0.conv.weight", f"{_ATTENTION}.bottleneck.conv.weight"),
    settings={"decoder": "ocr", **_HRNET},
    names={
        "backbone.": "backbone.",
        "decode_head.0.conv_seg.": "decoder.auxiliary.classifier.",
        "decode_head.1.conv_seg.": "decoder.classifier.",
    }
    | _conv_modules(
        {
            "decode_head.0.convs.0": "decoder.auxiliary.hidden",
            "decode_head.1.bottleneck": "decoder.pixels",
            f"{_ATTENTION}.query_project.0": "decoder.context.query.0",
            f"{_ATTENTION}.query_project.1": "decoder.context.query.1",
            f"{_ATTENTION}.key_project.0": "decoder.context.key.0",
            f"{_ATTENTION}.key_project.1": "decoder.context.key.1",
            f"{_ATTENTION}.value_project": "decoder.context.value",
            f"{_ATTENTION}.out_project": "decoder.context.up",
            f"{_ATTENTION}.bottleneck": "decoder.fuse",
        }
    ),
    first_convolution="backbone.conv1.weight",
    class_names=_class_names,
)


def _image_pooling_last(weight: Tensor) -> Tensor:
    """[C, 5 C, 3, 3]: the inputs [image pooling, 1×1, 12, 24, 36] in our order, image pooling last."""
    return weight.roll(-weight.shape[0], dims=1)


DEEPLABV3 = Layout(
    title="a DeepLabV3 of mmsegmentation on a ResNetV1c",
    backbones="resnet101c or resnet50c",
    recognised_by=(
        "backbone.stem.0.weight",
        "decode_head.image_pool.1.conv.weight",
        "decode_head.aspp_modules.1.conv.weight",
    ),
    settings={"decoder": "deeplabv3", "operators": "mmsegmentation"},
    asked={"align_corners": "yes for a configuration with crops of 769x769, no for the others"},
    names={
        "backbone.layer": "backbone.layer",
        "backbone.stem.0.": "backbone.conv1.0.",
        "backbone.stem.1.": "backbone.conv1.1.",
        "backbone.stem.3.": "backbone.conv1.3.",
        "backbone.stem.4.": "backbone.conv1.4.",
        "backbone.stem.6.": "backbone.conv1.6.",
        "backbone.stem.7.": "backbone.bn1.",
        "decode_head.conv_seg.": "decoder.classifier.",
        "auxiliary_head.conv_seg.": "decoder.auxiliary.classifier.",
    }
    | _conv_modules(
        {
            "decode_head.image_pool.1": "decoder.aspp.pooled",
            "decode_head.aspp_modules.0": "decoder.aspp.pointwise",
            "decode_head.aspp_modules.1": "decoder.aspp.dilated.0",
            "decode_head.aspp_modules.2": "decoder.aspp.dilated.1",
            "decode_head.aspp_modules.3": "decoder.aspp.dilated.2",
            "decode_head.bottleneck": "decoder.aspp.fuse",
            "auxiliary_head.convs.0": "decoder.auxiliary.hidden",
        }
    ),
    changed={"decoder.aspp.fuse.0.weight": _image_pooling_last},
    first_convolution="backbone.conv1.0.weight",
    class_names=_class_names,
)

LAYOUTS = (FCN_HRNET, OCR_HRNET, DEEPLABV3)
