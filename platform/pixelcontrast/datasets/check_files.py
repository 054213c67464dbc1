"""Look at every file of a data set: what is wrong with which, and what is in it when all is well."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import FileError, read_header, read_image
from pixelcontrast.datasets.labels import IGNORE_INDEX, Color, LabelSpace
from pixelcontrast.datasets.listing import Listing, Pair, Split
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.segmentation import check_sizes, list_split

_CHUNK = 16
"""Pairs that a process looks at before it reports."""
_FEW = 64
"""Pairs up to which starting other processes takes longer than the work."""

Severity = Literal["problem", "note"]


class Finding(NamedTuple):
    """Something that a user should know."""

    severity: Severity
    """problem: to be put right; note: training works, but perhaps not as meant."""
    subject: str
    """What it is about, the same for all findings of a sort."""
    file: str
    """Below the root where it can be."""
    problem: str
    remedy: str


@dataclass
class SplitReport:
    """What a split holds, as far as it could be read."""

    num_pairs: int
    class_pixels: np.ndarray
    """int64 [num_classes + 1]; the last is ignored pixels."""
    class_images: np.ndarray
    """int64 [num_classes + 1]: in how many images each occurs."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(width, height) → images."""
    contents: str = ""
    """sha256 of the names and bytes of all files, in their order; "" where one cannot be read."""

    def shares(self) -> np.ndarray:
        """float64 [num_classes + 1]: each class among the pixels that have one; last the ignored, among
        all."""
        counted, whole = self.class_pixels[:-1].sum(), self.class_pixels.sum()
        return np.append(self.class_pixels[:-1] / max(counted, 1), self.class_pixels[-1] / max(whole, 1))


@dataclass
class DataReport:
    """What was found in a data set."""

    findings: list[Finding] = field(default_factory=list)
    splits: dict[Split, SplitReport] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()

    @property
    def well(self) -> bool:
        """Whether there is no problem; there may be notes."""
        return all(finding.severity == "note" for finding in self.findings)


class _Facts(NamedTuple):
    """What a process has seen in a chunk of pairs."""

    num_pairs: int
    findings: list[Finding]
    pixels: np.ndarray
    images: np.ndarray
    sizes: Counter[tuple[int, int]]
    digests: list[tuple[str, bytes]]
    files: list[str]
    """Name and sha256 of each file; of one that cannot be read the name alone."""


def check_files(
    data: Data, *, processes: int, on_progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Decode every image and label of both splits.

    Found are: wrong lists and settings, empty splits, images without label and labels without image, files
    that are unreadable, truncated, too large or of another kind, sizes that differ, ids outside of the map,
    links out of the root, the same pixels twice in a split or in train and val, classes without pixels. A
    wrong bit in a JPEG is not: only a checksum tells.

    Args:
        data: layout, root and class order are used.
        processes: that decode at the same time.
        on_progress: called with the pairs looked at and their number.
    """
    report, listings = DataReport(), _listings(data)
    total = sum(len(found.found.pairs) for found in listings.values() if isinstance(found, Listing))
    done, digests = 0, {}
    for split, found in listings.items():
        if not isinstance(found, Listing):
            remedy = "see what the layout expects in README.md"
            report.findings.append(Finding("problem", "split", split, str(found), remedy))
            continue
        root = Path(data.root)
        report.findings += [*_list_findings(root, found), *_links_out(root, found)]
        report.names, report.colors = found.labels.names, found.labels.colors
        zeros = np.zeros(found.labels.num_classes + 1, np.int64)
        report.splits[split] = whole = SplitReport(len(found.found.pairs), zeros, zeros.copy())
        files: list[str] = []
        for facts in _look(root, found, processes if total > _FEW else 1):
            files += facts.files
            report.findings += [*facts.findings, *_duplicates(facts.digests, split, digests)]
            whole.class_pixels += facts.pixels
            whole.class_images += facts.images
            whole.sizes += facts.sizes
            done += facts.num_pairs
            if on_progress is not None:
                on_progress(done, total)
        whole.contents = _contents(files)
        report.findings += _absent_classes(split, whole, report.names)
    return report


def _listings(data: Data) -> dict[Split, Listing | ValueError]:
    found: dict[Split, Listing | ValueError] = {}
    for split in ("train", "val"):
        try:
            found[split] = list_split(data, split)
        except ValueError as error:
            found[split] = error
    return found


def _look(root: Path, found: Listing, processes: int) -> Iterator[_Facts]:
    work = partial(_look_at, root, found.labels, found.read_label)
    return in_processes(work, _chunks(found.found.pairs), processes=processes)


def _chunks(pairs: tuple[Pair, ...]) -> Iterator[list[Pair]]:
    todo = iter(pairs)
    while chunk := list(islice(todo, _CHUNK)):
        yield chunk


def _look_at(
    root: Path, labels: LabelSpace, read_label: Callable[[Path], np.ndarray], pairs: list[Pair]
) -> _Facts:
    """Decode some pairs, in any process."""
    zeros = np.zeros(labels.num_classes + 1, np.int64)
    facts = _Facts(len(pairs), [], zeros, zeros.copy(), Counter(), [], [])
    for pair in pairs:
        facts.files.extend(f"{_below(root, path)} {_sha256(path)}" for path in pair)
        name = _below(root, pair.image)
        size = None
        try:
            image = read_image(pair.image)
            size = image.shape[2], image.shape[1]
            facts.sizes[size] += 1
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            digest = hashlib.blake2b(pixels.data, digest_size=16, key=repr(size).encode()).digest()
            facts.digests.append((name, digest))
            facts.findings.extend(_turned(root, pair.image))
        except FileError as error:
            facts.findings.append(_finding(root, pair.image, "image", error))
        try:
            raw = read_label(pair.label)
            if size is not None:
                check_sizes(pair, size, (raw.shape[1], raw.shape[0]))
            encoded = labels.encode(raw, file=pair.label).numpy().ravel()
            seen = np.bincount(encoded, minlength=IGNORE_INDEX + 1)
            row = np.append(seen[: labels.num_classes], seen[IGNORE_INDEX])
            facts.pixels[:] += row
            facts.images[:] += row > 0
        except FileError as error:
            facts.findings.append(_finding(root, pair.label, "label", error))
    return facts


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # what is wrong with it, ``read_image`` and ``read_label`` say


def _contents(files: list[str]) -> str:
    if any(line.endswith(" ") for line in files):
        return ""
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


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


def _duplicates(
    digests: list[tuple[str, bytes]], split: Split, seen: dict[bytes, tuple[Split, str]]
) -> Iterator[Finding]:
    for name, digest in digests:
        other, first = seen.setdefault(digest, (split, name))
        if first == name and other == split:
            continue
        if other != split:
            problem = f"the same pixels as {first}, and that is in {other}"
            yield Finding("problem", "leak", name, problem, f"remove it from {split} or from {other}")
        elif first != name:
            yield Finding("problem", "duplicate", name, f"the same pixels as {first}", "remove one of them")


def _absent_classes(split: Split, whole: SplitReport, names: tuple[str, ...]) -> Iterator[Finding]:
    for name, pixels in zip(names, whole.class_pixels[:-1], strict=True):
        if pixels == 0:
            severity: Severity = "problem" if split == "train" else "note"
            remedy = "remove the class, add images of it, or look whether its ids are right"
            yield Finding(severity, "class", name, f"no pixel in {split}", remedy)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
