"""A split of a data set as pairs of image and label files."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from pixelcontrast.datasets.files import ColorLabels, FileError, read_header, read_image, read_label
from pixelcontrast.datasets.labels import IGNORE_INDEX, LabelSpace
from pixelcontrast.datasets.listing import Pair, Split

logger = logging.getLogger(__name__)


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
    """What decides the train ids in addition to the layout's name."""

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

        Images that EXIF's orientation turns and whose labels would fit without the turn, too, are warned of.

        Args:
            seconds: when to stop.

        Returns:
            The number of pairs looked at.

        Raises:
            FileError: as ``read``, as far as headers tell: missing, empty or of another kind, sizes that
                differ.
        """
        content = "colors" if isinstance(self.read_label, ColorLabels) else "ids"
        count, turned = 0, []
        for pair in self._spread(seconds):
            image = read_header(pair.image, "image")
            if pair.label.suffix.lower() == ".png":
                label = read_header(pair.label, content)
                check_sizes(pair, (image.width, image.height), (label.width, label.height))
            count += 1
            # 5 to 8 change height and width: where these differ, the label has been turned, too.
            if image.orientation != 1 and (image.orientation < 5 or image.width == image.height):
                turned.append(pair.image)
        if turned:
            logger.warning(
                "%d of %d images looked at are turned by their EXIF orientation, and their labels are not, "
                "such as %s: look with `pixelcontrast data show` whether the labels fit",
                len(turned),
                count,
                min(turned),
            )
        return count

    def check_classes(
        self, *, split: Split, seconds: float, on_bad_sample: Literal["stop", "skip"] = "stop"
    ) -> None:
        """Look at the labels of pairs spread over the split; warn of classes that are never trained.

        Args:
            split: what the set is used for.
            seconds: when to stop, but not before a pixel of a class was found.
            on_bad_sample: skip leaves out labels that cannot be read.

        Raises:
            ValueError: as ``read``, unless such labels are left out and another can be read; or no label of
                the split has a pixel of any class.
        """
        pixels, count, end = np.zeros(IGNORE_INDEX + 1, np.int64), 0, time.monotonic() + seconds
        faults: list[FileError] = []
        for pair in self._spread(math.inf):
            if time.monotonic() > end and pixels[: self.labels.num_classes].any():
                break
            count += 1
            try:
                encoded = self.labels.encode(self.read_label(pair.label), file=pair.label).numpy()
            except FileError as error:
                if on_bad_sample == "stop":
                    raise
                faults.append(error)
                continue
            pixels += np.bincount(encoded.ravel(), minlength=IGNORE_INDEX + 1)
        purpose = "train" if split == "train" else "validate"
        if faults and len(faults) == count:
            raise ValueError(
                f"none of the {count} labels to {purpose} on can be read; the first: {faults[0]}"
            )
        self._tell_absent_classes(pixels[: self.labels.num_classes], count, split, num_left_out=len(faults))

    def _tell_absent_classes(
        self, pixels: np.ndarray, num_labels: int, split: Split, num_left_out: int = 0
    ) -> None:
        """Warn, or raise, over the pixels of each class in so many labels, without those left out."""
        if not pixels.any():
            purpose = "train" if split == "train" else "validate"
            number = num_labels - num_left_out
            others = f" ({num_left_out} more cannot be read)" if num_left_out else ""
            raise ValueError(
                f"data.root {self.root}: all pixels of all {number} labels to {purpose} on are "
                f"ignored{others}; at least one must have a class"
            )
        absent = tuple(name for name, number in zip(self.labels.names, pixels, strict=True) if number == 0)
        if absent and split == "train" and num_labels == len(self):
            _warn_of_absent(self.root, absent)

    def _spread(self, seconds: float) -> Iterator[Pair]:
        """Every pair once, until the time is over; any first part of them is spread evenly."""
        end = time.monotonic() + seconds
        step = max(1, round(len(self) * 0.618))  # the golden section's
        while math.gcd(step, len(self)) != 1:
            step += 1
        for count in range(len(self)):
            if time.monotonic() > end:
                return
            yield self.pairs[count * step % len(self)]

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


@cache
def _warn_of_absent(root: Path, names: tuple[str, ...]) -> None:
    """Once in a process for each root: a search looks at the data before every trial."""
    logger.warning("%s: no pixel in the training labels, so never learnt: %s", root, ", ".join(names))


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
