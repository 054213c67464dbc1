"""The whole network: backbone, decoder, and in contrastive training the projection head."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import config
from pixelcontrast.contrast import ProjectionHead
from pixelcontrast.models.backbone import (
    build_backbone,
    check_backbone,
    check_weights_file,
    is_hrnet,
    side_multiple,
)
from pixelcontrast.models.decoders import (
    FINEST,
    Decoder,
    DeepLabV3Decoder,
    HRNetDecoder,
    HRNetOCRDecoder,
    LinearDecoder,
    PyramidDecoder,
    ResNetOCRDecoder,
    resize,
)
from pixelcontrast.models.vit import is_plain_vit
from pixelcontrast.models.weights import check_weights, fetch_timm_weights, tell_licence


class Output(NamedTuple):
    """What the network gives for images [B, 3, H, W]."""

    logits: Tensor
    """[B, num_classes, H, W]; float32 under autocast."""
    features: Tensor | None
    """[B, C, ⌈H/s⌉, ⌈W/s⌉], s the model's ``stride``: what ``projection`` embeds; None without a head."""
    auxiliary: Tensor | None = None
    """The auxiliary head's logits, like ``logits``; None in evaluation, and without such a head."""
    uncropped: Tensor | None = None
    """The tensor that ``features`` is a part of, which the logits are made of, too; None without a head."""


