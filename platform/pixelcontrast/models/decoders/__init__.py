"""From a backbone's levels to logits: one decoder per file, the parts they share in ``parts``."""

from pixelcontrast.models.decoders.deeplabv3 import DeepLabV3Decoder
from pixelcontrast.models.decoders.hrnet import HRNetDecoder
from pixelcontrast.models.decoders.ocr import HRNetOCRDecoder, OCRDecoder, ResNetOCRDecoder
from pixelcontrast.models.decoders.parts import Decoded, resize

Decoder = HRNetDecoder | DeepLabV3Decoder | OCRDecoder

__all__ = [
    "Decoded",
    "Decoder",
    "DeepLabV3Decoder",
    "HRNetDecoder",
    "HRNetOCRDecoder",
    "OCRDecoder",
    "ResNetOCRDecoder",
    "resize",
]
