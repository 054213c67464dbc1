"""Which files belong to a split: found in folders, named by lists, paired; no file but the lists is
opened."""

import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from pixelcontrast.datasets.files import IMAGE_ENDINGS, FileError, read_label
from pixelcontrast.datasets.labels import LabelSpace
from pixelcontrast.storage import RENAME, is_utf8, not_utf8

Split = Literal["train", "val", "test"]
"""A run trains on train and evaluates on val; few layouts have labels for test."""

SEE_TREES = "compare it with the layout's tree in experiments/README.md, or name another layout or folder"
"""The remedy where a folder of a layout is missing or empty."""
_WRITE_LIST = "write it, with one image name per line"


class Pair(NamedTuple):
    """An image and its label map."""

    image: Path
    label: Path


class Fault(NamedTuple):
    """Something that keeps a split from being used."""

    file: Path
    problem: str
    remedy: str


class Pairing(NamedTuple):
    """Images and labels that belong together, and those that have no partner."""

    pairs: tuple[Pair, ...]
    """Sorted by the image's path."""
    faults: tuple[Fault, ...]
    """Images without label, and listed names without image."""
    unused: tuple[Path, ...] = ()
    """Labels without image."""
    listable: tuple[frozenset[Path], frozenset[Path]] = (frozenset(), frozenset())
    """Images and labels that the split's list may name; empty where folders or a published list tell."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a data set's folder holds of a split."""

    found: Pairing
    labels: LabelSpace
    layout: str
    """What is expected, in words, for errors."""
    read_label: Callable[[Path], np.ndarray] = read_label
    """Decodes a label file to raw ids, uint8 or uint16 [H, W]."""
    settings: str = ""
    """What decides the train ids, besides the layout's name: belongs to the data's fingerprint."""


def list_files(folder: Path, endings: Sequence[str], *, expected: str) -> dict[str, Path]:
    """The visible files of a folder and those below it, by key.

    A key is the path below ``folder`` without its ending, in Unicode's composed form (macOS writes file names
    decomposed, lists are not). Names that begin with a dot are left out: ``._x.png`` is macOS's, no image.

    Args:
        folder: where to look; links to folders are followed.
        endings: what names must end with, in capitals too; the first that fits is cut off.
        expected: the layout in words, for the errors.

    Raises:
        ValueError: no such folder, two files with the same key, or a name that is not UTF-8.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; expected is {expected}", remedy=SEE_TREES)
    files: dict[str, Path] = {}
    for name in names_below(str(folder)):
        ending = next((ending for ending in endings if name.lower().endswith(ending.lower())), None)
        if ending is None:
            continue
        if ending:  # else a pattern tells which files are taken
            check_name(folder, name)
        key, path = normalized(name[: len(name) - len(ending)]), folder / name
        if key in files:
            raise same_name(path, files[key])
        files[key] = path
    return files


def check_name(folder: Path, name: str) -> None:
    """Raise ``FileError`` if a path below a folder is not UTF-8, which fits in no list and no result."""
    if not is_utf8(name):
        raise FileError(f"{folder}: {not_utf8(os.fsencode(name))}", remedy=RENAME)


def same_name(path: Path, other: Path) -> FileError:
    """The error for two files with the same key."""
    problem = f"{path}: the same name as {other}; allowed is one file of a name"
    return FileError(problem, remedy="rename or remove one of them")


def normalized(name: str) -> str:
    """A name as keys have it: composed Unicode."""
    return unicodedata.normalize("NFC", name)


def pair_folders(
    images: Path,
    labels: Path,
    *,
    expected: str,
    image_endings: Sequence[str] = IMAGE_ENDINGS,
    label_ending: str = ".png",
) -> Pairing:
    """Pair every image below a folder with the label of the same key below another.

    Raises:
        ValueError: a folder is missing or has no images, or two files have the same key; see ``list_files``.
    """
    return pair_all(
        list_files(images, image_endings, expected=expected),
        list_files(labels, (label_ending,), expected=expected),
        folder=images,
        label_of=lambda key: labels / f"{key}{label_ending}",
        expected=expected,
    )


def pair_all(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    *,
    folder: Path,
    label_of: Callable[[str], Path],
    expected: str,
) -> Pairing:
    """Pair every image with the label of the same key.

    Args:
        images: key → file, of a whole split.
        labels: likewise.
        folder: where the images are, for the error.
        label_of: the label file that a key should have, for the errors.
        expected: the layout in words, for the error.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise FileError(f"{folder}: no images found in this folder; expected is {expected}", remedy=SEE_TREES)
    found = _paired(images.items(), labels, label_of)
    return found._replace(unused=tuple(sorted(labels[key] for key in labels.keys() - images.keys())))


