"""Which images train, validate and test where a person has not said: by folders' names, or drawn. For ``data
init``."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pixelcontrast.datasets.listing import escapes
from pixelcontrast.words import count

TRAIN, VAL, TEST = ("train", "training"), ("val", "validation", "valid"), ("test", "testing")
"""Usual names of the splits' folders, in small letters."""
_VAL_SHARE = 0.1
_VOC_LISTS = "ImageSets/Segmentation/{split}.txt"
"""Where PASCAL VOC and exports in its form have the lists."""


def find_lists(root: Path) -> str | None:
    """The lists of the splits that are there, as a pattern with {split}; None: there are none.

    Raises:
        ValueError: only some of them are there.
    """
    there = [name for name in ("train.txt", "val.txt", "test.txt") if (root / name).is_file()]
    if there and there[:2] != ["train.txt", "val.txt"]:
        raise ValueError(
            f"{root}: of the lists only {' and '.join(there)} is there; allowed are both train.txt and "
            "val.txt, or none"
        )
    if there:
        return "{split}.txt"
    voc = all((root / _VOC_LISTS.format(split=split)).is_file() for split in ("train", "val"))
    return _VOC_LISTS if voc else None


def lacks_val(root: Path) -> str | None:
    """What is wrong with a folder that has the splits' folders but none for validation; None: nothing."""
    there = {entry.name.lower(): entry.name for entry in sorted(root.iterdir()) if entry.is_dir()}
    train, val, test = (next((there[n] for n in names if n in there), None) for names in (TRAIN, VAL, TEST))
    if train is None or test is None or val is not None:
        return None
    return (
        f"{root}: {train} and {test} are there, and no val, by which a training chooses its best network; "
        f"move some images of {train} and their masks to a folder val, likewise arranged, or have one in ten "
        f"drawn: --images {train}/IMAGES --masks {train}/MASKS, with the names of your folders"
    )


def split_images(root: Path, keys: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Deal images to the splits; what lies in a folder called test is never trained on.

    Args:
        root: the data set's folder, for the error.
        keys: of the images with a mask: paths without ending, sorted.

    Returns:
        Split → keys, without empty ones; and what a person should know, one sentence each.

    Raises:
        ValueError: nothing is left to train on, or to validate with, or a name cannot stand in a list.
    """
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for key in keys:
        if escapes(key) or "\\" in key or key != key.strip() or len(key.splitlines()) > 1:
            raise ValueError(
                f"{root}: the name {key!r} cannot stand in a list of images, as it begins or ends with a "
                "space, or has a drive's colon, a \\ or a line break in it; rename the image and its mask"
            )
    for key in keys:
        folders = {part.lower() for part in key.split("/")[:-1]}
        splits["test" if folders & {*TEST} else "val" if folders & {*VAL} else "train"].append(key)
    train, val, test = splits.values()
    if len(train) < (1 if val else 2):
        raise ValueError(
            f"{root}: of the images with a mask {len(val)} are in folders called val, {len(test)} in test, "
            f"and {len(train)} elsewhere; at least two are needed, to train and to validate. Add images, or "
            "say which to take: --images photos/train --masks gt/train"
        )
    notes = []
    if not val:
        train, val = _drawn(train)
        found = "No images for validation were found" if test else "No splits were found"
        notes.append(
            f"{found}: train.txt has {count(len(train), 'image')} and val.txt {len(val)}. Images that "
            "resemble each other, such as the frames of one video, belong in the same list: edit them."
        )
    if test:
        held_back = f"{count(len(test), 'image')} in folders called test"
        notes.append(f"test.txt has the {held_back}, which no training sees.")
    return {"train": train, "val": val} | ({"test": test} if test else {}), notes


def _drawn(keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images to train and to validate, by a hash of each name."""
    digests = {key: hashlib.sha256(key.encode()).digest() for key in keys}
    ordered = sorted(keys, key=digests.__getitem__)
    border = bytes([round(256 * _VAL_SHARE)])
    val = {key for key in ordered[:-1] if digests[key] < border} or {ordered[0]}
    return [key for key in keys if key not in val], sorted(val)
