"""Look at every file of a data set: what is wrong with which, and what is in it when all is well."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import FileError, read_header, read_image
from pixelcontrast.datasets.labels import LabelSpace
from pixelcontrast.datasets.listing import Listing, Pair, Split
from pixelcontrast.datasets.packing.check import check_pack
from pixelcontrast.datasets.packing.manifest import find_pack
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.report import DataReport, Facts, Finding, Tally
from pixelcontrast.datasets.segmentation import list_split
from pixelcontrast.datasets.segmentation_set import check_sizes
from pixelcontrast.words import count

_CHUNK = 16
"""Pairs that a process looks at before it reports."""
_FEW = 64
"""Pairs up to which starting other processes takes longer than the work."""


def check_files(
    data: Data, *, processes: int, on_progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Decode every image and label of both splits.

    Found are: wrong lists and settings, empty splits, images without label and labels without image, both in
    no list, files that are unreadable, truncated, too large or of another kind, sizes that differ, ids not in
    the map, links out of the root, the same pixels twice in a split or in train and val, classes without
    pixels. A wrong bit in a JPEG is not: only a checksum tells. Of a pack all checksums are compared, too.

    Args:
        data: layout, root and class order are used.
        processes: that decode at the same time.
        on_progress: called with the pairs looked at and their number.

    Raises:
        ValueError: no such folder; or as ``check_pack``.
    """
    if find_pack(data.root) is not None:
        return check_pack(data, processes=processes, on_progress=on_progress)
    root = Path(data.root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the data set's folder, or a pack")
    listings = _listings(data)
    total = sum(len(found.found.pairs) for found in listings.values() if isinstance(found, Listing))
    tally = Tally(total=total, on_progress=on_progress)
    for split, found in listings.items():
        if not isinstance(found, Listing):
            tally.report.findings += _split_findings(root, split, found, listings)
            continue
        tally.report.findings += [*_list_findings(root, found), *_links_out(root, found)]
        tally.add_split(split, found.labels, _look(root, found, processes if total > _FEW else 1))
    tally.report.findings += _unlisted(data, listings)
    return tally.report


def _listings(data: Data) -> dict[Split, Listing | ValueError]:
    found: dict[Split, Listing | ValueError] = {}
    for split in ("train", "val"):
        try:
            found[split] = list_split(data, split)
        except ValueError as error:
            found[split] = error
    return found


def _split_findings(
    root: Path, split: Split, error: ValueError, listings: Mapping[Split, Listing | ValueError]
) -> Iterator[Finding]:
    """Why a split cannot be listed; what keeps others from it, too, is said of the first alone."""
    errors = {other: found for other, found in listings.items() if isinstance(found, ValueError)}
    splits = [other for other, found in errors.items() if str(found) == str(error)]
    if split == splits[0]:
        problem, remedy = (error.problem, error.remedy) if isinstance(error, FileError) else (str(error), "")
        yield Finding("problem", "split", ", ".join(splits), problem.replace(f"{root}{os.sep}", ""), remedy)


def _look(root: Path, found: Listing, processes: int) -> Iterator[Facts]:
    work = partial(_look_at, root, found.labels, found.read_label)
    return in_processes(work, _chunks(found.found.pairs), processes=processes)


def _chunks(pairs: tuple[Pair, ...]) -> Iterator[list[Pair]]:
    todo = iter(pairs)
    while chunk := list(islice(todo, _CHUNK)):
        yield chunk


def _look_at(
    root: Path, labels: LabelSpace, read_label: Callable[[Path], np.ndarray], pairs: list[Pair]
) -> Facts:
    """Decode some pairs, in any process."""
    facts = Facts.of(len(pairs), labels.num_classes)
    for pair in pairs:
        facts.files.extend(f"{_below(root, path)} {_sha256(path)}" for path in pair)
        name = _below(root, pair.image)
        size = None
        try:
            image = read_image(pair.image)
            size = image.shape[2], image.shape[1]
            facts.add_image(name, image)
            facts.findings.extend(_turned(root, pair.image))
        except FileError as error:
            facts.findings.append(_finding(root, pair.image, "image", error))
        try:
            raw = read_label(pair.label)
            if size is not None:
                check_sizes(pair, size, (raw.shape[1], raw.shape[0]))
            facts.add_label(labels.encode(raw, file=pair.label))
        except FileError as error:
            facts.findings.append(_finding(root, pair.label, "label", error))
    return facts


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # what is wrong with it, ``read_image`` and ``read_label`` say


def _finding(root: Path, path: Path, subject: str, error: FileError) -> Finding:
    name = _below(root, path)
    problem = error.problem.replace(f"{root}{os.sep}", "").removeprefix(f"{name}: ")
    return Finding("problem", subject, name, problem, error.remedy)


def _turned(root: Path, path: Path) -> Iterator[Finding]:
    orientation = read_header(path, "image").orientation
    if orientation != 1:
        problem = f"EXIF orientation {orientation}: the image is turned as viewers show it, its label is not"
        remedy = "look whether the label fits the turned image"
        yield Finding("note", "orientation", _below(root, path), problem, remedy)


def _list_findings(root: Path, found: Listing) -> Iterator[Finding]:
    for fault in found.found.faults:
        problem = fault.problem.replace(f"{root}{os.sep}", "")
        yield Finding("problem", "pair", _below(root, fault.file), problem, fault.remedy)
    for path in found.found.unused:
        yield Finding(
            "note", "pair", _below(root, path), "label without image", "add the image, or ignore this"
        )


def _unlisted(data: Data, listings: Mapping[Split, Listing | ValueError]) -> Iterator[Finding]:
    """A note of images, and one of labels, that no list names; that of the test split may be missing."""
    with suppress(ValueError):
        listings = {**listings, "test": list_split(data, "test")}
    found = [listing.found for listing in listings.values() if isinstance(listing, Listing)]
    if len(found) < len(listings):  # a list that cannot be read is a problem of its own
        return
    for place, kind in enumerate(("image", "label")):
        named = {pair[place] for pairing in found for pair in pairing.pairs}
        named |= {fault.file for pairing in found for fault in pairing.faults}
        rest = sorted(frozenset().union(*(pairing.listable[place] for pairing in found)) - named)
        if rest:
            others = f", nor {count(len(rest) - 1, 'other')}" if len(rest) > 1 else ""
            remedy = "look whether image and label have the same name, and list them; or ignore this"
            name = _below(Path(data.root), rest[0])
            yield Finding("note", "list", name, f"no list names this {kind}{others}", remedy)


def _links_out(root: Path, found: Listing) -> Iterator[Finding]:
    """Files and folders that are links to places outside of the root; a folder is named once."""
    inside, folders = root.resolve(), set()
    for path in (path for pair in found.found.pairs for path in pair):
        if path.is_symlink():
            places = [path]
        elif path.parent in folders:
            continue
        else:
            folders.add(path.parent)
            places = [path.parent]
        for place in places:
            target = place.resolve()
            if target != inside and inside not in target.parents:
                problem = f"a link out of the data set's folder, to {target}"
                remedy = "copy what it points to here, so that the folder is complete on every machine"
                yield Finding("problem", "link", _below(root, place), problem, remedy)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
