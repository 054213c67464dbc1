"""How good the predictions are: protocols, scores over a data set, result files, pictures to look at."""

from pixelcontrast.evaluation.boundary import BoundaryIoU
from pixelcontrast.evaluation.confusion import ConfusionMatrix, Scores
from pixelcontrast.evaluation.confusion_picture import confusion_picture
from pixelcontrast.evaluation.overlay import (
    blend,
    contact_sheet,
    legend,
    overlay,
    samples_sheet,
    shrunk,
)
from pixelcontrast.evaluation.protocol import Protocol, scores
from pixelcontrast.evaluation.results import result_file

__all__ = [
    "BoundaryIoU",
    "ConfusionMatrix",
    "Protocol",
    "Scores",
    "blend",
    "confusion_picture",
    "contact_sheet",
    "legend",
    "overlay",
    "result_file",
    "samples_sheet",
    "scores",
    "shrunk",
]
