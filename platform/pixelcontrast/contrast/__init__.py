"""Pixel-wise cross-image contrast: torch only, usable in any training loop."""

from pixelcontrast.contrast.info_nce import info_nce
from pixelcontrast.contrast.loss import PixelContrast

__all__ = ["PixelContrast", "info_nce"]
