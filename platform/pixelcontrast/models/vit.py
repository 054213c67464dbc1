"""timm's plain Vision Transformers as backbones: one level, at the stride of their patches."""

import functools
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

_FAMILIES = ("vision_transformer", "eva", "deit")
"""timm's modules of plain Vision Transformers; DINOv2's are in the first, DINOv3's in the second."""


class PlainViT(nn.Module):
    """Images [B, 3, H, W] → a list of one map, [B, C, H/p, W/p]: the last block's patch tokens.

    They are normalised by the network's last norm. Where that comes after the pooling (EVA-02; timm's
    ``fc_norm``), they are not normalised, as those of timm's ``features_only``.
    H and W are multiples of p, the patches' side; position embeddings are resampled to the image's size.

    Args:
        network: timm's, built with the ``options`` of ``patches_of``.
    """

    def __init__(self, network: Any):
        super().__init__()
        network.prune_intermediate_layers(1, prune_norm=False)  # the pooling and what follows it
        self.model = network
        self.feature_info = _LastBlock(network)
        self.pretrained_cfg = network.pretrained_cfg

    def forward(self, images: Tensor) -> list[Tensor]:
        # The classification, mask and register tokens are left out by timm.
        return self.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)


class _LastBlock:
    """Channels and stride of the one level, as timm's pyramids describe theirs."""

    def __init__(self, network: Any):
        self._last = network.feature_info[-1]

    def channels(self) -> list[int]:
        return [self._last["num_chs"]]

    def reduction(self) -> list[int]:
        return [self._last["reduction"]]


class Patches(NamedTuple):
    """How to build a plain Vision Transformer."""

    options: dict[str, Any]
    """Arguments of ``timm.create_model``."""
    side: int
    """A patch's, in pixels; the image's sides must be multiples of it."""


def is_plain_vit(architecture: str) -> bool:
    """Whether timm has the network among its plain Vision Transformers; nothing is built."""
    return timm.models.is_model_in_modules(architecture, _FAMILIES)


@functools.cache
def patches_of(architecture: str) -> Patches | str:
    """How to build a plain Vision Transformer, or why it cannot be used; builds its outline only."""
    # With timm's own pooling: on it depends which of the last norms there is, and so what timm's files hold.
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    try:
        with torch.device("meta"):
            backbone = PlainViT(timm.create_model(architecture, **options)).eval()
            (side,) = backbone.feature_info.reduction()
            (level,) = backbone(torch.empty(1, 3, 2 * side, 3 * side))
    except Exception as error:  # as many kinds as timm has families
        return f"cannot be used for images of every size ({type(error).__name__}: {error})"
    if tuple(level.shape[2:]) != (2, 3):
        return f"gives {level.shape[2]} × {level.shape[3]} cells for 2 × 3 patches"
    return Patches(options, side)
