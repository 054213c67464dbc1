"""Pixel-wise cross-image contrast: torch only, usable in any training loop."""

from pixelcontrast.contrast.loss import PixelContrast

__all__ = ["PixelContrast"]
