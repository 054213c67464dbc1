"""Boundary IoU: how well the outlines of the classes agree."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


@dataclass
class BoundaryIoU:
    """Boundary IoU (Cheng et al., CVPR 2021), summed over a data set class by class.

    A mask's boundary is what ``d`` erosions by 3×3 take away from it, with nothing beyond the image; ``d`` is
    ``ratio`` times the image's diagonal, rounded, at least 1. That is the official definition
    (bowenc0221/boundary-iou-api), which knows masks of objects only. For classes, each class's mask is taken
    in turn, intersections and unions are summed over all images, and ignored pixels are taken out of
    prediction and truth first, so that they end a mask as the image's border does.

    Args:
        num_classes: K.
        ratio: 0.02 for COCO and LVIS; 0.005 in the official Cityscapes tools.

    Raises:
        ValueError: a ratio that is not above 0 and below 1.
    """

    num_classes: int
    ratio: float = 0.02
    counts: Tensor = field(init=False)
    """int64 [2, K]: intersections and unions in pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(
                f"boundary ratio {self.ratio}: allowed is a part of the diagonal above 0, below 1"
            )
        self.counts = torch.zeros(2, self.num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, label: Tensor, *, ignore_index: int = 255) -> None:
        """Count one image's pixels.

        Args:
            prediction: integers [H, W], 0 … K−1.
            label: likewise, or ``ignore_index``, on the CPU as well.
        """
        ignored = label == ignore_index
        truth, guess = (
            map_.to(torch.int32).masked_fill(ignored, self.num_classes).cpu().numpy()
            for map_ in (label, prediction)
        )
        distance = boundary_distance(*truth.shape, ratio=self.ratio)
        of_truth, of_guess = class_boundaries(truth, distance), class_boundaries(guess, distance)
        both = self._count(truth[of_truth & of_guess & (truth == guess)])
        either = self._count(truth[of_truth]) + self._count(guess[of_guess]) - both
        self.counts += torch.from_numpy(np.stack([both, either]))

    def _count(self, classes: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=self.num_classes + 1)[: self.num_classes]

    def iou(self) -> tuple[float, ...]:
        """Per class; nan where it has no boundary in truth and prediction."""
        both, either = self.counts.to(torch.float64)
        return tuple((both / either).tolist())


def boundary_distance(height: int, width: int, *, ratio: float) -> int:
    """d: how many pixels wide the boundaries in an image are."""
    return max(1, round(ratio * float(np.hypot(height, width))))


def class_boundaries(classes: NDArray[np.int32], distance: int) -> NDArray[np.bool_]:
    """Which pixels [H, W] are on the boundary of their own class's mask.

    A pixel survives d erosions by 3×3 if the (2d+1)² square around it holds its class alone and lies in the
    image; the square's least and greatest number tell that for all classes at once.
    """
    size = 2 * distance + 1
    least, greatest = (
        filter_(classes, size, mode="constant", cval=-1)  # beyond the image is no class
        for filter_ in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return least != greatest
