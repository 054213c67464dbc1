"""HRNetV2's decoder on a plain Vision Transformer, by way of a simple feature pyramid."""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from pixelcontrast.models.decoders.hrnet import HRNetDecoder
from pixelcontrast.models.decoders.parts import Decoded, initialise

FINEST = 4
"""The pyramid's finest level has this many times the rows and columns of the map that it is made of."""
_WIDTH = 256


class SimpleFeaturePyramid(nn.Module):
    """Four levels from the last map alone (ViTDet: Li et al., ECCV 2022, 3 and Fig. 2).

    The map is upsampled 4 and 2 times by transposed convolutions, kept, and halved by pooling (rounded up);
    each level then goes through a 1×1 and a 3×3 convolution, with LayerNorm after each.

    Args:
        channels: C of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels, half, 2, stride=2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                nn.ConvTranspose2d(channels, half, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.outputs = nn.ModuleList(_output(width) for width in (quarter, half, channels, channels))

    def forward(self, features: Tensor) -> list[Tensor]:
        """[B, C, h, w] → [B, 256, ., .] of 4h × 4w, 2h × 2w, h × w and ⌈h/2⌉ × ⌈w/2⌉."""
        return [output(scale(features)) for scale, output in zip(self.scales, self.outputs, strict=True)]


class PyramidDecoder(HRNetDecoder):
    """HRNetV2's decoder, the levels of which are a simple feature pyramid's; its layers are all new ones.

    Args:
        channels: of the one map; the others as of ``HRNetDecoder``.
    """

    def __init__(
        self, channels: int, num_classes: int, *, kernel: int, dropout: float, align_corners: bool = True
    ):
        levels = [_WIDTH] * 4
        super().__init__(levels, num_classes, kernel=kernel, dropout=dropout, align_corners=align_corners)
        self.pyramid = SimpleFeaturePyramid(channels)
        initialise(self.pyramid)

    def forward(self, levels: Sequence[Tensor], _valid: Sequence[int] | None = None) -> Decoded:
        """One map [B, C, h, w] → logits and features at 4h × 4w."""
        return super().forward(self.pyramid(levels[0]))


def _output(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, _WIDTH, 1, bias=False),
        LayerNorm2d(_WIDTH),
        nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False),
        LayerNorm2d(_WIDTH),
    )