def pair_listed(
    names: Sequence[str],
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    *,
    source: Path,
    label_of: Callable[[str], Path],
) -> Pairing:
    """Pair the images that a list names with the labels of the same key.

    Args:
        names: keys.
        images: key → file, of more than this split.
        labels: likewise.
        source: the list's file, for the errors.
        label_of: the label file that a key should have, for the errors.

    Raises:
        ValueError: the list is empty.
    """
    if not names:
        raise FileError(f"{source}: an empty list", remedy=_WRITE_LIST)
    keys = [normalized(name) for name in names]
    found = _paired(((key, images[key]) for key in keys if key in images), labels, label_of)
    absent = tuple(
        Fault(source, f"names {key}, but there is no such image", "remove the name, or copy the image there")
        for key in keys
        if key not in images
    )
    return found._replace(faults=absent + found.faults)


def read_list(path: Path) -> tuple[str, ...]:
    """The names in a text file, one per line; a byte order mark, CRLF, \\ and empty lines do not matter.

    Raises:
        ValueError: there is no such file, it cannot be read as UTF-8, names an image twice, or names one
            outside of the folder.
    """
    if not path.is_file():
        raise FileError(f"{path}: no such list, so the data set has no such split", remedy=_WRITE_LIST)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read as a list in UTF-8: {error}", remedy=_WRITE_LIST) from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        slashes = line.strip().replace("\\", "/")  # of a list from Windows
        name = posixpath.normpath(normalized(slashes))  # without ./, which `find` writes
        if name in seen:
            problem = f"{path}, line {number}: {name} was already named in line {seen[name]}"
            raise FileError(problem, remedy="remove one of the two lines")
        if escapes(name):
            problem = f"{path}, line {number}: {name} leaves the data set's folder; allowed are names in it"
            raise FileError(problem, remedy="remove the line, or copy the image into the folder")
        seen[name] = number
    return tuple(seen)


def escapes(name: str) -> bool:
    """Whether a relative name leads out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")


def first_folder(candidates: Iterable[Path], *, expected: str) -> Path:
    """The first of several places that is a folder; raises ``ValueError`` naming the first one."""
    places = list(candidates)
    for place in places:
        if place.is_dir():
            return place
    raise FileError(f"{places[0]}: no such folder; expected is {expected}", remedy=SEE_TREES)


def _paired(
    images: Iterable[tuple[str, Path]], labels: Mapping[str, Path], label_of: Callable[[str], Path]
) -> Pairing:
    pairs, faults = [], []
    # By the whole path, as text: the order of the sample stream.
    for key, image in sorted(images, key=lambda item: item[1].as_posix()):
        if labels.get(key) == image:
            remedy = "let two patterns tell images from labels, such as photos/*.jpg and photos/*_mask.png"
            faults.append(Fault(image, "is its own label", remedy))
        elif key in labels:
            pairs.append(Pair(image, labels[key]))
        else:
            problem = f"image without label {label_of(key)}"
            faults.append(Fault(image, problem, "add the label, or move the image away"))
    return Pairing(tuple(pairs), tuple(faults))


def names_below(folder: str) -> Iterator[str]:
    """Paths of the visible files below a folder, with slashes; links are followed, to each folder once."""
    return _names_below(folder, "", set())


def _names_below(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)  # noqa: PTH116
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _names_below(entry.path, f"{prefix}{entry.name}/", seen)
            else:
                yield prefix + entry.name
