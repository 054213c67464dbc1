"""OCR: every pixel attends to the objects that are in its image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixelcontrast.models.decoders.parts import (
    AuxiliaryHead,
    Decoded,
    concatenate,
    conv_bn_relu,
    initialise,
)

_WIDTH, _KEY_WIDTH, _RESNET_AUXILIARY_WIDTH = 512, 256, 512


class OCRDecoder(nn.Module):
    """Object-contextual representations (Yuan et al., ECCV 2020, 3.2) with the reference's operators.

    The auxiliary head's logits say softly where in the image the object of each class lies; the mean of the
    pixels there represents it (Eq. 3), each pixel attends to these objects (Eq. 4, 5), and what it finds is
    fused with it (Eq. 6). Dropout zeroes whole channels before the classifier.

    Args:
        channels: of the features that the pixels are made of.
        auxiliary: makes the soft object regions.
    """

    feature_level: int

    def __init__(self, channels: int, auxiliary: AuxiliaryHead, num_classes: int, *, dropout: float):
        super().__init__()
        self.feature_channels = channels
        """C of ``Decoded.features``."""
        self.auxiliary = auxiliary
        self.pixels = conv_bn_relu(channels, _WIDTH, 3, bias=True)
        self.context = ObjectContext(_WIDTH, _KEY_WIDTH)
        self.fuse = conv_bn_relu(2 * _WIDTH, _WIDTH, 1, bias=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(_WIDTH, num_classes, 1)
        initialise(self)

    def _inputs(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The features of the pixels, and those of the auxiliary head, of one size."""
        raise NotImplementedError

    def forward(self, levels: Sequence[Tensor], valid: Sequence[int] | None = None) -> Decoded:
        """Levels [B, C_i, h_i, w_i], finest first → logits, features and auxiliary logits at one size.

        Args:
            valid: rows and columns of that size, from the upper left, that show the image: padding beyond
                them is part of no object. None: all.
        """
        features, coarse = self._inputs(levels)
        auxiliary, pixels = self.auxiliary(coarse), self.pixels(features)
        rows, columns = valid or pixels.shape[-2:]
        objects = gather_objects(pixels[..., :rows, :columns], auxiliary[..., :rows, :columns])
        hidden = self.fuse(torch.cat([self.context(pixels, objects), pixels], dim=1))
        logits = self.classifier(self.dropout(hidden))
        return Decoded(logits, features, auxiliary if self.training else None)


class HRNetOCRDecoder(OCRDecoder):
    """OCR on a HRNet's concatenated branches, of which the auxiliary head is made too.

    Args:
        channels: of the levels, finest first.
        auxiliary_kernel: of the auxiliary head's first convolution; 3 in the reference, 1 in the official
            code.
        align_corners: how the branches are upsampled.
    """

    feature_level = 0

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        dropout: float,
        auxiliary_kernel: int = 3,
        align_corners: bool = True,
    ):
        width = sum(channels)
        auxiliary = AuxiliaryHead(width, width, num_classes, kernel=auxiliary_kernel)
        super().__init__(width, auxiliary, num_classes, dropout=dropout)
        self.align_corners = align_corners

    def _inputs(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        features = concatenate(levels, align_corners=self.align_corners)
        return features, features


class ResNetOCRDecoder(OCRDecoder):
    """OCR on a dilated ResNet's last stage, the auxiliary head on the stage before (the paper, 4.1).

    The method's paper has no such network; its embedding is taken from the last stage, as for DeepLabV3.
    The reference's 5 % of dropout in the auxiliary head is left out.

    Args:
        channels: of the levels, finest first; the last two have the same size.
    """

    feature_level = 3

    def __init__(self, channels: Sequence[int], num_classes: int, *, dropout: float):
        auxiliary = AuxiliaryHead(channels[2], _RESNET_AUXILIARY_WIDTH, num_classes)
        super().__init__(channels[3], auxiliary, num_classes, dropout=dropout)

    def _inputs(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return levels[3], levels[2]


def gather_objects(pixels: Tensor, scores: Tensor) -> Tensor:
    """Mean of the pixels, weighted for each class by the softmax of its scores over the image.

    Args:
        pixels: [B, C, h, w].
        scores: [B, K, h, w], logits of the K classes.

    Returns:
        [B, C, K].
    """
    regions = _softmax(scores.flatten(2), dim=2)
    return pixels.flatten(2) @ regions.to(pixels.dtype).transpose(1, 2)


class ObjectContext(nn.Module):
    """Attention of pixels to objects: [B, C, h, w] and [B, C, K] → [B, C, h, w].

    Pixels stay the last dimension throughout, so no map is transposed in memory.

    Args:
        channels: C.
        key_channels: of queries, keys and values.
    """

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.query = _two_layers(channels, key_channels)
        self.key = _two_layers(channels, key_channels)
        self.value = conv_bn_relu(channels, key_channels, 1, bias=True)
        self.up = conv_bn_relu(key_channels, channels, 1, bias=True)

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        objects = objects.unsqueeze(3)
        keys, values = self.key(objects).squeeze(3), self.value(objects).squeeze(3)
        queries = self.query(pixels).flatten(2)
        keys = keys * keys.shape[1] ** -0.5
        attention = _softmax(keys.transpose(1, 2) @ queries, dim=1).to(values.dtype)
        return self.up((values @ attention).unflatten(2, pixels.shape[-2:]))


def _two_layers(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(channels, width, 1, bias=True), conv_bn_relu(width, width, 1, bias=True)
    )


def _softmax(scores: Tensor, *, dim: int) -> Tensor:
    return scores.softmax(dim, dtype=torch.promote_types(scores.dtype, torch.float32))
