"""The user's own images: two patterns, a table of classes, in one ``dataset.toml`` (see ``dataset_file``)."""

import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from pixelcontrast.datasets.dataset_file import FILE_NAME, DatasetFile, read_dataset_file
from pixelcontrast.datasets.files import IMAGE_ENDINGS, FileError, read_label
from pixelcontrast.datasets.listing import (
    Listing,
    Pairing,
    Split,
    check_name,
    list_files,
    normalized,
    pair_all,
    pair_listed,
    read_list,
    same_name,
)


def listing(root: Path, split: Split) -> Listing:
    """The pairs of a split as ``dataset.toml`` describes them.

    Raises:
        ValueError: a wrong ``dataset.toml``, a folder or list that is missing, or two files of one name.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected is a folder with {FILE_NAME}")
    described = read_dataset_file(root)
    labels = described.label_space()
    in_colors = described.mask_values == "colors"  # else colours are for pictures only, and may change
    return Listing(
        found=find_pairs(root, described, split),
        labels=labels,
        layout=f"{described.images} with {described.masks} as in {root / FILE_NAME}",
        read_label=described.color_reader() if in_colors else read_label,
        settings=repr(
            (
                labels.names,
                sorted(labels.train_ids.items()),
                described.mask_values,
                described.mask_colors() if in_colors else (),
            )
        ),
    )


def find_pairs(root: Path, described: DatasetFile, split: Split) -> Pairing:
    """The images and masks of a split.

    Raises:
        ValueError: a folder or the list is missing, or the list names an image twice, if in different words.
    """
    name = described.split_name(split)
    images, masks = (pattern.replace("{split}", name) for pattern in (described.images, described.masks))
    expected = f"images at {images} with masks at {masks}, as in {root / FILE_NAME}"
    if name == split and "{split}" in described.images + described.masks:
        expected += f"; another folder is named by split_names.{split}"
    found = matching(root, images, IMAGE_ENDINGS, expected=expected)
    labels = matching(root, masks, (".png",), expected=expected)
    suggestion = _namer(root, masks)
    if described.lists is None:
        return pair_all(
            found, labels, folder=fixed_folder(root, images), label_of=suggestion, expected=expected
        )
    source = root / described.lists.replace("{split}", name)
    keys = _keys_of_names(root, fixed_folder(root, images), found)
    named: dict[str, str] = {}
    for entry in read_list(source):
        key = keys.get(entry, entry)
        if key in named:
            raise FileError(
                f"{source}: {named[key]} and {entry} are both {found[key]}; allowed is to name it once",
                remedy="remove one of the two lines",
            )
        named[key] = entry
    paired = pair_listed(tuple(named), found, labels, source=source, label_of=suggestion)
    return paired._replace(listable=(frozenset(found.values()), frozenset(labels.values())))


def image_names(root: Path) -> frozenset[str]:
    """The images of all splits that ``dataset.toml`` describes, with or without mask: paths below the root.

    Raises:
        ValueError: a wrong ``dataset.toml``, or two files of one name.
    """
    described = read_dataset_file(root)
    patterns = {described.images.replace("{split}", described.split_name(s)) for s in get_args(Split)}
    found = (
        matching(root, pattern, IMAGE_ENDINGS, expected=pattern)
        for pattern in patterns
        if fixed_folder(root, pattern).is_dir()
    )
    return frozenset(path.relative_to(root).as_posix() for files in found for path in files.values())


def matching(root: Path, pattern: str, endings: Sequence[str], *, expected: str) -> dict[str, Path]:
    """The files that a pattern matches, by what its stars stand for.

    Args:
        root: the data set's folder.
        pattern: relative to it: a folder or ``folder/**``, for all files below it, or a path with * and **.
        endings: which files are taken where the pattern leaves it open.
        expected: for the errors.

    Raises:
        ValueError: the folder that the pattern starts with is missing, two files have the same key, or a
            name is not UTF-8.
    """
    base = fixed_folder(root, pattern)
    expression = re.compile(_expression(_down_to_files(pattern), endings), re.IGNORECASE)
    files: dict[str, Path] = {}
    for path in list_files(base, ("",), expected=expected).values():
        match = expression.fullmatch(normalized(path.relative_to(root).as_posix()))
        if match is None:
            continue
        check_name(base, path.relative_to(base).as_posix())
        key = "/".join(filter(None, (part.strip("/") for part in match.groups())))
        if key in files:
            raise same_name(path, files[key])
        files[key] = path
    return files


def _down_to_files(pattern: str) -> str:
    """A pattern that names files: of a folder, and of one that ends with **, all files at any depth."""
    pattern = posixpath.normpath(pattern)  # without ./ and //, as the files' paths are
    if pattern == ".":
        return "**/*"
    if "*" not in pattern:
        return f"{pattern}/**/*"
    return f"{pattern}/*" if pattern.split("/")[-1] == "**" else pattern


def _expression(pattern: str, endings: Sequence[str]) -> str:
    """A regular expression with a group for each star."""
    parts = re.split(r"(\*\*/|\*)", normalized(pattern))
    stars = {"**/": "((?:[^/]+/)*)", "*": "([^/]*?)"}
    ending = f"(?:{'|'.join(map(re.escape, endings))})" if pattern.endswith("*") else ""
    return "".join(stars.get(part, re.escape(part)) for part in parts) + ending


def fixed_folder(root: Path, pattern: str) -> Path:
    """The folder that a pattern starts with."""
    if "*" not in pattern:
        return root / pattern
    return root / pattern.split("*", maxsplit=1)[0].rpartition("/")[0]


def _namer(root: Path, pattern: str) -> Callable[[str], Path]:
    """Where the mask of a key should be."""

    def name(key: str) -> Path:
        whole = _down_to_files(pattern)
        ending = ".png" if whole.endswith("*") else ""
        if whole.count("*") == 3 and "**/*" in whole:  # the key is the path below the stars' place
            return root / (whole.replace("**/*", key) + ending)
        filled = re.sub(r"\*\*/|\*", "\0", whole)
        parts = key.split("/", maxsplit=filled.count("\0") - 1)
        for part in [*[""] * (filled.count("\0") - len(parts)), *parts]:
            filled = filled.replace("\0", part, 1)
        return root / (filled + ending)

    return name


def _keys_of_names(root: Path, folder: Path, images: dict[str, Path]) -> dict[str, str]:
    """What a list may call an image → its key: the path below the root or the images' folder, with its
    ending."""
    names = {}
    for key, path in images.items():
        for base in (root, folder):
            names[normalized(path.relative_to(base).as_posix())] = key
    return names
