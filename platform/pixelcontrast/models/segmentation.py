"""The whole network: backbone, decoder, and in contrastive training the projection head."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import config
from pixelcontrast.models.backbone import build_backbone, check_backbone
from pixelcontrast.models.decoder import HRNetDecoder, resize
from pixelcontrast.models.projection import ProjectionHead
from pixelcontrast.models.weights import check_weights

_MULTIPLE = 32
"""HRNet's branches only add up where the input's sides are multiples of this."""


class Output(NamedTuple):
    """What the network gives for images [B, 3, H, W]."""

    logits: Tensor
    """[B, num_classes, H, W]; float32 under autocast."""
    embedding: Tensor | None
    """[B, D, ⌈H/s⌉, ⌈W/s⌉], s the decoder's stride (4), of unit length over D; None without a head."""


class SegmentationModel(nn.Module):
    """``backbone`` → ``decoder`` → logits, and ``projection`` (or None) → embedding.

    The submodules are the parameter groups: ``backbone``, and as new layers ``decoder`` and ``projection``.
    Without a head it is the plain network, with the same parameters under the same names.

    Args:
        stride: of the decoder's feature map against the image.
    """

    def __init__(
        self, backbone: nn.Module, decoder: HRNetDecoder, projection: ProjectionHead | None, *, stride: int
    ):
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.projection = projection
        self.stride = stride

    def forward(self, images: Tensor) -> Output:
        """Normalised images [B, 3, H, W] of any size; zeros are padded right and below, and cropped again."""
        height, width = images.shape[-2:]
        padded = _pad(images)
        logits, features = self.decoder(self.backbone(padded))
        # In bfloat16 the backward of the upsampling would add up many gradients of one cell in 8 bits.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = resize(logits, padded.shape[-2:])[..., :height, :width]
        return Output(logits, self._embed(features, height, width))

    def _embed(self, features: Tensor, height: int, width: int) -> Tensor | None:
        if self.projection is None:
            return None
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        # Cropped first, so that the padding stays out of a BatchNorm's statistics.
        return self.projection(features[..., :rows, :columns])


def _pad(images: Tensor) -> Tensor:
    below, right = -images.shape[-2] % _MULTIPLE, -images.shape[-1] % _MULTIPLE
    return F.pad(images, (0, right, 0, below)) if below or right else images


def build_model(model: config.Model, *, num_classes: int, embedding: bool) -> SegmentationModel:
    """The network that ``model`` describes; new layers are drawn from torch's generator.

    Backbone and decoder are drawn before the projection head, so at one seed the baseline without contrast
    starts from the same weights as the network with it.

    Args:
        num_classes: of the logits.
        embedding: with a projection head; not for the baseline without contrast, and not for inference.

    Raises:
        ValueError: a backbone that cannot be used, or weights that cannot be had or do not fit.
    """
    backbone = build_backbone(model.backbone, weights=model.weights)
    channels, strides = backbone.feature_info.channels(), backbone.feature_info.reduction()
    match model.decoder:
        case "hrnet":
            decoder = HRNetDecoder(channels, num_classes, kernel=model.decoder_kernel, dropout=model.dropout)
    width, dim = decoder.feature_channels, model.embedding_dim
    projection = ProjectionHead(width, dim, batchnorm=model.embedding_batchnorm) if embedding else None
    return SegmentationModel(backbone, decoder, projection, stride=strides[0])


def check_model(model: config.Model) -> None:
    """Raise ``ValueError`` for what ``build_model`` would refuse, without building, reading or downloading.

    Found: a backbone that cannot be used, ``timm`` weights that timm does not have, and a file that does not
    exist or has an unknown suffix. Not found: whether the hub can be reached, and what the file holds.
    """
    check_backbone(model.backbone)
    check_weights(model.weights, backbone=model.backbone)
