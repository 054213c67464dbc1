"""timm's networks as backbones: four levels of features, finest first, or a plain Vision Transformer's one.

HRNets (Wang et al., TPAMI 2020) and the ResNets of DeepLabV3 (Chen et al., 2017, arXiv 1706.05587) are set to
the operators of the method's reference implementation: they have its tensors and give its outputs. Any other
network is used as timm builds it, if its levels are a pyramid of strides 4, 8, 16, 32. None has dropout, and
stochastic depth only where it is asked for; a few of timm's families have both by default.
"""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from pixelcontrast.models.vit import Patches, PlainViT, is_plain_vit, patches_of

_RESNET = re.compile(r"(wide_)?resnet\d+([cdst]|_2)?")
"""Plain ResNets. Their relatives (ResNeXt, SE, anti-aliased, …) are used as timm builds them."""
_STRIDES, _DILATED_STRIDES = (4, 8, 16, 32), (4, 8, 8, 8)
_EXAMPLES = "hrnet_w18_small, resnet50, convnext_tiny, efficientnet_b0, regnety_008, pvt_v2_b0"
_DILATED_EXAMPLES = "resnet50, resnet101s, efficientnet_b0, convnext_tiny, regnety_008"
_DROPPING_EXAMPLES = "swin_tiny_patch4_window7_224, convnext_tiny, pvt_v2_b0, vit_small_patch16_dinov3"


class Pyramid(NamedTuple):
    """How to build a network that gives four levels for images of any size."""

    options: Mapping[str, Any]
    """Arguments of ``timm.create_model``."""
    multiple: int
    """The image's sides must be multiples of it."""


def is_resnet(name: str) -> bool:
    """Whether a backbone's name is a plain ResNet's."""
    return _RESNET.fullmatch(name.partition(".")[0]) is not None


def is_hrnet(name: str) -> bool:
    """Whether a backbone's name is a HRNet's."""
    return name.startswith("hrnet")


def check_backbone(name: str, *, dilated: bool = False, drop_path: float = 0.0) -> None:
    """Raise ``ValueError`` unless ``name`` is a backbone that can be used.

    Builds at most the network's outline, without memory for its tensors. A name may carry the tag of its
    weights, as timm writes it: ``hrnet_w18.ms_aug_in1k``.

    Args:
        dilated: whether the last two levels must have stride 8 as well.
        drop_path: its rate of stochastic depth.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models():
        raise ValueError(f"model.backbone: {name!r} is not a model of timm{_suggestion(architecture)}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        there = ", ".join(tagged) or "none"
        raise ValueError(f"model.backbone: timm has no weights {tag!r} of {architecture}; there are {there}")
    reason = _why_not(architecture, dilated=False)
    if reason:
        raise ValueError(f"model.backbone: {name!r} {reason}{_suggestion(architecture)}")
    if dilated and (reason := _why_not(architecture, dilated=True)):
        raise ValueError(
            f"model.backbone: {name!r} {reason}, and model.decoder needs the last levels at stride 8; set "
            f"model.backbone to a network that timm can dilate ({_DILATED_EXAMPLES}, …), or model.decoder "
            "to hrnet"
        )
    if drop_path > 0 and not _can_drop_paths(architecture, dilated=dilated):
        raise ValueError(
            f"model.drop_path: timm's {architecture} has no stochastic depth; set model.drop_path to 0, or "
            f"model.backbone to a network that has it ({_DROPPING_EXAMPLES}, …)"
        )


def _suggestion(architecture: str) -> str:
    close = difflib.get_close_matches(architecture, timm.list_models(), n=5)
    usable = [name for name in close if not _why_not(name, dilated=False)]
    if usable:
        return f" (did you mean {' or '.join(usable[:3])}?)"
    return (
        f"; use a network with levels of strides 4, 8, 16, 32, such as {_EXAMPLES}, or a plain Vision "
        "Transformer, such as vit_small_patch16_dinov3"
    )


def _why_not(architecture: str, *, dilated: bool) -> str:
    if is_plain_vit(architecture):
        found = patches_of(architecture)
        if dilated and isinstance(found, Patches):
            return f"is a plain Vision Transformer, with one level of stride {found.side}"
    else:
        found = _pyramid(architecture, dilated=dilated)
    return found if isinstance(found, str) else ""


def side_multiple(name: str, *, dilated: bool = False) -> int:
    """What an image's sides must be multiples of, so that level i has ⌈H/s_i⌉ rows and ⌈W/s_i⌉ columns."""
    architecture = name.partition(".")[0]
    if is_plain_vit(architecture):
        patches = patches_of(architecture)
        assert isinstance(patches, Patches)
        return patches.side
    pyramid = _pyramid(architecture, dilated=dilated)
    assert isinstance(pyramid, Pyramid)
    return pyramid.multiple


