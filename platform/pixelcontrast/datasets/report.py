"""What a check of a data set finds and counts."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from pixelcontrast.datasets.labels import IGNORE_INDEX, Color
from pixelcontrast.datasets.listing import Split

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
        other, first = seen.setdefault(digest, (split, name))
        if first == name and other == split:
            continue
        if other != split:
            problem = f"the same pixels as {first}, and that is in {other}"
            yield Finding("problem", "leak", name, problem, f"remove it from {split} or from {other}")
        elif first != name:
            yield Finding("problem", "duplicate", name, f"the same pixels as {first}", "remove one of them")


def absent_classes(split: Split, whole: SplitReport, names: tuple[str, ...]) -> Iterator[Finding]:
    """Findings for classes without a pixel: a problem in train, a note elsewhere."""
    for name, pixels in zip(names, whole.class_pixels[:-1], strict=True):
        if pixels == 0:
            severity: Severity = "problem" if split == "train" else "note"
            remedy = "remove the class, add images of it, or look whether its ids are right"
            yield Finding(severity, "class", name, f"no pixel in {split}", remedy)
