"""How good the predictions are: scores over a data set, and pictures to look at."""

from pixelcontrast.evaluation.confusion import ConfusionMatrix, Scores
from pixelcontrast.evaluation.overlay import contact_sheet, overlay

__all__ = ["ConfusionMatrix", "Scores", "contact_sheet", "overlay"]
