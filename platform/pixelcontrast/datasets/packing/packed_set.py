"""A split that is read from a pack."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import ColorLabels, read_label
from pixelcontrast.datasets.listing import Listing, Pair, Pairing, Split
from pixelcontrast.datasets.packing.manifest import Encoding, Entry, Manifest, Shard, check_fits
from pixelcontrast.datasets.packing.shards import read_sample
from pixelcontrast.datasets.segmentation_set import SegmentationSet


@dataclass(frozen=True, kw_only=True)
class PackedSet(SegmentationSet):
    """A split's samples in a pack; names, order, classes and fingerprint are those of the files packed.

    A pack behind a URI can be listed, but read only once it is staged (``packing.staging``).
    """

    shards: tuple[Shard, ...]
    encoding: Encoding

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """A sample, as ``SegmentationSet.read``; with the encoding raw as views of the mapped file.

        Raises:
            FileError: the shard is not what the manifest says; names the shard and the sample.
        """
        shard, place = self._locate(index)
        return read_sample(self.root / shard.file, place, shard.samples[place], self.encoding)

    def where(self, index: int) -> str:
        """The shard and the image's name."""
        return f"{self.root / self._locate(index)[0].file}: {self.name(index)}"

    def check_headers(self, *, seconds: float) -> int:  # noqa: ARG002
        """Nothing is left to look at: the sizes of all shards are compared when a pack is opened."""
        return len(self)

    def check_classes(
        self,
        *,
        split: Split,
        seconds: float,  # noqa: ARG002
        on_bad_sample: Literal["stop", "skip"] = "stop",  # noqa: ARG002
    ) -> None:
        """The manifest has the pixels of every label's classes."""
        self._tell_absent_classes(self.class_pixels().sum(axis=0), len(self), split)

    def class_pixels(self) -> np.ndarray:
        """Pixels of each class in each image, int64 [num_images, num_classes]; no image is read."""
        counts = np.zeros((len(self), self.labels.num_classes), np.int64)
        for row, entry in zip(counts, _entries(self.shards), strict=True):
            row[list(entry.pixels)] = list(entry.pixels.values())
        return counts

    def file_sizes(self) -> Iterator[int]:
        """Those of the files that were packed."""
        return (size for entry in _entries(self.shards) for size in (entry.image_size, entry.label_size))

    def _locate(self, index: int) -> tuple[Shard, int]:
        """A sample's shard, and its place in it."""
        number = bisect_right(self._starts, index) - 1
        return self.shards[number], index - self._starts[number]

    @cached_property
    def _starts(self) -> list[int]:
        """The index of each shard's first sample."""
        return list(accumulate((len(shard.samples) for shard in self.shards[:-1]), initial=0))


def packed_listing(manifest: Manifest, data: Data, split: Split) -> Listing:
    """A pack's split, as ``list_split`` gives it.

    Raises:
        ValueError: the pack has no such split, or was made from another data set.
    """
    check_fits(manifest, data)
    if split not in manifest.splits:
        raise ValueError(f"{data.root}: the pack has no {split} images; it has {', '.join(manifest.splits)}")
    plan, root = manifest.plan, Path(data.root)
    entries = _entries(manifest.splits[split])
    return Listing(
        found=Pairing(tuple(Pair(root / entry.image, root / entry.label) for entry in entries), ()),
        labels=plan.label_space(),
        layout=f"a pack of {plan.layout}",
        read_label=ColorLabels(plan.label_colors) if plan.label_colors else read_label,
        settings=plan.settings,
    )


def packed_set(manifest: Manifest, data: Data, split: Split) -> PackedSet:
    """A pack's split; raises ``ValueError`` as ``packed_listing``."""
    found = packed_listing(manifest, data, split)
    return PackedSet(
        root=Path(data.root),
        pairs=found.found.pairs,
        labels=found.labels,
        read_label=found.read_label,
        settings=found.settings,
        shards=manifest.splits[split],
        encoding=manifest.plan.encoding,
    )


def _entries(shards: tuple[Shard, ...]) -> list[Entry]:
    return [entry for shard in shards for entry in shard.samples]
