"""What the decoders share: their output, their layers, how these start."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoded(NamedTuple):
    """What a decoder gives: logits, the map that the embedding is projected from, auxiliary logits."""

    logits: Tensor
    """[B, num_classes, h, w]."""
    features: Tensor
    """[B, C, h, w], C the decoder's ``feature_channels``, h × w the size of level ``feature_level``."""
    auxiliary: Tensor | None
    """[B, num_classes, h', w'], at the size of the auxiliary head's level; in training only."""


def resize(maps: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """[B, C, h, w] → [B, C, *size], bilinear.

    Args:
        align_corners: the centres of the corner pixels stay where they are, as in the reference.
    """
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


def concatenate(levels: Sequence[Tensor], *, align_corners: bool) -> Tensor:
    """Levels [B, C_i, h_i, w_i], finest first → [B, sum of C_i, h_0, w_0] (HRNetV2)."""
    size = levels[0].shape[-2:]
    return torch.cat([resize(level, size, align_corners=align_corners) for level in levels], dim=1)


def conv_bn_relu(channels: int, width: int, kernel: int, *, bias: bool, dilation: int = 1) -> nn.Sequential:
    """[B, channels, h, w] → [B, width, h, w]; ``bias`` where the reference has one before its BatchNorm."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class AuxiliaryHead(nn.Module):
    """A second classifier, of a level [B, channels, h, w], trained by a loss of its own: → logits."""

    def __init__(self, channels: int, width: int, num_classes: int, *, kernel: int = 3):
        super().__init__()
        self.hidden = conv_bn_relu(channels, width, kernel, bias=True)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, level: Tensor) -> Tensor:
        return self.classifier(self.hidden(level))


def initialise(decoder: nn.Module) -> None:
    """Draw the convolutions' weights; those named ``classifier`` are small, and biases are 0."""
    for name, layer in decoder.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if name.split(".")[-1] == "classifier":
            # Small, so that training starts at the loss of a uniform guess; not HRNet's 0.001, with which
            # the backbone hardly learns until the classifier has grown.
            nn.init.normal_(layer.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
