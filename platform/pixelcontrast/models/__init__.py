"""Segmentation networks: timm's backbones, the decoder, and the projection head that contrast trains."""

from pixelcontrast.models.segmentation import (
    Output,
    SegmentationModel,
    build_model,
    check_model,
    check_model_weights,
    has_reference_operators,
    trains_features,
)

__all__ = [
    "Output",
    "SegmentationModel",
    "build_model",
    "check_model",
    "check_model_weights",
    "has_reference_operators",
    "trains_features",
]
