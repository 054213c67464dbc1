"""Pixel-wise cross-image contrast: torch only, usable in any training loop."""

from pixelcontrast.contrast.loss import PixelContrast, info_nce

__all__ = ["PixelContrast", "info_nce"]
