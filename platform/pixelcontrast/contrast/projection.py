"""The projection head: one embedding per pixel. Used in training only."""

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """1×1 convolution, ReLU, 1×1 convolution (Wang et al., ICCV 2021, 3.2): [B, C, h, w] → [B, D, h, w].

    ``PixelContrast`` applies the L2 normalisation that follows.

    Without BatchNorm each pixel is projected on its own, so the head may run on the drawn pixels only: pass
    ``project=head`` to the contrast, with the features in place of the embeddings.

    A submodule of a network in DDP is trained by it, though the network's own forward pass does not call it.
    Only ``find_unused_parameters=True`` fails then: wrap the head in a DDP of its own, or set
    ``static_graph=True`` instead.

    Args:
        channels: C, of the features; the hidden layer has as many.
        embedding_dim: D.
        batchnorm: with BatchNorm before the ReLU, as in the reference code.
    """

    def __init__(self, channels: int, embedding_dim: int, *, batchnorm: bool = False):
        super().__init__()
        self.pixelwise = not batchnorm
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels) if batchnorm else nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, embedding_dim, 1)
        # Lengths of the order of the features': the gradient through the normalisation goes with 1/length.
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.conv2.weight, nonlinearity="linear")
        for layer in (self.conv1, self.conv2):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings of any length, in the dtype of the convolutions.

        Args:
            features: of a map, [B, C, h, w], or of pixels, [n, C] → [n, D]; n may be 0.

        Raises:
            ValueError: pixels for a head with BatchNorm, whose statistics are those of maps.
        """
        if features.ndim == 2:
            return self._rows(features)
        return self.conv2(self.act(self.bn(self.conv1(features))))

    def _rows(self, features: Tensor) -> Tensor:
        if not self.pixelwise:
            raise ValueError(
                "the projection head has batchnorm, whose statistics are those of whole maps: give the "
                "contrast head(features), without project"
            )
        hidden = self.act(F.linear(features, self.conv1.weight.flatten(1), self.conv1.bias))
        return F.linear(hidden, self.conv2.weight.flatten(1), self.conv2.bias)