class SegmentationModel(nn.Module):
    """``backbone`` → ``decoder`` → logits, and the features that ``projection`` (or None) embeds.

    The head is left to the training step, which needs the embeddings of few pixels.

    The submodules are the parameter groups: ``backbone``, and as new layers ``decoder`` and ``projection``.
    Without a head it is the plain network, with the same parameters under the same names.

    Args:
        stride: of the decoder's feature map against the image; 3.5 with patches of 14 pixels and a pyramid.
        multiple: what the sides of the backbone's input must be multiples of.
        mean: of red, green and blue in [0, 1], by which images are normalised.
        std: their standard deviation.
        frozen: the backbone stays in evaluation mode and gets no gradient.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: Decoder,
        projection: ProjectionHead | None,
        *,
        stride: float,
        multiple: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        frozen: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.projection = projection
        self.stride = stride
        self.multiple = multiple
        self.mean = mean
        self.std = std
        self.frozen = frozen
        if frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "SegmentationModel":
        """As torch's; a frozen backbone keeps its statistics, and drops nothing."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Images [B, 3, H, W] of any size, normalised by ``mean`` and ``std``.

        Where the backbone needs it, zeros are padded right and below, and cropped again.
        """
        output = self.forward_features(images)
        return output if self.projection is not None else output._replace(features=None, uncropped=None)

    def forward_features(self, images: Tensor) -> Output:
        """The same, with the features also of a network without a projection head."""
        size = images.shape[-2:]
        padded = _pad(images, self.multiple)
        valid = None if padded is images else self._cells(size)
        logits, features, auxiliary = self.decoder(self.backbone(padded), valid)
        return Output(
            _upsample(logits, padded, size),
            self._crop(features, size),
            None if auxiliary is None else _upsample(auxiliary, padded, size),
            features,
        )

    def _cells(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the feature map that show an image of this size."""
        return math.ceil(size[0] / self.stride), math.ceil(size[1] / self.stride)

    def _crop(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Without the padding, which must stay out of the head's statistics."""
        rows, columns = self._cells(size)
        return features[..., :rows, :columns]


def _pad(images: Tensor, multiple: int) -> Tensor:
    below, right = -images.shape[-2] % multiple, -images.shape[-1] % multiple
    return F.pad(images, (0, right, 0, below)) if below or right else images


def _upsample(logits: Tensor, padded: Tensor, size: Sequence[int]) -> Tensor:
    # In bfloat16 the backward of the upsampling would add up many gradients of one cell in 8 bits.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return resize(logits, padded.shape[-2:])[..., : size[0], : size[1]]


def build_model(model: config.Model, *, num_classes: int, embedding: bool) -> SegmentationModel:
    """The network that ``model`` describes; new layers are drawn from torch's generator.

    Backbone and decoder are drawn before the projection head, so at one seed the baseline without contrast
    starts from the same weights as the network with it.

    Args:
        num_classes: of the logits.
        embedding: with a projection head; not for the baseline without contrast, and not for inference.

    Raises:
        ValueError: a backbone that cannot be used, or not with this decoder, or weights that cannot be had
            or do not fit.
    """
    _check_decoder(model)
    backbone = build_backbone(model.backbone, weights=model.weights, dilated=_dilated(model))
    channels, strides = backbone.feature_info.channels(), backbone.feature_info.reduction()
    decoder = _build_decoder(model, channels, num_classes)
    width, dim = decoder.feature_channels, model.embedding_dim
    projection = ProjectionHead(width, dim, batchnorm=model.embedding_batchnorm) if embedding else None
    network = SegmentationModel(
        backbone,
        decoder,
        projection,
        stride=strides[decoder.feature_level] / (FINEST if isinstance(decoder, PyramidDecoder) else 1),
        multiple=side_multiple(model.backbone, dilated=_dilated(model)),
        mean=tuple(backbone.pretrained_cfg["mean"]),
        std=tuple(backbone.pretrained_cfg["std"]),
        frozen=model.freeze_backbone,
    )
    # Convolutions are faster so on GPUs and on CPUs, and a loaded network gives the bits of the trained one.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _build_decoder(model: config.Model, channels: Sequence[int], num_classes: int) -> Decoder:
    dropout, architecture = model.dropout, model.backbone.partition(".")[0]
    match model.decoder:
        case "linear":
            return LinearDecoder(channels, num_classes, dropout=dropout)
        case "hrnet" if is_plain_vit(architecture):
            kernel = model.decoder_kernel
            return PyramidDecoder(channels[0], num_classes, kernel=kernel, dropout=dropout)
        case "hrnet":
            return HRNetDecoder(channels, num_classes, kernel=model.decoder_kernel, dropout=dropout)
        case "deeplabv3":
            return DeepLabV3Decoder(channels, num_classes, dropout=dropout)
        case "ocr" if is_hrnet(model.backbone):
            return HRNetOCRDecoder(channels, num_classes, dropout=dropout)
        case "ocr":
            return ResNetOCRDecoder(channels, num_classes, dropout=dropout)


def check_model(model: config.Model) -> None:
    """Raise ``ValueError`` for what ``build_model`` would refuse, without building, reading or downloading.

    Found: a backbone that cannot be used, or not with this decoder, ``timm`` weights that timm does not have,
    and a file that does not exist or has an unknown suffix. Not found: whether the hub can be reached, and
    what the file holds.
    """
    _check_decoder(model)
    check_backbone(model.backbone, dilated=_dilated(model))
    check_weights(model.weights, backbone=model.backbone)


def check_model_weights(model: config.Model) -> None:
    """Look at the weights before anything starts, once ``check_model`` has passed; tell timm's licence.

    Raises:
        ValueError: a file that does not fit the backbone, or timm's weights that cannot be had.
    """
    if model.weights == "timm":
        tell_licence(model.backbone)
        fetch_timm_weights(model.backbone)
    elif model.weights != "none":
        check_weights_file(model.backbone, Path(model.weights), dilated=_dilated(model))


def trains_features(model: config.Model) -> bool:
    """Whether the features that the embedding is projected from have layers below them that are trained."""
    pyramid = model.decoder == "hrnet" and is_plain_vit(model.backbone.partition(".")[0])
    return pyramid or not model.freeze_backbone


def _dilated(model: config.Model) -> bool:
    """Whether the decoder is made for a last stage at stride 8."""
    return model.decoder == "deeplabv3" or (model.decoder == "ocr" and not is_hrnet(model.backbone))


def _check_decoder(model: config.Model) -> None:
    if model.decoder == "deeplabv3" and is_hrnet(model.backbone):
        raise ValueError(
            f"model.decoder: deeplabv3 is made for the last stage of a ResNet, and model.backbone is "
            f"{model.backbone!r}; set model.backbone to a ResNet (resnet50, resnet101s, …), or model.decoder "
            "to hrnet or ocr"
        )
