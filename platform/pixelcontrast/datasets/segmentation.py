"""A split of a data set as pairs of image and label, and how a configuration names one."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from pixelcontrast.config import Data
from pixelcontrast.datasets import camvid, cityscapes
from pixelcontrast.datasets.files import Pair, read_image, read_label
from pixelcontrast.datasets.labels import LabelSpace

Split = Literal["train", "val"]


@dataclass(frozen=True, kw_only=True)
class SegmentationSet:
    """A split's images and labels, decoded and checked one by one as they are read."""

    root: Path
    pairs: tuple[Pair, ...]
    """Sorted by the image's path below the root."""
    labels: LabelSpace

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode a pair.

        Returns:
            The image, uint8 [3, H, W], and its train ids, uint8 [H, W], ``IGNORE_INDEX`` where ignored.

        Raises:
            ValueError: a file that is missing, damaged or of the wrong kind, sizes that differ, or label ids
                that must not occur; the message names the file.
        """
        pair = self.pairs[index]
        image, raw = read_image(pair.image), read_label(pair.label)
        if image.shape[1:] != raw.shape:
            sizes = _size(image.shape[1:]), _size(raw.shape)
            raise ValueError(f"{pair.image} has {sizes[0]} pixels but its label {pair.label} has {sizes[1]}")
        return image, self.labels.encode(raw, file=pair.label)

    def name(self, index: int) -> str:
        """The image's path below the root."""
        return self.pairs[index].image.relative_to(self.root).as_posix()

    @property
    def fingerprint(self) -> str:
        """Identifies the list of samples, wherever the root lies: sha256 of the names below it."""
        names = "\n".join(path.relative_to(self.root).as_posix() for pair in self.pairs for path in pair)
        return hashlib.sha256(names.encode()).hexdigest()


def build_dataset(data: Data, split: Split) -> SegmentationSet:
    """List a split of the configured data set; no image is read.

    Raises:
        ValueError: a folder or file of the layout is missing; the message names it and the layout.
    """
    root = Path(data.root).expanduser()
    match data.layout:
        case "cityscapes":
            return SegmentationSet(root=root, pairs=cityscapes.pairs(root, split), labels=cityscapes.LABELS)
        case "camvid":
            return SegmentationSet(root=root, pairs=camvid.pairs(root, split), labels=camvid.LABELS)


def check_data(data: Data) -> None:
    """A quick look before any worker starts: both splits are complete, and the first pair of each decodes.

    Raises:
        ValueError: as ``build_dataset`` and ``SegmentationSet.read``.
    """
    for split in ("train", "val"):
        build_dataset(data, split).read(0)


def _size(shape: tuple[int, ...]) -> str:
    """Width × height of [H, W]."""
    return f"{shape[1]}×{shape[0]}"
