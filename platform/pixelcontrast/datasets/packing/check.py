"""Compare a pack with its manifest, and count what is in it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import FileError
from pixelcontrast.datasets.packing.manifest import Encoding, Shard, check_fits, find_pack
from pixelcontrast.datasets.packing.shards import check_sample, file_sha256, read_sample, stored_sample
from pixelcontrast.datasets.packing.staging import stage_pack
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.report import DataReport, Facts, Finding, Tally


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
    labels = manifest.plan.label_space()
    total = sum(len(shard.samples) for shards in manifest.splits.values() for shard in shards)
    tally = Tally(total=total, on_progress=on_progress)
    look = partial(_look_at, Path(data.root), labels.num_classes, manifest.plan.encoding)
    for split, shards in manifest.splits.items():
        parts = in_processes(look, shards, processes=min(processes, len(shards)))
        tally.add_split(split, labels, parts)
    return tally.report


def _look_at(root: Path, num_classes: int, encoding: Encoding, shard: Shard) -> Facts:
    """Read a shard, in any process."""
    path, facts = root / shard.file, Facts.of(len(shard.samples), num_classes)
    facts.files.append(f"{shard.file} {shard.sha256}")
    for place, entry in enumerate(shard.samples):
        try:
            check_sample(path, entry, *stored_sample(path, place))
            image, label = read_sample(path, place, entry, encoding)
        except FileError as error:
            facts.findings.append(_finding(shard, error.problem.removeprefix(f"{path}: "), error.remedy))
            continue
        facts.add_image(entry.image, image)
        facts.add_label(label)
    if not facts.findings and file_sha256(path) != shard.sha256:
        problem = "its sha256 is not the manifest's, though all samples are as they were packed"
        facts.findings.append(_finding(shard, problem, "copy the shard again"))
    return facts


def _finding(shard: Shard, problem: str, remedy: str) -> Finding:
    return Finding("problem", "shard", shard.file, problem, remedy)
