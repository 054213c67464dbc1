"""A split of a data set as pairs of image and label, and how a configuration names one."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pixelcontrast.config import Data
from pixelcontrast.datasets import ade20k, camvid, cityscapes, coco_stuff, folder, pascal_context
from pixelcontrast.datasets.labels import LabelSpace
from pixelcontrast.datasets.left_out import left_out
from pixelcontrast.datasets.listing import Listing, Split
from pixelcontrast.datasets.packing.manifest import find_pack
from pixelcontrast.datasets.packing.packed_set import packed_listing, packed_set
from pixelcontrast.datasets.segmentation_set import SegmentationSet
from pixelcontrast.datasets.stream import build_stream
from pixelcontrast.words import count

_HEADERS_S = 5.0
"""How long the look at the headers may take, per split: some 15,000 pairs from a local disk."""
_LABELS_S = 1.0
"""How long the look at what the labels hold may take, per split; longer where none has a pixel of a class."""

logger = logging.getLogger(__name__)

__all__ = ["SegmentationSet", "Split", "build_dataset", "check_data", "list_split", "published_labels"]


def list_split(data: Data, split: Split) -> Listing:
    """What the configured data set has of a split, and what is wrong with its list; no image is read.

    Raises:
        ValueError: a folder or file of the layout is missing, or does not tell what it must; or the pack at
            ``data.root`` is unfinished, damaged or of another data set.
    """
    root = Path(data.root)
    if data.class_order is not None and not data.layout.startswith("pascal-context"):
        raise ValueError(
            f"data.class_order: {data.class_order}, but data.layout is {data.layout}; allowed is to leave it "
            "unset with all layouts but pascal-context-59 and pascal-context-60"
        )
    if (manifest := find_pack(data.root)) is not None:
        return packed_listing(manifest, data, split)
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
    """List a split of the configured data set, packed or not; no image is read.

    Raises:
        ValueError: a folder or file of the layout is missing, or an image has no label; the message names it
            and the layout. Or as ``list_split``.
    """
    if (manifest := find_pack(data.root)) is not None:
        return packed_set(manifest, data, split)
    return _set_of(data, list_split(data, split))


def _set_of(data: Data, found: Listing) -> SegmentationSet:
    """The pairs of a folder's split; raises ``ValueError`` over an image without label."""
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


def check_data(data: Data) -> None:
    """A quick look before any worker starts: splits, names, headers, the classes in the labels.

    What is left out, and classes that are never trained, are warned of. ``check_files`` is the thorough one,
    which decodes every file: this one stops after seconds, which large sets need more of.

    Raises:
        ValueError: as ``build_dataset`` and ``SegmentationSet.read``; an image is in train and in val; or all
            pixels of a split are ignored.
    """
    train, val = _listed_and_built(data, "train"), _listed_and_built(data, "val")
    _check_disjoint(train, val)
    build_stream(train, data, seed=0)
    splits: tuple[tuple[Split, SegmentationSet], ...] = (("train", train), ("val", val))
    for split, dataset in splits:
        on_bad = data.on_bad_sample if split == "train" else "stop"  # validation leaves no image out
        if on_bad == "stop" and "://" not in data.root:  # workers stage a URI, on the machines that need it
            dataset.read(0)
            dataset.check_headers(seconds=_HEADERS_S)
        dataset.check_classes(split=split, seconds=_LABELS_S, on_bad_sample=on_bad)


def _listed_and_built(data: Data, split: Split) -> SegmentationSet:
    """As ``build_dataset``, with a warning of what lies in the folders and is not used."""
    if find_pack(data.root) is not None:
        return build_dataset(data, split)
    found = list_split(data, split)
    dataset = _set_of(data, found)
    for line in left_out(found.found):
        logger.warning("%s: %s", split, line)
    return dataset


def _check_disjoint(train: SegmentationSet, val: SegmentationSet) -> None:
    """Raise ``ValueError`` if a validation image is also trained on, which inflates the mIoU.

    Links to folders are followed, links to files are not: ``check_files`` compares the pixels.
    """
    trained = set(_places(train))
    shared = [index for index, place in enumerate(_places(val)) if place in trained]
    if shared:
        validated = count(len(val), "validation image")
        raise ValueError(
            f"data.root {val.root}: train also holds {len(shared)} of {validated}, the first "
            f"{val.name(shared[0])}: the mIoU would be inflated; allowed is each image in one split: "
            "correct the lists or folders of train and val"
        )


def _places(dataset: SegmentationSet) -> Iterator[tuple[str, str]]:
    """The folder of each image, links resolved, and its name."""
    resolved: dict[Path, str] = {}
    for pair in dataset.pairs:
        folder = pair.image.parent
        if folder not in resolved:
            resolved[folder] = os.path.realpath(folder)
        yield resolved[folder], pair.image.name
