"""What enters the memory from a batch: random pixels, and the average embedding of each class in an image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.contrast.banks import Queue, Slots
from pixelcontrast.contrast.hyperparameters import MemoryConfig
from pixelcontrast.contrast.maps import group_means, pixel_rows, region_means, unit
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.contrast.sampling import draw_entries
from pixelcontrast.distributed import Group

Projection = Callable[[Tensor], Tensor]
"""A head that embeds rows: features [n, C] → [n, D]."""

_REGION_PIXELS = 128
"""Pixels of a class in an image whose mean is its region, where pixels are embedded one by one."""


@dataclass(frozen=True)
class Entering:
    """This rank's part of a batch that may enter the memory.

    Args:
        features: [B, C, h, w], detached: what ``project`` embeds, or, without it, embeddings.
        labels: int64 [B, h, w]; pixels with ``ignore_index`` do not enter.
        positions: int64 [B], the images' places in the sample stream; they name the draws.
        image_ids: int64 [B], needed for a memory with a slot for every image.
        near_boundary: bool [B, h, w], where ``boundary_share`` of the queue's entries are drawn; None where
            that share is 0.
    """

    features: Tensor
    labels: Tensor
    positions: Tensor
    image_ids: Tensor | None
    project: Projection | None
    near_boundary: Tensor | None
    config: MemoryConfig
    num_classes: int
    ignore_index: int
    seed: int
    group: Group

    @torch.no_grad()
    def changes(self, memory: Memory, *, step: int) -> Iterator[Callable[[], Tensor]]:
        """Gather the rows of all ranks. Collective.

        Yields:
            Calls that write them into ``memory``; each returns how many rows it refused, int64 [].
        """
        if memory.pixel is not None:
            yield partial(memory.pixel.enqueue, *self._pixels(), step=step)
        if memory.region is not None:
            rows, classes, images = self._regions()
            if isinstance(memory.region, Queue):
                yield partial(memory.region.enqueue, *self._gather(rows, classes), step=step)
            else:
                assert isinstance(memory.region, Slots)
                assert self.image_ids is not None
                entering = self._gather(rows, classes, self.image_ids[images])
                yield partial(memory.region.store, *entering, step=step)

    def _pixels(self) -> list[Tensor]:
        """Rows and labels of random pixels of each class and image of all ranks."""
        entries = draw_entries(
            self.labels,
            self.positions,
            per_image=self.config.pixels_per_image,
            preferred=self.near_boundary,
            preferred_share=self.config.boundary_share,
            num_classes=self.num_classes,
            seed=self.seed,
            ignore_index=self.ignore_index,
        )
        return self._gather(unit(embed(self.features, entries.indices, self.project)), entries.labels)

    def _regions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, classes and images of this rank's regions."""
        if self.project is None:
            return region_means(unit(self.features), self.labels, self.num_classes)
        sample = draw_entries(
            self.labels,
            self.positions,
            per_image=_REGION_PIXELS,
            num_classes=self.num_classes,
            seed=self.seed,
            ignore_index=self.ignore_index,
        )
        rows = unit(embed(self.features, sample.indices, self.project))
        return group_means(rows, sample.images, sample.labels, self.num_classes)

    def _gather(self, *tensors: Tensor) -> list[Tensor]:
        """Each tensor's rows from all ranks, in rank order."""
        return [distributed.all_gather_rows(tensor, self.group) for tensor in tensors]


def embed(features: Tensor, indices: Tensor, project: Projection | None) -> Tensor:
    """Embeddings [n, D], of any length, of the map's pixels at flat indices [n]."""
    rows = pixel_rows(features, indices)
    return rows if project is None else project(rows)