@functools.cache
def _pyramid(architecture: str, *, dilated: bool) -> Pyramid | str:
    """How to build the network, or why it cannot be used."""
    if is_hrnet(architecture) and not dilated:  # its branches only add up at multiples of 32
        return Pyramid({"feature_location": "", "out_indices": (1, 2, 3, 4)}, multiple=32)
    if is_resnet(architecture):
        return Pyramid({"output_stride": 8, "out_indices": (1, 2, 3, 4)}, multiple=1)
    reason = ""
    for any_size in ({}, {"strict_img_size": False}):  # the second for Swin Transformers
        options: dict[str, Any] = {**any_size, "output_stride": 8} if dilated else {**any_size}
        try:
            with torch.device("meta"):
                network = timm.create_model(architecture, features_only=True, **options).eval()
        except Exception as error:  # as many kinds as timm has families
            reason = reason or f"cannot be built by timm ({type(error).__name__}: {error})"
            continue
        found = _look_at(network, _DILATED_STRIDES if dilated else _STRIDES)
        if isinstance(found, Pyramid):
            return found._replace(options={**options, **found.options})
        reason = reason or found
    return reason


def _look_at(network: Any, strides: Sequence[int]) -> Pyramid | str:
    """Which levels of a network on the meta device to take, and what the image's sides must be."""
    info = network.feature_info
    levels = [(place, s) for place, s in enumerate(info.reduction()) if s >= strides[0]]
    if tuple(stride for _, stride in levels) != tuple(strides):
        return f"has levels of strides {', '.join(map(str, info.reduction()))}"
    places = [place for place, _ in levels]
    for multiple in (1, 4, 32, network.pretrained_cfg["input_size"][-1]):
        if _fits(network, places, strides, multiple=multiple):
            return Pyramid({"out_indices": tuple(info.out_indices[place] for place in places)}, multiple)
    return "does not take images of every size"


