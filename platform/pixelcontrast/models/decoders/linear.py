"""The linear classifier, which shows what a backbone's features are worth by themselves."""

from collections.abc import Sequence

from torch import Tensor, nn

from pixelcontrast.models.decoders.parts import Decoded, concatenate, initialise


class LinearDecoder(nn.Module):
    """BatchNorm and a 1×1 convolution (DINOv2's linear head: Oquab et al., TMLR 2024, 7.4).

    Of a plain Vision Transformer it reads the last block's patch tokens, of any other backbone the levels,
    upsampled and concatenated. Dropout, which DINOv2 has none of, zeroes whole channels.

    Args:
        channels: of the levels, finest first; one or more.
    """

    auxiliary = None
    feature_level = 0

    def __init__(
        self, channels: Sequence[int], num_classes: int, *, dropout: float, align_corners: bool = True
    ):
        super().__init__()
        self.align_corners = align_corners
        self.feature_channels = sum(channels)
        """C of ``Decoded.features``, the concatenated levels."""
        self.bn = nn.BatchNorm2d(self.feature_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(self.feature_channels, num_classes, 1)
        initialise(self)

    def forward(self, levels: Sequence[Tensor], _valid: Sequence[int] | None = None) -> Decoded:
        """Levels [B, C_i, h_i, w_i], finest first → logits and features at h_0 × w_0."""
        features = concatenate(levels, align_corners=self.align_corners)
        return Decoded(self.classifier(self.dropout(self.bn(features))), features, None)
