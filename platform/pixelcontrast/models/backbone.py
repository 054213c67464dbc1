"""timm's HRNets and ResNets, set to the operators of the reference implementation of the method.

Set so, timm's networks have the reference's tensors and give its outputs: HRNet (Wang et al., TPAMI 2020)
and the ResNet of DeepLabV3 (Chen et al., 2017, arXiv 1706.05587).
"""

import difflib
import re
from pathlib import Path
from typing import Any

import timm
from torch import nn

from pixelcontrast.models.weights import check_weights, fetch_timm_weights, load_weights

_RESNET = re.compile(r"(wide_)?resnet(50|101|152|200)([cdst]|_2)?")
"""ResNets whose last stage is three bottleneck blocks, the number that the multi-grid is made for."""
_MULTI_GRID_DILATIONS = (2, 8, 16)


def allowed_backbones() -> list[str]:
    """timm's names of the backbones that can be used, without the tags of their weights."""
    resnets = [name for name in timm.list_models(module="resnet") if _RESNET.fullmatch(name)]
    return [*timm.list_models(module="hrnet"), *resnets]


def check_backbone(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is a backbone that can be used; builds nothing.

    A name may carry the tag of its weights, as timm writes it: ``hrnet_w18.ms_aug_in1k``.
    """
    architecture, _, tag = name.partition(".")
    allowed = allowed_backbones()
    if architecture not in allowed:
        raise ValueError(f"model.backbone: {name!r} {_why_not(architecture)}; there are {', '.join(allowed)}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        there = ", ".join(tagged) or "none"
        raise ValueError(f"model.backbone: timm has no weights {tag!r} of {architecture}; there are {there}")


def _why_not(architecture: str) -> str:
    if close := difflib.get_close_matches(architecture, allowed_backbones()):
        suggestion = f" (did you mean {' or '.join(close)}?)"
    else:
        suggestion = ""
    if architecture not in timm.list_models():
        return f"is not a model of timm{suggestion}"
    if architecture.startswith("resnet"):
        return f"cannot be used: only ResNets with three bottleneck blocks in the last stage can{suggestion}"
    return f"is neither a HRNet nor a plain ResNet{suggestion}"


def is_hrnet(name: str) -> bool:
    """Whether a backbone's name is a HRNet's; of those that can be used, the others are ResNets."""
    return name.startswith("hrnet")


def side_multiple(name: str) -> int:
    """What an image's sides must be multiples of: a HRNet's branches only add up at multiples of 32."""
    return 32 if is_hrnet(name) else 1


def build_backbone(name: str, *, weights: str = "none") -> Any:
    """A network [B, 3, H, W] → list of its four levels [B, C_i, H/s_i, W/s_i], finest first.

    H and W are multiples of ``side_multiple(name)``. ``feature_info.channels()`` and ``.reduction()`` give
    C_i and s_i: strides 4, 8, 16, 32 of a HRNet, 4, 8, 8, 8 of a ResNet, whose maps are H/s + 1 high where 8
    divides H (its pooling rounds up).

    Args:
        name: timm's name, with or without the tag of its weights.
        weights: ``none`` (random, from torch's generator), ``timm`` (timm's pretrained), or a file.

    Raises:
        ValueError: an unusable name, or weights that cannot be had or do not fit.
    """
    check_backbone(name)
    check_weights(weights, backbone=name)
    file = fetch_timm_weights(name) if weights == "timm" else Path(weights)
    backbone = _hrnet(name) if is_hrnet(name) else _resnet(name)
    if weights != "none":
        load_weights(backbone, file, name=name)
    return backbone


def _hrnet(name: str) -> Any:
    backbone = timm.create_model(name, features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    for module in backbone.modules():
        if isinstance(module, nn.Upsample):  # timm upsamples to the nearest, as for ImageNet
            module.mode, module.align_corners = "bilinear", True
    return backbone


def _resnet(name: str) -> Any:
    backbone: Any = timm.create_model(name, features_only=True, output_stride=8, out_indices=(1, 2, 3, 4))
    backbone.maxpool.ceil_mode = True
    for block, dilation in zip(backbone.layer4, _MULTI_GRID_DILATIONS, strict=True):
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    return backbone
