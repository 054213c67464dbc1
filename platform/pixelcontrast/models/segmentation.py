"""The whole network: backbone, decoder, and in contrastive training the projection head."""

import fnmatch
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import config, distributed
from pixelcontrast.contrast import ProjectionHead
from pixelcontrast.contrast.maps import read_at
from pixelcontrast.models.backbone import (
    build_backbone,
    check_backbone,
    exempt_from_decay,
    is_hrnet,
    is_resnet,
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
from pixelcontrast.models.grouped import keep_grouped_in_float32
from pixelcontrast.models.operators import SourceOperators, check_operators, operators_of
from pixelcontrast.models.published import Target
from pixelcontrast.models.vit import is_plain_vit
from pixelcontrast.models.weights import check_weights, find_start, tell_licence

logger = logging.getLogger(__name__)


class Output(NamedTuple):
    """What the network gives for images [B, 3, H, W]."""

    logits: Tensor
    """[B, num_classes, H, W]; float32 under autocast."""
    features: Tensor | None
    """[B, C, h, w], the cells that show the image: what ``projection`` embeds; None without a head."""
    auxiliary: Tensor | None = None
    """The auxiliary head's logits, like ``logits``; None in evaluation, and without such a head."""
    uncropped: Tensor | None = None
    """``features`` with the cells that show padding, as the logits are made of it; None without a head."""


class SegmentationModel(nn.Module):
    """``backbone`` → ``decoder`` → logits, and the features that ``projection`` (or None) embeds.

    The head is left to the training step, which needs the embeddings of few pixels.

    The submodules are the parameter groups: ``backbone``, and as new layers ``decoder`` and ``projection``.
    Without a head it is the plain network, with the same parameters under the same names.

    Args:
        stride: of the decoder's feature map against the image; 3.5 with patches of 14 pixels and a pyramid.
        multiple: what the sides of the backbone's input must be multiples of.
        align_corners: how the logits are upsampled.
        mean: of red, green and blue in [0, 1], by which images are normalised.
        std: their standard deviation.
        frozen: the backbone stays in evaluation mode and gets no gradient.
        architecture: timm's name of the backbone, without the tag of its weights; empty for none of timm's.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: Decoder,
        projection: ProjectionHead | None,
        *,
        stride: float,
        multiple: int,
        align_corners: bool = True,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        frozen: bool = False,
        architecture: str = "",
    ):
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.projection = projection
        self.stride = stride
        self.multiple = multiple
        self.align_corners = align_corners
        self.mean = mean
        self.std = std
        self.frozen = frozen
        self.architecture = architecture
        if frozen:  # evaluation mode at once: a training loop need not call train() before its first step
            backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SegmentationModel":
        """As torch's; a frozen backbone keeps its statistics, and drops nothing."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm exempts from weight decay, told as its networks tell theirs."""
        names = {name for name, _ in self.backbone.named_parameters()}
        patterns = exempt_from_decay(self.architecture) if self.architecture else ()
        return {f"backbone.{name}" for pattern in patterns for name in fnmatch.filter(names, pattern)}

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
            self._upsample(logits, padded, size),
            features if valid is None else features[..., : valid[0], : valid[1]],
            None if auxiliary is None else self._upsample(auxiliary, padded, size),
            features,
        )

    def read_at_cells(self, maps: Tensor, output: Output, *, padding: int) -> Tensor:
        """The pixels on which the cells of ``output.features`` come to lie, of maps like its images.

        Args:
            maps: [..., H, W].
            padding: what a cell gets that lies beyond the image.

        Returns:
            [..., h, w].
        """
        assert output.features is not None
        assert output.uncropped is not None
        rows, columns = output.features.shape[-2:]
        padded = _pad(maps, self.multiple, padding)
        cells = read_at(padded, output.uncropped.shape[-2:], align_corners=self.align_corners)
        return cells[..., :rows, :columns]

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width over which the cells of ``Output.uncropped`` are spread, for images of a size."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return height, width

    def _cells(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of a padded image's feature map that show an image of this size.

        The rest must stay out of the head's statistics. Without padding all cells show the image, and there
        may be more of them: a ResNet whose pooling rounds up has 33 rows at stride 8 for 256 pixels.
        """
        return math.ceil(size[0] / self.stride), math.ceil(size[1] / self.stride)

    def _upsample(self, logits: Tensor, padded: Tensor, size: Sequence[int]) -> Tensor:
        # In bfloat16 the backward of the upsampling would add up many gradients of one cell in 8 bits.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        upsampled = resize(logits, padded.shape[-2:], align_corners=self.align_corners)
        return upsampled[..., : size[0], : size[1]]


def _pad(maps: Tensor, multiple: int, value: int = 0) -> Tensor:
    below, right = -maps.shape[-2] % multiple, -maps.shape[-1] % multiple
    return F.pad(maps, (0, right, 0, below), value=value) if below or right else maps


def build_model(model: config.Model, *, num_classes: int, embedding: bool) -> SegmentationModel:
    """The network that ``model`` describes; what its weights do not give is drawn from torch's generator.

    Backbone and decoder are drawn before the projection head, so at one seed the baseline without contrast
    starts from the same weights as the network with it. Rank 0 logs what of a file is left aside.

    Args:
        num_classes: of the logits.
        embedding: with a projection head; not for the baseline without contrast, and not for inference.

    Raises:
        ValueError: a backbone that cannot be used, or not with this decoder, or weights that cannot be had
            or do not fit.
    """
    _check_decoder(model)
    check_weights(model.weights, backbone=model.backbone)
    network = _build_random(model, num_classes=num_classes, embedding=embedding)
    if model.weights != "none":
        path, start = find_start(_target(network, model))
        network.load_state_dict(start.tensors, strict=False)
        if distributed.rank() == 0:
            for note in start.notes:
                logger.warning("%s: %s", path, note)
    keep_grouped_in_float32(network)
    # Convolutions are faster so on GPUs and on CPUs, and a loaded network gives the bits of the trained one.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if network.projection is not None and network.projection.pixelwise:
        # Its convolutions are matrices here, and DDP copies a gradient whose strides are not the parameter's.
        network.projection.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _build_random(model: config.Model, *, num_classes: int, embedding: bool) -> SegmentationModel:
    operators = operators_of(model)
    backbone = build_backbone(
        model.backbone,
        dilated=_dilated(model),
        align_corners=operators.align_corners,
        ceil_mode=operators.ceil_mode,
        drop_path=model.drop_path,
    )
    channels, strides = backbone.feature_info.channels(), backbone.feature_info.reduction()
    decoder = _build_decoder(model, operators, channels, num_classes)
    width, dim = decoder.feature_channels, model.embedding_dim
    projection = ProjectionHead(width, dim, batchnorm=model.embedding_batchnorm) if embedding else None
    return SegmentationModel(
        backbone,
        decoder,
        projection,
        stride=strides[decoder.feature_level] / (FINEST if isinstance(decoder, PyramidDecoder) else 1),
        multiple=side_multiple(model.backbone, dilated=_dilated(model)),
        align_corners=operators.align_corners,
        mean=model.mean or tuple(backbone.pretrained_cfg["mean"]),
        std=model.std or tuple(backbone.pretrained_cfg["std"]),
        frozen=model.freeze_backbone,
        architecture=model.backbone.partition(".")[0],
    )


def _target(network: SegmentationModel, model: config.Model) -> Target:
    return Target(model, network.state_dict(), network.mean, network.std)


def _build_decoder(
    model: config.Model, operators: SourceOperators, channels: Sequence[int], num_classes: int
) -> Decoder:
    dropout, align_corners = model.dropout, operators.align_corners
    architecture = model.backbone.partition(".")[0]
    match model.decoder:
        case "linear":
            return LinearDecoder(channels, num_classes, dropout=dropout, align_corners=align_corners)
        case "hrnet" if is_plain_vit(architecture):
            kernel = model.decoder_kernel
            return PyramidDecoder(
                channels[0], num_classes, kernel=kernel, dropout=dropout, align_corners=align_corners
            )
        case "hrnet":
            kernel = model.decoder_kernel
            return HRNetDecoder(
                channels, num_classes, kernel=kernel, dropout=dropout, align_corners=align_corners
            )
        case "deeplabv3":
            assert operators.deeplabv3 is not None
            return DeepLabV3Decoder(channels, num_classes, dropout=dropout, layers=operators.deeplabv3)
        case "ocr" if is_hrnet(model.backbone):
            assert operators.ocr_kernel is not None
            kernel = operators.ocr_kernel
            return HRNetOCRDecoder(
                channels, num_classes, dropout=dropout, auxiliary_kernel=kernel, align_corners=align_corners
            )
        case "ocr":
            return ResNetOCRDecoder(channels, num_classes, dropout=dropout)


def check_model(model: config.Model) -> None:
    """Raise ``ValueError`` for what ``build_model`` would refuse, without building, reading or downloading.

    Found: a backbone that cannot be used, or not with this decoder, ``timm`` weights that timm does not have,
    and a file that does not exist or has an unknown suffix. Not found: whether the hub can be reached, and
    what the file holds.
    """
    _check_decoder(model)
    check_backbone(model.backbone, dilated=_dilated(model), drop_path=model.drop_path)
    check_weights(model.weights, backbone=model.backbone)


def check_model_weights(model: config.Model, *, num_classes: int, embedding: bool) -> None:
    """Look at the weights before anything starts, once ``check_model`` has passed; tell timm's licence.

    Args:
        num_classes: of the network that would be built.
        embedding: whether it would have a projection head.

    Raises:
        ValueError: a file, timm's too, that does not fit the network, or timm's weights that cannot be had.
    """
    if model.weights == "none":
        return
    if model.weights == "timm":
        tell_licence(model.backbone)
    with torch.device("meta"):
        network = _build_random(model, num_classes=num_classes, embedding=embedding)
    find_start(_target(network, model))


def trains_features(model: config.Model) -> bool:
    """Whether the features that the embedding is projected from have layers below them that are trained."""
    pyramid = model.decoder == "hrnet" and is_plain_vit(model.backbone.partition(".")[0])
    return pyramid or not model.freeze_backbone


def has_reference_operators(model: config.Model) -> bool:
    """Whether the configured network computes what it would with the operators of the reference."""
    own, reference = operators_of(model), operators_of(replace(model, operators="reference"))
    used = {"align_corners"}
    if is_resnet(model.backbone):
        used.add("ceil_mode")
    if model.decoder == "deeplabv3":
        used.add("deeplabv3")
    if model.decoder == "ocr" and is_hrnet(model.backbone):
        used.add("ocr_kernel")
    return all(getattr(own, name) == getattr(reference, name) for name in used)


def _dilated(model: config.Model) -> bool:
    """Whether the decoder is made for a last stage at stride 8."""
    return model.decoder == "deeplabv3" or (model.decoder == "ocr" and not is_hrnet(model.backbone))


def _check_decoder(model: config.Model) -> None:
    check_operators(model, on_hrnet=is_hrnet(model.backbone))
    if model.decoder == "deeplabv3" and is_hrnet(model.backbone):
        raise ValueError(
            f"model.decoder: deeplabv3 is made for the last stage of a ResNet, and model.backbone is "
            f"{model.backbone!r}; set model.backbone to a ResNet (resnet50, resnet101s, …), or model.decoder "
            "to hrnet or ocr"
        )
