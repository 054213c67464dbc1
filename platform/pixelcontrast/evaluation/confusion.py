"""Data-set-level scores from one confusion matrix of pixels, summed over images and ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelcontrast import distributed


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Shares from 0 to 1, over all pixels that are not ignored."""

    miou: float
    """Mean of ``iou`` over the classes that occur or are predicted; nan when no pixel was counted."""
    pixel_accuracy: float
    """Share of the pixels whose class is predicted; nan when no pixel was counted."""
    mean_accuracy: float
    """Mean of ``accuracy`` over the classes that occur; nan when no pixel was counted."""
    frequency_weighted_iou: float
    """Mean of ``iou`` weighted by the classes' pixels; nan when no pixel was counted."""
    iou: tuple[float, ...]
    """Per class, true ∩ predicted over true ∪ predicted; nan where it neither occurs nor is predicted."""
    accuracy: tuple[float, ...]
    """Per class, the share of its pixels that are predicted as such (recall); nan where it does not occur."""


class ConfusionMatrix:
    """Counts of (true class, predicted class) over a data set; exact, in int64.

    As in the benchmarks of the field, IoU is taken once from the counts of all images, not per image.

    Attributes:
        matrix: int64 [num_classes, num_classes], rows the truth, columns the prediction.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor, *, ignore_index: int = 255) -> None:
        """Count the pixels of some images; those labelled ``ignore_index`` count for nothing.

        Args:
            predictions: integers 0 … num_classes−1, of any shape, on the matrix's device.
            labels: the same, or ``ignore_index``; of the same shape.

        Raises:
            ValueError: different shapes, or an id out of range; then nothing of the call is counted.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"predictions {list(predictions.shape)}, labels {list(labels.shape)}: not one shape"
            )
        if not labels.numel():
            return
        ignored = labels == ignore_index
        self._check_range("predicted", predictions)
        self._check_range("true", labels.masked_fill(ignored, 0))
        # Ignored pixels fall into a row of their own; int32 halves the memory traffic.
        rows = labels.to(torch.int32).masked_fill_(ignored, self.num_classes)
        bins = torch.add(predictions.to(torch.int32), rows, alpha=self.num_classes).flatten()
        counts = torch.bincount(bins, minlength=self.num_classes * (self.num_classes + 1))
        self.matrix += counts.view(self.num_classes + 1, self.num_classes)[:-1]

    def _check_range(self, kind: str, ids: Tensor) -> None:
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise ValueError(f"{kind} class {wrong}: there are only 0 … {self.num_classes - 1}")

    def all_reduce(self, group: distributed.Group = None) -> None:
        """Replace the counts by their sum over the ranks. Call it once, after each rank's last update."""
        self.matrix = distributed.all_reduce(self.matrix, group)

    def scores(self) -> Scores:
        """The scores of what has been counted so far."""
        counts = self.matrix.to("cpu", torch.float64)
        hits, total, pixels = counts.diagonal(), counts.sum(), counts.sum(1)
        iou, accuracy = hits / (counts.sum(0) + pixels - hits), hits / pixels
        return Scores(
            miou=iou.nanmean().item(),
            pixel_accuracy=(hits.sum() / total).item(),
            mean_accuracy=accuracy.nanmean().item(),
            # A class without pixels has no weight, though its IoU may be nan.
            frequency_weighted_iou=((pixels * iou.nan_to_num()).sum() / total).item(),
            iou=tuple(iou.tolist()),
            accuracy=tuple(accuracy.tolist()),
        )
