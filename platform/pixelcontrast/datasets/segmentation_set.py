"""A split of a data set as pairs of image and label files."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pixelcontrast.datasets.files import ColorLabels, FileError, read_header, read_image, read_label
from pixelcontrast.datasets.labels import LabelSpace
from pixelcontrast.datasets.listing import Pair


@dataclass(frozen=True, kw_only=True)
class SegmentationSet:
    """A split's images and labels, decoded and checked one by one as they are read."""

    root: Path
    pairs: tuple[Pair, ...]
    """Sorted by the image's path below the root."""
    labels: LabelSpace
    read_label: Callable[[Path], np.ndarray] = read_label
    """Decodes a label file to raw ids, uint8 or uint16 [H, W]."""
    settings: str = ""
    """What decides the train ids beside the layout's name."""

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode a pair.

        Returns:
            The image, uint8 [3, H, W], and its train ids, uint8 [H, W], ``IGNORE_INDEX`` where ignored. An
            image that lies on its side by its EXIF orientation is turned upright: its label must have that
            size.

        Raises:
            FileError: a file that is missing, damaged or of the wrong kind, sizes that differ, or label ids
                that must not occur; the message names the file.
        """
        pair = self.pairs[index]
        image, raw = read_image(pair.image), self.read_label(pair.label)
        check_sizes(pair, (image.shape[2], image.shape[1]), (raw.shape[1], raw.shape[0]))
        return image, self.labels.encode(raw, file=pair.label)

    def name(self, index: int) -> str:
        """The image's path below the root."""
        return self.pairs[index].image.relative_to(self.root).as_posix()

    def where(self, index: int) -> str:
        """Where an image lies, for messages."""
        return str(self.pairs[index].image)

    def check_headers(self, *, seconds: float) -> int:
        """Look at the headers of pairs spread over the split, all of them if time allows.

        Args:
            seconds: when to stop.

        Returns:
            The number of pairs looked at.

        Raises:
            FileError: as ``read``, as far as headers tell: missing, empty or of another kind, sizes that
                differ.
        """
        # Steps of the golden section visit every pair once, and any first part of them is spread evenly.
        step = max(1, round(len(self) * 0.618))
        while math.gcd(step, len(self)) != 1:
            step += 1
        content, end = (
            "colors" if isinstance(self.read_label, ColorLabels) else "ids",
            time.monotonic() + seconds,
        )
        for count in range(len(self)):
            if time.monotonic() > end:
                return count
            pair = self.pairs[count * step % len(self)]
            image = read_header(pair.image, "image")
            if pair.label.suffix.lower() == ".png":
                label = read_header(pair.label, content)
                check_sizes(pair, (image.width, image.height), (label.width, label.height))
        return len(self)

    @property
    def fingerprint(self) -> str:
        """Identifies the samples and classes, wherever the root lies: sha256 of each file's name below it and
        size, and of settings. ``check_files`` hashes the bytes."""
        paths = (path for pair in self.pairs for path in pair)
        files = [
            f"{path.relative_to(self.root).as_posix()} {size}"
            for path, size in zip(paths, self.file_sizes(), strict=True)
        ]
        return hashlib.sha256("\n".join([*files, *filter(None, [self.settings])]).encode()).hexdigest()

    def file_sizes(self) -> Iterator[int]:
        """Bytes of each image's and label's file, in order."""
        return (path.stat().st_size for pair in self.pairs for path in pair)


def check_sizes(pair: Pair, image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raise ``FileError`` if an image and its label differ in (width, height)."""
    if image == label:
        return
    message = f"{pair.image} has {_size(image)} pixels but its label {pair.label} has {_size(label)}"
    header = read_header(pair.image, "image")
    if header.orientation >= 5 and image == label[::-1]:
        raise FileError(
            f"{message}: EXIF orientation {header.orientation} turns the image, as viewers show it, and the "
            "label was made for the image as it is stored",
            remedy="remove the orientation from the image (exiftool -Orientation= FILE), or turn the label",
        )
    raise FileError(
        message, remedy="give image and label the same size; masks are scaled by nearest neighbour"
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
