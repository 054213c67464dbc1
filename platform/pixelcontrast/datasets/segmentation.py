"""A split of a data set as pairs of image and label, and how a configuration names one."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pixelcontrast.config import Data
from pixelcontrast.datasets import ade20k, camvid, cityscapes, coco_stuff, folder, pascal_context
from pixelcontrast.datasets.files import ColorLabels, FileError, read_header, read_image, read_label
from pixelcontrast.datasets.labels import LabelSpace
from pixelcontrast.datasets.listing import Listing, Pair, Split

_HEADERS_S = 1.0
"""How long the quick look may take, per split: some 3,000 pairs from a local disk."""

__all__ = ["SegmentationSet", "Split", "build_dataset", "check_data", "list_split", "published_labels"]


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
        size, and of settings. ``datasets.check`` hashes the bytes."""
        files = [
            f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}"
            for pair in self.pairs
            for path in pair
        ]
        return hashlib.sha256("\n".join([*files, *filter(None, [self.settings])]).encode()).hexdigest()


def list_split(data: Data, split: Split) -> Listing:
    """What the configured data set has of a split, and what is wrong with its list; no image is read.

    Raises:
        ValueError: a folder or file of the layout is missing, or does not tell what it must.
    """
    root = Path(data.root)
    if data.class_order is not None and not data.layout.startswith("pascal-context"):
        raise ValueError(
            f"data.class_order: {data.class_order}, but data.layout is {data.layout}; allowed is to leave it "
            "unset with all layouts but pascal-context-59 and pascal-context-60"
        )
    match data.layout:
        case "cityscapes":
            return cityscapes.listing(root, split)
        case "camvid":
            return camvid.listing(root, split)
        case "camvid-full":
            return camvid.full_listing(root, split)
        case "pascal-context-59":
            return pascal_context.listing(root, split, order=data.class_order, background=False)
        case "pascal-context-60":
            return pascal_context.listing(root, split, order=data.class_order, background=True)
        case "coco-stuff-10k":
            return coco_stuff.listing_10k(root, split)
        case "coco-stuff-164k":
            return coco_stuff.listing_164k(root, split)
        case "ade20k":
            return ade20k.listing(root, split)
        case "folder":
            return folder.listing(root, split)


def published_labels(data: Data) -> LabelSpace | None:
    """The classes of a layout, without looking at its files; None of your own folder, which alone has them.

    PASCAL-Context's are those of its PNGs, in alphabetical order unless ``data.class_order`` says otherwise.
    """
    match data.layout:
        case "cityscapes":
            return cityscapes.LABELS
        case "camvid" | "camvid-full":
            return camvid.LABELS
        case "pascal-context-59" | "pascal-context-60":
            order = data.class_order or "alphabetical"
            background = data.layout == "pascal-context-60"
            return pascal_context.label_space(order, background=background, num_raw=60)
        case "coco-stuff-10k":
            return coco_stuff.LABELS_10K
        case "coco-stuff-164k":
            return coco_stuff.LABELS_164K
        case "ade20k":
            return ade20k.LABELS
        case "folder":
            return None


def build_dataset(data: Data, split: Split) -> SegmentationSet:
    """List a split of the configured data set; no image is read.

    Raises:
        ValueError: a folder or file of the layout is missing, or an image has no label; the message names it
            and the layout.
    """
    found = list_split(data, split)
    if found.found.faults:
        first, more = found.found.faults[0], len(found.found.faults) - 1
        others = f" ({more} more such files)" if more else ""
        raise ValueError(f"{first.file}: {first.problem}{others}; expected is {found.layout}")
    return SegmentationSet(
        root=Path(data.root),
        pairs=found.found.pairs,
        labels=found.labels,
        read_label=found.read_label,
        settings=found.settings,
    )


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


def check_data(data: Data) -> None:
    """A quick look before any worker starts: splits, names, the headers of many files, the first pair's
    pixels.

    ``check_files`` is the thorough one, which decodes every file.

    Raises:
        ValueError: as ``build_dataset`` and ``SegmentationSet.read``.
    """
    for split in ("train", "val"):
        dataset = build_dataset(data, split)
        dataset.read(0)
        dataset.check_headers(seconds=_HEADERS_S)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
