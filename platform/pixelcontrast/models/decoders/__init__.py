"""From a backbone's levels to logits: one decoder per file, the parts they share in ``parts``."""

from pixelcontrast.models.decoders.deeplabv3 import REFERENCE_LAYERS, DeepLabV3Decoder, DeepLabV3Layers
from pixelcontrast.models.decoders.hrnet import HRNetDecoder
from pixelcontrast.models.decoders.linear import LinearDecoder
from pixelcontrast.models.decoders.ocr import HRNetOCRDecoder, OCRDecoder, ResNetOCRDecoder
from pixelcontrast.models.decoders.parts import Decoded, resize
from pixelcontrast.models.decoders.pyramid import FINEST, PyramidDecoder

Decoder = HRNetDecoder | DeepLabV3Decoder | LinearDecoder | OCRDecoder

__all__ = [
    "FINEST",
    "REFERENCE_LAYERS",
    "Decoded",
    "Decoder",
    "DeepLabV3Decoder",
    "DeepLabV3Layers",
    "HRNetDecoder",
    "HRNetOCRDecoder",
    "LinearDecoder",
    "OCRDecoder",
    "PyramidDecoder",
    "ResNetOCRDecoder",
    "resize",
]
