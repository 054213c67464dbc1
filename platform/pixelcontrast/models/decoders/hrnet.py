"""The decoder of HRNetV2."""

from collections.abc import Sequence

from torch import Tensor, nn

from pixelcontrast.models.decoders.parts import Decoded, concatenate, initialise


class HRNetDecoder(nn.Module):
    """HRNetV2's decoder (Wang et al., TPAMI 2020): the levels, upsampled and concatenated, then two layers.

    With ``kernel`` 1 the operators are those of the official code, with 3 those of the method's reference,
    whose classifier has no bias. Dropout zeroes whole channels, as in the reference.

    Args:
        channels: of the levels, finest first.
        align_corners: how the levels are upsampled.
    """

    auxiliary = None
    feature_level = 0

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        kernel: int,
        dropout: float,
        align_corners: bool = True,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.feature_channels = sum(channels)
        """C of ``Decoded.features``, the concatenated levels."""
        width = self.feature_channels
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1, bias=kernel == 1)
        initialise(self)

    def forward(self, levels: Sequence[Tensor], _valid: Sequence[int] | None = None) -> Decoded:
        """Levels [B, C_i, h_i, w_i], finest first → logits and features at h_0 × w_0."""
        features = concatenate(levels, align_corners=self.align_corners)
        hidden = self.dropout(self.act(self.bn(self.conv(features))))
        return Decoded(self.classifier(hidden), features, None)
