"""A trained network in use: loaded, exported to one file, applied to pictures. Knows no training loop."""

from pixelcontrast.inference.export import export_model
from pixelcontrast.inference.trained import TrainedModel, load_model

__all__ = ["TrainedModel", "export_model", "load_model"]
