"""How good the predictions are: scores over a data set, and pictures to look at."""

from pixelcontrast.evaluation.confusion import ConfusionMatrix, Scores
from pixelcontrast.evaluation.confusion_picture import confusion_picture
from pixelcontrast.evaluation.overlay import contact_sheet, overlay

__all__ = ["ConfusionMatrix", "Scores", "confusion_picture", "contact_sheet", "overlay"]
