"""The projection head: one embedding per pixel. Used in training only."""

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """1×1 convolution, ReLU, 1×1 convolution (Wang et al., ICCV 2021, 3.2): [B, C, h, w] → [B, D, h, w].

    ``PixelContrast`` applies the L2 normalisation that follows.

    Without BatchNorm each pixel is projected on its own, so the head may run on the drawn pixels only: pass
    ``project=head.rows`` to the contrast, with the features in place of the embeddings.

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
        """Embeddings of any length, in the dtype of the convolutions."""
        return self.conv2(self.act(self.bn(self.conv1(features))))

    def rows(self, features: Tensor) -> Tensor:
        """The same for pixels: [n, C] → [n, D], n may be 0; not with BatchNorm."""
        assert self.pixelwise
        hidden = self.act(F.linear(features, self.conv1.weight.flatten(1), self.conv1.bias))
        return F.linear(hidden, self.conv2.weight.flatten(1), self.conv2.bias)