def _fits(network: Any, places: Sequence[int], strides: Sequence[int], *, multiple: int) -> bool:
    """Whether the levels are ⌈H/s⌉ × ⌈W/s⌉ for the smallest image, and for one that is odd at every stage."""
    for height, width in ((1, 2), (64 // multiple + 1, 96 // multiple + 2)):
        size = height * multiple, width * multiple
        try:
            with torch.no_grad():
                levels = _channels_first(network, (), network(torch.empty(1, 3, *size, device="meta")))
        except Exception:  # whatever a layer says to a size that it does not take
            return False
        want = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]
        if [tuple(levels[place].shape[2:]) for place in places] != want:
            return False
    return True


def _channels_first(network: nn.Module, _: Any, levels: Sequence[Tensor]) -> list[Tensor]:
    """Levels [B, C, h, w] also of networks that give [B, h, w, C]."""
    if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"):
        return [level.permute(0, 3, 1, 2) for level in levels]
    return list(levels)


def build_backbone(
    name: str,
    *,
    dilated: bool = False,
    align_corners: bool = True,
    ceil_mode: bool = True,
    drop_path: float = 0.0,
) -> Any:
    """A network [B, 3, H, W] → list of its four levels [B, C_i, ⌈H/s_i⌉, ⌈W/s_i⌉], finest first.

    A plain Vision Transformer has one level, of the stride of its patches. H and W are multiples of
    ``side_multiple(name)``. ``feature_info.channels()`` and ``.reduction()`` give C_i and s_i: strides 4, 8,
    16, 32, or 4, 8, 8, 8 if dilated, as a ResNet always is. Weights are drawn from torch's generator, the
    same at any ``drop_path``; without it training draws nothing.

    Args:
        name: timm's name, with or without the tag of its weights.
        dilated: strides 4, 8, 8, 8, the last stages dilated instead.
        align_corners: how a HRNet upsamples its branches.
        ceil_mode: a ResNet's pooling rounds up: its maps are H/s + 1 high where 8 divides H.
        drop_path: stochastic depth (Huang et al., ECCV 2016, arXiv 1603.09382): how often training leaves a
            block out for an image, as timm spreads it over the blocks.

    Raises:
        ValueError: an unusable name, or a network without stochastic depth where it is asked for.
    """
    check_backbone(name, dilated=dilated, drop_path=drop_path)
    architecture = name.partition(".")[0]
    backbone = _create(name, dilated=dilated, drop_path=drop_path)
    _drop_nothing_else(backbone, drop_path)
    if is_hrnet(architecture):
        for module in backbone.modules():
            if isinstance(module, nn.Upsample):  # timm upsamples to the nearest, as for ImageNet
                module.mode, module.align_corners = "bilinear", align_corners
    elif is_resnet(architecture):
        backbone.maxpool.ceil_mode = ceil_mode
    elif not is_plain_vit(architecture):
        backbone.register_forward_hook(_channels_first)
    return backbone


@functools.cache
def exempt_from_decay(architecture: str) -> frozenset[str]:
    """Names, or patterns of ``fnmatch``, of the backbone's parameters that timm's network does not decay.

    The whole network is asked, as an outline: of ``features_only`` only some wrappers keep its
    ``no_weight_decay``. Names that the backbone does not have are among them.
    """
    with torch.device("meta"):
        whole = timm.create_model(architecture)
    exempt: set[str] = set()
    for place, module in whole.named_modules():
        inside = f"{place}." if place else ""
        for pattern in getattr(module, "no_weight_decay", set)():
            exempt |= {inside + pattern, *wrapped_names(inside + pattern)}
    return frozenset(exempt)


def wrapped_names(name: str) -> tuple[str, ...]:
    """The other names that a tensor of timm's network may have in timm's wrappers of ``features_only``.

    They flatten the first level (``stages.0.weight`` is ``stages_0.weight``), or hold the network as
    ``model`` or ``body``.
    """
    return name.replace(".", "_", 1), f"model.{name}", f"body.{name}"


def _drop_nothing_else(network: nn.Module, drop_path: float) -> None:
    """Turn off dropout, and stochastic depth unless asked for: Swin, FocalNet, NextViT, … have some in timm.

    Each worker would draw its own, and so the result depend on their number, unasked.
    """
    for module in network.modules():
        if isinstance(module, DropPath) and drop_path == 0:
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0


@functools.cache
def _can_drop_paths(architecture: str, *, dilated: bool) -> bool:
    """Whether timm has stochastic depth in a network that can be used."""
    try:
        with torch.device("meta"):
            network = _create(architecture, dilated=dilated, drop_path=0.5)
    except TypeError:  # HRNet, DLA, VGG, DenseNet, GhostNet, … have no such argument
        return False
    return any(isinstance(module, DropPath) for module in network.modules())


def _create(name: str, *, dilated: bool, drop_path: float) -> Any:
    """timm's network, with random weights and its own operators."""
    architecture = name.partition(".")[0]
    asked: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path > 0 else {}
    if is_plain_vit(architecture):
        patches = patches_of(architecture)
        assert isinstance(patches, Patches)
        return PlainViT(timm.create_model(name, **patches.options, **asked))
    pyramid = _pyramid(architecture, dilated=dilated)
    assert isinstance(pyramid, Pyramid)
    return timm.create_model(name, features_only=True, **pyramid.options, **asked)
