"""The order in which a run sees its images, for any number of workers and from any step.

The stream is one permutation of the training images per (seed, epoch), laid end to end. Step s takes the
positions s·B … (s+1)·B − 1, B being the global batch size, and rank r of W a contiguous slice of them, so the
ranks' slices laid end to end are the batch in stream order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from pixelcontrast.draws import permutation

_STREAM = int.from_bytes(b"order")
"""Sets these draws apart from all others that are keyed on (seed, number)."""


@dataclass(frozen=True)
class SampleStream:
    """The endless sequence of image indices of a run."""

    num_images: int
    seed: int

    def sample_at(self, position: int) -> int:
        """The image at a position, counted from 0 at the run's first step."""
        epoch, place = divmod(position, self.num_images)
        return int(_epoch_order(self.num_images, self.seed, epoch)[place])


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
