"""What enters the memory from a batch: random pixels, and the average embedding of each class in an image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.contrast.banks import Bank, Slots
from pixelcontrast.contrast.hyperparameters import MemoryConfig
from pixelcontrast.contrast.maps import are_finite, boundaries, pixel_rows, region_means, run_means, unit
from pixelcontrast.contrast.memory import Memory
from pixelcontrast.contrast.sampling import PREFERRED, Anchors, Preferred, Table, choose_entries, pixel_keys
from pixelcontrast.distributed import Group

Projection = Callable[[Tensor], Tensor]
"""A head that embeds rows: features [n, C] → [n, D]."""
Change = Callable[[], Tensor]
"""Writes into the memory; returns how many rows it refused, int64 []."""

_REGION_PIXELS = 128
"""Pixels of a class in an image whose mean is its region, where pixels are embedded one by one."""


class Drawn(NamedTuple):
    """The pixels of a batch that may enter the memory, by image and class; None where no bank takes them."""

    entries: Table | None
    """Random ones, which enter the queue."""
    regions: Table | None
    """Those whose mean is a region; of embedded maps one, as all of the region's are averaged."""

    def counts(self) -> list[Tensor]:
        """int64 []: how many pixels enter, how many are embedded for regions, and how many regions enter, as
        far as there are banks for them.
        """
        counts = [] if self.entries is None else [self.entries.taken.sum()]
        if self.regions is not None:
            counts += [self.regions.taken.sum(), self.regions.taken[:, 0].sum()]
        return counts


NOTHING = Drawn(None, None)


class BatchDraw(NamedTuple):
    """What was drawn of a batch."""

    anchors: Anchors
    entering: Drawn
    classes: Tensor
    """int64 [B, h, w]; num_classes where a pixel takes no part."""
    counts: list[list[int]]
    """``entering.counts`` on every rank."""


def draw_entering(
    classes: Tensor,
    keys: Tensor,
    memory: Memory,
    config: MemoryConfig,
    *,
    num_classes: int,
    by_pixel: bool,
    preferred: Callable[[float], Preferred],
) -> Drawn:
    """Draw what may enter the memory.

    Args:
        classes: int64 [B, h, w]; pixels of num_classes do not enter.
        keys: int64 [B · h · w], by what the pixels are drawn.
        by_pixel: whether pixels are embedded one by one.
        preferred: gives the pixels of which a share is drawn.
    """
    entries = config.pixels_per_image if memory.pixel is not None else 0
    regions = (_REGION_PIXELS if by_pixel else 1) if memory.region is not None else 0
    draw = partial(choose_entries, classes.flatten(), keys, num_images=len(classes), num_classes=num_classes)
    if entries and config.boundary_share:
        first = draw(per_image=entries, preferred=preferred(config.boundary_share))
        rest = draw(per_image=regions) if regions else None
        return Drawn(first, rest)
    table = draw(per_image=max(entries, regions))
    return Drawn(table.first(entries) if entries else None, table.first(regions) if regions else None)


def at_boundaries(classes: Tensor, positions: Tensor, num_classes: int, seed: int, share: float) -> Preferred:
    """The pixels of classes [B, h, w] next to another class, and their keys; num_classes is none."""
    keys = pixel_keys(classes.shape, positions, seed, PREFERRED)[0]
    return Preferred(boundaries(classes, num_classes).flatten(), keys, share)


