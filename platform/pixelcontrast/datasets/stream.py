"""The order in which a run sees its images, for any number of workers and from any step.

The stream is one permutation of the training images per (seed, epoch), laid end to end; or, with
``data.balanced_sampling``, images drawn by their classes, each position on its own. Step s takes the
positions s·B … (s+1)·B − 1, B being the global batch size, and rank r of W a contiguous slice of them, so the
ranks' slices laid end to end are the batch in stream order.
"""

import shlex
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pixelcontrast.config import Data
from pixelcontrast.datasets.packing.packed_set import PackedSet
from pixelcontrast.datasets.segmentation_set import SegmentationSet
from pixelcontrast.draws import hashed, permutation, uniform

_STREAM = int.from_bytes(b"order")
"""Sets these draws apart from all others that are keyed on (seed, number)."""
_BALANCE, _REPLACEMENT = int.from_bytes(b"classes"), int.from_bytes(b"replace")
_TEMPERATURE = 0.01
"""T of DAFormer's rare class sampling, as it was published for Cityscapes."""


@dataclass(frozen=True)
class SampleStream:
    """The endless sequence of image indices of a run."""

    num_images: int
    seed: int

    def sample_at(self, position: int) -> int:
        """The image at a position, counted from 0 at the run's first step."""
        epoch, place = divmod(position, self.num_images)
        return int(_epoch_order(self.num_images, self.seed, epoch)[place])


@dataclass(frozen=True)
class BalancedStream:
    """Images drawn with replacement: first a class, the rarer the likelier, then one of its images.

    Source: rare class sampling of DAFormer (Hoyer, Dai and Van Gool, CVPR 2022): P(c) is the softmax of
    (1 − f_c) / T, with f_c the class's share of all labelled pixels. Unlike there, the crop lies anywhere in
    the image, and a single pixel makes an image one of the class.
    """

    thresholds: tuple[float, ...]
    """Cumulative P over the classes that occur."""
    images: tuple[np.ndarray, ...]
    """The indices of each one's images, ascending."""
    seed: int

    @classmethod
    def of(cls, class_pixels: np.ndarray, seed: int) -> "BalancedStream":
        """From the pixels of each class in each image, [num_images, num_classes]."""
        totals = class_pixels.sum(axis=0)
        occurring = np.flatnonzero(totals)
        weights = np.exp(-totals[occurring] / totals.sum() / _TEMPERATURE)
        thresholds = np.cumsum(weights / weights.sum())
        images = tuple(np.flatnonzero(class_pixels[:, train_id]).astype(np.int32) for train_id in occurring)
        return cls(tuple(thresholds.tolist()), images, seed)

    def sample_at(self, position: int) -> int:
        """The image at a position, counted from 0 at the run's first step."""
        draws = uniform(self.seed, _BALANCE, position, torch.arange(2)).tolist()
        # The last threshold is 1 but for rounding.
        place = min(bisect_right(self.thresholds, draws[0]), len(self.images) - 1)
        images = self.images[place]
        return int(images[int(draws[1] * len(images))])


Stream = SampleStream | BalancedStream
"""Which image is at each position."""


def build_stream(dataset: SegmentationSet, data: Data, seed: int) -> Stream:
    """The stream that ``data`` asks for.

    Raises:
        ValueError: balanced sampling of a data set that is not packed, or has no labelled pixel.
    """
    if not data.balanced_sampling:
        return SampleStream(len(dataset), seed)
    if not isinstance(dataset, PackedSet):
        pack = f"pixelcontrast data pack {shlex.quote(data.root)} DEST --layout {data.layout}"
        raise ValueError(
            f"data.balanced_sampling: {data.root} is not packed, so the classes of its images are not known; "
            f"pack it ({pack}) and train from that, or leave balanced sampling out"
        )
    pixels = dataset.class_pixels()
    if not pixels.any():
        raise ValueError(f"{data.root}: no pixel of the training images is labelled")
    return BalancedStream.of(pixels, seed)


def replacement(num_images: int, *, seed: int, position: int, attempt: int) -> int:
    """The image that takes the place of one that cannot be read; ``attempt`` counts from 0."""
    return int(hashed(seed, _REPLACEMENT, position, torch.tensor(attempt))) % num_images


@lru_cache(maxsize=4)
def _epoch_order(num_images: int, seed: int, epoch: int) -> Tensor:
    """An epoch's permutation. A batch may lie on two epochs, and loader processes run ahead of each other."""
    return permutation(num_images, seed, _STREAM, epoch)


def batch_positions(step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """The stream positions that a rank takes in a step; ``world_size`` need not divide ``batch_size``."""
    first = step * batch_size
    return range(first + rank * batch_size // world_size, first + (rank + 1) * batch_size // world_size)


@dataclass(frozen=True, kw_only=True)
class StepSampler:
    """A rank's positions of every step from ``start_step`` up to, without, ``steps``."""

    start_step: int
    steps: int
    batch_size: int
    rank: int
    world_size: int

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.steps):
            share = {"rank": self.rank, "world_size": self.world_size}
            yield list(batch_positions(step, batch_size=self.batch_size, **share))
