"""What a check of a data set finds and counts."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from pixelcontrast.datasets.labels import IGNORE_INDEX, Color, LabelSpace
from pixelcontrast.datasets.listing import Split

Severity = Literal["problem", "note"]
_UNREAD = frozenset({"image", "label", "shard"})
"""Subjects of problems with files that could not be decoded, and so have not been counted."""


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

    def class_weights(self) -> np.ndarray:
        """float64 [num_classes], for ``optim.class_weights``: square roots of median-frequency balancing.

        A class's frequency is its mean number of pixels in the images that have it (Eigen and Fergus, ICCV
        2015); the root halves, on a logarithmic scale, what that takes from frequent classes. A class without
        pixels gets 1.
        """
        pixels, images = self.class_pixels[:-1], self.class_images[:-1]
        occurs, frequency = pixels > 0, pixels / np.maximum(images, 1)
        median = np.median(frequency[occurs]) if occurs.any() else 1.0
        return np.sqrt(median / np.where(occurs, frequency, median))


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

    @property
    def complete(self) -> bool:
        """Whether both splits were listed and every file of them decoded, so that all pixels are counted."""
        unread = any(found.severity == "problem" and found.subject in _UNREAD for found in self.findings)
        return not unread and self.splits.keys() >= {"train", "val"}


@dataclass
class Facts:
    """What a process has seen in a part of a split, a chunk of its pairs or a shard."""

    num_pairs: int
    class_pixels: np.ndarray
    """As in ``SplitReport``, and so the next two."""
    class_images: np.ndarray
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    digests: list[tuple[str, bytes]] = field(default_factory=list)
    """Name and ``pixel_digest`` of each image."""
    files: list[str] = field(default_factory=list)
    """Name and sha256 of each file; of one that cannot be read the name alone."""
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, num_pairs: int, num_classes: int) -> "Facts":
        """Before anything was seen."""
        zeros = np.zeros(num_classes + 1, np.int64)
        return cls(num_pairs, zeros, zeros.copy())

    def add_image(self, name: str, image: Tensor) -> None:
        """Note an image's size and pixels, uint8 [3, H, W]."""
        self.sizes[image.shape[2], image.shape[1]] += 1
        self.digests.append((name, pixel_digest(image)))

    def add_label(self, label: Tensor) -> None:
        """Count a label's pixels, train ids, uint8 [H, W]."""
        pixels = class_counts(label, len(self.class_pixels) - 1)
        self.class_pixels += pixels
        self.class_images += pixels > 0


class Tally:
    """Adds up the facts from all processes into ``report``.

    Args:
        total: pairs of all splits.
        on_progress: called with the pairs looked at and ``total``.
    """

    def __init__(self, *, total: int, on_progress: Callable[[int, int], None] | None):
        self.report = DataReport()
        self._total, self._on_progress = total, on_progress
        self._done = 0
        self._seen: dict[bytes, tuple[Split, str]] = {}

    def add_split(self, split: Split, labels: LabelSpace, parts: Iterable[Facts]) -> None:
        """Add up the facts of a split's parts, in the order of its pairs, and what follows from them all."""
        report, whole = self.report, Facts.of(0, labels.num_classes)
        report.names, report.colors = labels.names, labels.colors
        for part in parts:
            report.findings += [*part.findings, *duplicates(part.digests, split, self._seen)]
            whole.num_pairs += part.num_pairs
            whole.class_pixels += part.class_pixels
            whole.class_images += part.class_images
            whole.sizes += part.sizes
            whole.files += part.files
            self._done += part.num_pairs
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)
        report.splits[split] = SplitReport(
            whole.num_pairs, whole.class_pixels, whole.class_images, whole.sizes, contents(whole.files)
        )
        said = {finding.file for finding in report.findings if finding.subject == "class"}
        absent = absent_classes(split, report.splits[split], labels.names)
        report.findings += [finding for finding in absent if finding.file not in said]  # once per class


def pixel_digest(image: Tensor) -> bytes:
    """Identifies the pixels of an image, uint8 [3, H, W], whatever file they come from."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    size = image.shape[2], image.shape[1]
    return hashlib.blake2b(pixels.data, digest_size=16, key=repr(size).encode()).digest()


def class_counts(label: Tensor, num_classes: int) -> np.ndarray:
    """Pixels of each class in train ids, uint8 [H, W]: int64 [num_classes + 1]; the last is the ignored."""
    seen = np.bincount(label.numpy().ravel(), minlength=IGNORE_INDEX + 1)
    return np.append(seen[:num_classes], seen[IGNORE_INDEX])


def contents(files: list[str]) -> str:
    """``SplitReport.contents`` from the name and sha256 of each file, "" where there is none."""
    if any(line.endswith(" ") for line in files):
        return ""
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


def duplicates(
    digests: list[tuple[str, bytes]], split: Split, seen: dict[bytes, tuple[Split, str]]
) -> Iterator[Finding]:
    """Findings for images whose pixels were seen before, in this split or another one.

    Args:
        digests: name and ``pixel_digest`` of some images of the split.
        split: theirs.
        seen: what was seen before, by digest; extended.
    """
    for name, digest in digests:
        if digest not in seen:
            seen[digest] = split, name
            continue
        other, first = seen[digest]
        if other != split:
            same = f"the same pixels as {first}, and that is in {other}"
            problem = f"listed in {other} and in {split}" if first == name else same
            yield Finding("problem", "leak", name, problem, f"remove it from {split} or from {other}")
        else:
            yield Finding("problem", "duplicate", name, f"the same pixels as {first}", "remove one of them")


def absent_classes(split: Split, whole: SplitReport, names: tuple[str, ...]) -> Iterator[Finding]:
    """Findings for classes without a pixel: a problem in train, a note elsewhere unless none has any."""
    if not whole.class_pixels[:-1].any():
        remedy = "look whether the labels' ids are right, and which of them are ignored"
        yield Finding("problem", "split", split, f"no labelled pixel in {split}", remedy)
        return
    for name, pixels in zip(names, whole.class_pixels[:-1], strict=True):
        if pixels == 0:
            severity: Severity = "problem" if split == "train" else "note"
            remedy = "remove the class, add images of it, or look whether its ids are right"
            yield Finding(severity, "class", name, f"no pixel in {split}", remedy)
