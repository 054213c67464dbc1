"""Compare a pack with its manifest, and count what is in it."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import FileError
from pixelcontrast.datasets.packing.manifest import Encoding, Shard, check_fits, find_pack
from pixelcontrast.datasets.packing.shards import check_sample, file_sha256, read_sample, stored_sample
from pixelcontrast.datasets.packing.staging import stage_pack
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.report import (
    DataReport,
    Finding,
    SplitReport,
    absent_classes,
    class_counts,
    contents,
    duplicates,
    pixel_digest,
)


class _Facts(NamedTuple):
    """What a process has seen in a shard."""

    num_samples: int
    findings: list[Finding]
    pixels: np.ndarray
    images: np.ndarray
    sizes: Counter[tuple[int, int]]
    digests: list[tuple[str, bytes]]


def check_pack(data: Data, *, processes: int, on_progress: Callable[[int, int], None] | None) -> DataReport:
    """Compare the checksum of every shard and sample, and look for what ``check_files`` finds in samples.

    Args:
        data: a pack; one behind a URI is staged first.
        processes: that read at the same time.
        on_progress: called with the samples looked at and their number.

    Raises:
        ValueError: as ``find_pack``, or the pack is of another data set.
    """
    data = stage_pack(data)
    manifest = find_pack(data.root)
    assert manifest is not None
    check_fits(manifest, data)
    labels, report = manifest.plan.label_space(), DataReport()
    report.names, report.colors = labels.names, labels.colors
    total = sum(len(shard.samples) for shards in manifest.splits.values() for shard in shards)
    done, digests = 0, {}
    look = partial(_look_at, Path(data.root), labels.num_classes, manifest.plan.encoding)
    for split, shards in manifest.splits.items():
        zeros = np.zeros(labels.num_classes + 1, np.int64)
        num_samples = sum(len(shard.samples) for shard in shards)
        report.splits[split] = whole = SplitReport(num_samples, zeros, zeros.copy())
        for facts in in_processes(look, shards, processes=min(processes, len(shards))):
            report.findings += [*facts.findings, *duplicates(facts.digests, split, digests)]
            whole.class_pixels += facts.pixels
            whole.class_images += facts.images
            whole.sizes += facts.sizes
            done += facts.num_samples
            if on_progress is not None:
                on_progress(done, total)
        whole.contents = contents([f"{shard.file} {shard.sha256}" for shard in shards])
        report.findings += absent_classes(split, whole, report.names)
    return report


def _look_at(root: Path, num_classes: int, encoding: Encoding, shard: Shard) -> _Facts:
    """Read a shard, in any process."""
    zeros, path = np.zeros(num_classes + 1, np.int64), root / shard.file
    facts = _Facts(len(shard.samples), [], zeros, zeros.copy(), Counter(), [])
    for place, entry in enumerate(shard.samples):
        try:
            check_sample(path, entry, *stored_sample(path, place))
            image, label = read_sample(path, place, entry, encoding)
        except FileError as error:
            facts.findings.append(_finding(shard, error.problem.removeprefix(f"{path}: "), error.remedy))
            continue
        facts.sizes[entry.width, entry.height] += 1
        facts.digests.append((entry.image, pixel_digest(image)))
        row = class_counts(label, num_classes)
        facts.pixels[:] += row
        facts.images[:] += row > 0
    if not facts.findings and file_sha256(path) != shard.sha256:
        problem = "its sha256 is not the manifest's, though all samples are as they were packed"
        facts.findings.append(_finding(shard, problem, "copy the shard again"))
    return facts


def _finding(shard: Shard, problem: str, remedy: str) -> Finding:
    return Finding("problem", "shard", shard.file, problem, remedy)
