"""DeepLabV3 on a dilated ResNet."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pixelcontrast.models.decoders.parts import AuxiliaryHead, Decoded, conv_bn_relu, initialise

_AUXILIARY_WIDTH = 256
_DILATIONS = (12, 24, 36)
"""The paper's rates for maps at stride 8."""


class DeepLabV3Layers(NamedTuple):
    """What published implementations differ in."""

    width: int
    """Channels of every branch, and of what follows."""
    fuse_kernel: int
    """The kernel of the convolution that fuses the branches."""
    refine: Literal["none", "linear", "relu"]
    """The 3×3 convolution with BatchNorm before the classifier: none, without or with a ReLU."""


REFERENCE_LAYERS = DeepLabV3Layers(width=512, fuse_kernel=3, refine="linear")


class DeepLabV3Decoder(nn.Module):
    """DeepLabV3 (Chen et al., 2017, arXiv 1706.05587, 3.3), by default with the reference's operators.

    These differ from the paper's: branches of 512 channels instead of 256, fused by a 3×3 instead of a 1×1
    convolution; one more 3×3 convolution, whose BatchNorm no ReLU follows, before the classifier; and an
    auxiliary head on the last stage but one (PSPNet's, Zhao et al., CVPR 2017). Dropout, which neither has,
    zeroes whole channels before the classifier.

    Args:
        channels: of the levels, finest first; the last two have the same size.
        layers: of another implementation.
    """

    feature_level = 3

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        dropout: float,
        layers: DeepLabV3Layers = REFERENCE_LAYERS,
    ):
        super().__init__()
        self.feature_channels = channels[3]
        """C of ``Decoded.features``, the backbone's last stage."""
        self.aspp = ASPP(channels[3], layers.width, fuse_kernel=layers.fuse_kernel)
        self.refine = _refine(layers)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(layers.width, num_classes, 1)
        self.auxiliary = AuxiliaryHead(channels[2], _AUXILIARY_WIDTH, num_classes)
        initialise(self)

    def forward(self, levels: Sequence[Tensor], _valid: Sequence[int] | None = None) -> Decoded:
        """Levels [B, C_i, h_i, w_i], finest first → logits and features at h_3 × w_3."""
        auxiliary = self.auxiliary(levels[2]) if self.training else None
        hidden = self.dropout(self.refine(self.aspp(levels[3])))
        return Decoded(self.classifier(hidden), levels[3], auxiliary)


def _refine(layers: DeepLabV3Layers) -> nn.Module:
    block = conv_bn_relu(layers.width, layers.width, 3, bias=False)
    match layers.refine:
        case "none":
            return nn.Identity()
        case "linear":
            return block[:2]
        case "relu":
            return block


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: [B, channels, h, w] → [B, width, h, w].

    The image pooling's BatchNorm sees one value per image and channel: in training it needs two images.
    """

    def __init__(self, channels: int, width: int, *, fuse_kernel: int = 3):
        super().__init__()
        self.pointwise = conv_bn_relu(channels, width, 1, bias=False)
        self.dilated = nn.ModuleList(
            conv_bn_relu(channels, width, 3, bias=False, dilation=dilation) for dilation in _DILATIONS
        )
        self.pooled = conv_bn_relu(channels, width, 1, bias=False)
        self.fuse = conv_bn_relu(5 * width, width, fuse_kernel, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        image = self.pooled(features.mean((2, 3), keepdim=True))
        branches = [self.pointwise(features), *(branch(features) for branch in self.dilated)]
        return self.fuse(torch.cat([*branches, image.expand_as(branches[0])], dim=1))
