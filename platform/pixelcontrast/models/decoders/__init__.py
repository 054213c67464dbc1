"""From a backbone's levels to logits: one decoder per file, the parts they share in ``parts``."""

from pixelcontrast.models.decoders.deeplabv3 import REFERENCE_LAYERS, DeepLabV3Decoder, DeepLabV3Layers
from pixelcontrast.models.decoders.hrnet import HRNetDecoder
from pixelcontrast.models.decoders.ocr import HRNetOCRDecoder, OCRDecoder, ResNetOCRDecoder
from pixelcontrast.models.decoders.parts import Decoded, resize

Decoder = HRNetDecoder | DeepLabV3Decoder | OCRDecoder

__all__ = [
    "REFERENCE_LAYERS",
    "Decoded",
    "Decoder",
    "DeepLabV3Decoder",
    "DeepLabV3Layers",
    "HRNetDecoder",
    "HRNetOCRDecoder",
    "OCRDecoder",
    "ResNetOCRDecoder",
    "resize",
]
