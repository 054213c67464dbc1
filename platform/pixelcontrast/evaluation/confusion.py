"""Data-set-level scores from one confusion matrix of pixels, summed over images and ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelcontrast import distributed

_IDS = 256
"""Ids that a byte can hold: counting all pairs of them first needs no look at single pixels."""
_IGNORED = 255
"""What labels have where a pixel counts for nothing."""


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
        if not 1 <= num_classes <= _IGNORED:
            raise ValueError(f"num_classes is {num_classes}; it must be 1 to {_IGNORED}")
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the pixels of some images; those labelled 255 count for nothing.

        Args:
            predictions: integers 0 … num_classes−1, of any shape, on the matrix's device; fastest as uint8.
            labels: the same, or 255; of the same shape.

        Raises:
            ValueError: different shapes, or an id out of range; then nothing of the call is counted.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"predictions {list(predictions.shape)}, labels {list(labels.shape)}: not one shape"
            )
        if not labels.numel():
            return
        # int32 on both sides: sums of different types are ten times slower.
        pairs = self._bytes("predicted", predictions).to(torch.int32)
        pairs.add_(self._bytes("true", labels).to(torch.int32), alpha=_IDS)
        counts = torch.bincount(pairs.flatten(), minlength=_IDS * _IDS).view(_IDS, _IDS)
        self._check_range("predicted", counts.any(0))
        counts[_IGNORED] = 0
        self._check_range("true", counts.any(1))
        self.matrix += counts[: self.num_classes, : self.num_classes]

    def _bytes(self, kind: str, ids: Tensor) -> Tensor:
        """As uint8; raises ``ValueError`` where an id would wrap."""
        if ids.dtype == torch.uint8:
            return ids
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high > _IGNORED:
            raise self._out_of_range(kind, low if low < 0 else high)
        return ids.to(torch.uint8)

    def _check_range(self, kind: str, occur: Tensor) -> None:
        """``occur``: bool [256], which ids there are."""
        wrong = occur[self.num_classes :].nonzero()
        if len(wrong):
            raise self._out_of_range(kind, self.num_classes + int(wrong[-1]))

    def _out_of_range(self, kind: str, wrong: int) -> ValueError:
        return ValueError(f"{kind} class {wrong}: there are only 0 … {self.num_classes - 1}")

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
