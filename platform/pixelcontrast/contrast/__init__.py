"""Pixel-wise cross-image contrast: torch only, usable in any training loop."""

import importlib
from typing import TYPE_CHECKING, Any

from pixelcontrast.contrast.hyperparameters import AnchorConfig, LossConfig, MemoryConfig, MiningConfig

if TYPE_CHECKING:
    from pixelcontrast.contrast.banks import reshard
    from pixelcontrast.contrast.hook import FeatureHook
    from pixelcontrast.contrast.loss import PixelContrast
    from pixelcontrast.contrast.projection import ProjectionHead

_HOMES = {
    "FeatureHook": "hook",
    "PixelContrast": "loss",
    "ProjectionHead": "projection",
    "reshard": "banks",
}

__all__ = [
    "AnchorConfig",
    "FeatureHook",
    "LossConfig",
    "MemoryConfig",
    "MiningConfig",
    "PixelContrast",
    "ProjectionHead",
    "reshard",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for: a configuration has the settings without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pixelcontrast.contrast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pixelcontrast.contrast.{_HOMES[name]}"), name)