@dataclass(frozen=True)
class Entering:
    """This rank's part of a batch that may enter the memory.

    Args:
        features: [B, C, h, w], detached: what ``project`` embeds, or, without it, embeddings.
        classes: int64 [B, h, w]; pixels of num_classes do not enter.
        image_ids: int64 [B], needed for a memory with a slot for every image.
    """

    features: Tensor
    classes: Tensor
    image_ids: Tensor | None
    project: Projection | None
    num_classes: int
    group: Group
    drawn: Drawn

    @torch.no_grad()
    def changes(self, memory: Memory, *, counts: list[list[int]], step: Tensor) -> Iterator[Change]:
        """Bring the rows to the ranks that store them. Collective.

        Args:
            counts: what ``drawn.counts`` are on every rank.

        Yields:
            Calls that write them into ``memory``; each returns how many rows it refused, int64 [].
        """
        parts = list(self._parts(memory, [list(of_ranks) for of_ranks in zip(*counts, strict=True)]))
        if memory.is_sharded:
            yield from self._exchanged(parts, step)
            return
        for part in parts:
            columns = distributed.all_gather_tables([part.rows, *part.names], self.group, counts=part.counts)
            yield partial(part.bank.write, *columns, step=step)

    def _parts(self, memory: Memory, counts: list[list[int]]) -> Iterator["_Part"]:
        """What of this rank enters each bank."""
        rank = distributed.rank(self.group)
        if memory.pixel is not None:
            of_pixels, *counts = counts
            rows, labels = self._pixels(of_pixels[rank])
            yield _Part(memory.pixel, rows, [labels], of_pixels)
        if memory.region is not None:
            assert self.drawn.regions is not None
            sampled, regions, *_ = counts
            groups = torch.nonzero_static(self.drawn.regions.taken[:, 0], size=regions[rank]).squeeze(1)
            names = [groups % self.num_classes]
            if isinstance(memory.region, Slots):
                assert self.image_ids is not None
                names.append(self.image_ids[groups.div(self.num_classes, rounding_mode="floor")])
            yield _Part(memory.region, self._region_rows(sampled[rank])[groups], names, regions)

    def _exchanged(self, parts: list["_Part"], step: Tensor) -> Iterator[Change]:
        """Every rank learns of all rows where they go, and gets those that it stores. Waits once."""
        rank, ranks = distributed.rank(self.group), distributed.world_size(self.group)
        placed = []
        for part in parts:
            columns = [are_finite(part.rows), *part.names]
            finite, labels, *images = distributed.all_gather_tables(columns, self.group, counts=part.counts)
            placed.append(part.bank.place(labels, finite, *images))
        owners = [places.owners(ranks) for places in placed]
        seen = distributed.on_host(torch.cat(owners)).split([len(of_rows) for of_rows in owners])
        for part, places, of_rows, on_host in zip(parts, placed, owners, seen, strict=True):
            of_ranks = on_host.split(part.counts)
            sent = torch.bincount(of_ranks[rank], minlength=ranks)[:ranks].tolist()
            received = [int((of_rank == rank).sum()) for of_rank in of_ranks]
            order = torch.argsort(of_rows.split(part.counts)[rank], stable=True)[: sum(sent)]
            rows = part.rows[order].to(part.bank.rows.dtype)
            own = distributed.exchange_rows(rows, sent, received, self.group)
            numbers = torch.nonzero_static(of_rows == rank, size=len(own)).squeeze(1)
            yield partial(part.bank.write_own, places, numbers, own, step=step)

    def _pixels(self, count: int) -> list[Tensor]:
        """Rows and labels of random pixels of each class and image."""
        assert self.drawn.entries is not None
        groups, indices = self.drawn.entries.chosen(count)
        return [unit(embed(self.features, indices, self.project)), groups % self.num_classes]

    def _region_rows(self, sampled: int) -> Tensor:
        """[B · num_classes, D]"""
        if self.project is None:
            return region_means(unit(self.features), self.classes, self.num_classes)
        assert self.drawn.regions is not None
        _, indices = self.drawn.regions.chosen(sampled)
        return run_means(
            unit(embed(self.features, indices, self.project)), self.drawn.regions.taken.sum(dim=1)
        )


class _Part(NamedTuple):
    """What of this rank's batch may enter a bank."""

    bank: Bank
    rows: Tensor
    """[n, D]"""
    names: list[Tensor]
    """int64 [n] each: labels and, for a bank with a slot for every image, images."""
    counts: list[int]
    """n of every rank."""


def embed(features: Tensor, indices: Tensor, project: Projection | None) -> Tensor:
    """Embeddings [n, D], of any length, of the map's pixels at flat indices [n]."""
    rows = pixel_rows(features, indices)
    return rows if project is None else project(rows)
