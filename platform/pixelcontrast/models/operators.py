"""What published implementations of the same networks compute differently."""

from typing import NamedTuple

from pixelcontrast import config
from pixelcontrast.models.decoders import REFERENCE_LAYERS, DeepLabV3Layers


class SourceOperators(NamedTuple):
    """The operators of one published implementation; None for a network that it does not have."""

    align_corners: bool
    """How its bilinear upsampling works, in a HRNet's fuse layers as in the decoder."""
    ceil_mode: bool
    """Whether a ResNet's max pooling rounds up."""
    ocr_kernel: int | None
    """OCR on a HRNet: the kernel of the auxiliary head's first convolution."""
    ocr_on_resnet: bool
    """Whether its OCR on a dilated network is ours."""
    deeplabv3: DeepLabV3Layers | None


SOURCES: dict[config.Operators, SourceOperators] = {
    "reference": SourceOperators(
        align_corners=True,
        ceil_mode=True,
        ocr_kernel=3,
        ocr_on_resnet=True,
        deeplabv3=REFERENCE_LAYERS,
    ),
    "hrnet": SourceOperators(
        align_corners=True, ceil_mode=False, ocr_kernel=1, ocr_on_resnet=False, deeplabv3=None
    ),
    "mmsegmentation": SourceOperators(
        align_corners=False,
        ceil_mode=False,
        ocr_kernel=1,
        ocr_on_resnet=False,
        deeplabv3=DeepLabV3Layers(width=512, fuse_kernel=3, refine="none"),
    ),
    "torchvision": SourceOperators(
        align_corners=False,
        ceil_mode=False,
        ocr_kernel=None,
        ocr_on_resnet=False,
        deeplabv3=DeepLabV3Layers(width=256, fuse_kernel=1, refine="relu"),
    ),
}


def operators_of(model: config.Model) -> SourceOperators:
    """The operators of the configured network: its source's, but for a set ``align_corners``."""
    source = SOURCES[model.operators]
    if model.align_corners is None:
        return source
    return source._replace(align_corners=model.align_corners == "yes")


def check_operators(model: config.Model, *, on_hrnet: bool) -> None:
    """Raise ``ValueError`` where the source of ``model.operators`` has no such decoder."""
    source = SOURCES[model.operators]
    match model.decoder:
        case "hrnet" | "linear":
            known = True
        case "deeplabv3":
            known = source.deeplabv3 is not None
        case "ocr":
            known = source.ocr_kernel is not None if on_hrnet else source.ocr_on_resnet
    if not known:
        raise ValueError(
            f"model.operators: {model.operators}'s are not known for model.decoder {model.decoder} on "
            f"{model.backbone}; set model.operators to reference, or choose another decoder or backbone"
        )
