"""From a backbone's levels to logits at the finest level's resolution."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoded(NamedTuple):
    """What a decoder gives: the logits, and the map that the embedding is projected from."""

    logits: Tensor
    """[B, num_classes, h, w]."""
    features: Tensor
    """[B, C, h, w]."""


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, h, w] → [B, C, *size], bilinear, the corner pixels' centres aligned, as the reference does."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


class HRNetDecoder(nn.Module):
    """HRNetV2's decoder (Wang et al., TPAMI 2020): the levels, upsampled and concatenated, then two layers.

    With ``kernel`` 1 the operators are those of the official code, with 3 those of the method's reference,
    whose classifier has no bias. Dropout zeroes whole channels, as in the reference.

    Args:
        channels: of the levels, finest first.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, kernel: int, dropout: float):
        super().__init__()
        self.feature_channels = sum(channels)
        """C of ``Decoded.features``."""
        width = self.feature_channels
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1, bias=kernel == 1)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        # Small, so that training starts at the loss of a uniform guess; not HRNet's 0.001, with which the
        # backbone hardly learns until the classifier has grown.
        nn.init.normal_(self.classifier.weight, std=0.01)
        for layer in (self.conv, self.classifier):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> Decoded:
        """Levels [B, C_i, h_i, w_i], finest first → logits and features at h_0 × w_0."""
        size = levels[0].shape[-2:]
        features = torch.cat([resize(level, size) for level in levels], dim=1)
        hidden = self.dropout(self.act(self.bn(self.conv(features))))
        return Decoded(self.classifier(hidden), features)
