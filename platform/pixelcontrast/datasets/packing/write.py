"""Writing a pack: shards in parallel, each appearing whole with its record, the manifest last.

Whatever is killed, and when: without the manifest there is no pack, and the next start keeps the shards whose
record, content and sources are as they were.
"""

import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import ColorLabels
from pixelcontrast.datasets.listing import Split
from pixelcontrast.datasets.packing.manifest import (
    MANIFEST,
    PACKED_SPLITS,
    PLAN,
    UNFINISHED,
    Encoding,
    Entry,
    Manifest,
    Plan,
    Shard,
    find_pack,
    read_manifest,
    to_json,
)
from pixelcontrast.datasets.packing.shards import Stored, digest, encode, file_sha256, write_shard
from pixelcontrast.datasets.report import class_counts
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.datasets.segmentation_set import SegmentationSet
from pixelcontrast.storage import Storage, one_line

SAMPLES_PER_SHARD = 64
"""Half a gigabyte of Cityscapes."""

_plan, _shard = TypeAdapter(Plan), TypeAdapter(Shard)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A shard to write."""

    destination: str
    dataset: SegmentationSet
    """Set of the shard's pairs alone."""
    file: str
    encoding: Encoding

    @property
    def record(self) -> str:
        """Where the finished shard is recorded until there is a manifest."""
        return f"{UNFINISHED}/{self.file.replace('/', '-')}.json"


class InParallel(Protocol):
    """``map``, or what does the same in many processes: ``in_processes``, ``in_tasks``."""

    def __call__(self, work: Callable[[_Job], Shard], items: Iterable[_Job], /) -> Iterator[Shard]: ...


def pack(
    data: Data,
    destination: str,
    *,
    encoding: Encoding = "raw",
    mapped: InParallel = map,
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Manifest:
    """Decode every training and validation image once and store them for reading.

    Start it again after whatever ended it, and it resumes; a finished pack is left as it is.

    Args:
        data: the data set: layout, root and class order are used.
        destination: an empty or new folder, or a URI that pyarrow writes.
        encoding: raw or source, see ``Encoding``.
        mapped: applies a function to every shard. Processes of other machines must see the data set and the
            destination under the same names.
        on_progress: called with the samples stored and their number.

    Raises:
        ValueError: the data set is wrong or changes meanwhile, the destination holds something else, is being
            written by another process, or cannot be written.
    """
    storage = Storage(destination, option="DEST")
    if find_pack(data.root) is not None:
        raise ValueError(f"{data.root}: is a pack already; give the folder that it was packed from")
    sets: dict[Split, SegmentationSet] = {split: build_dataset(data, split) for split in PACKED_SPLITS}
    plan = _plan_of(data, sets["train"], encoding)
    jobs = [job for split, dataset in sets.items() for job in _jobs(storage, split, dataset, encoding)]
    try:
        with _sole_writer(storage):
            if (finished := _begin(storage, plan, jobs)) is not None:
                return finished
            shards = _write_all(jobs, mapped, on_progress)
            return _commit(storage, plan, jobs, shards)
    except OSError as error:
        raise ValueError(f"{destination}: cannot be written: {one_line(error)}") from error


def _plan_of(data: Data, dataset: SegmentationSet, encoding: Encoding) -> Plan:
    labels, reader = dataset.labels, dataset.read_label
    return Plan(
        layout=data.layout,
        class_order=data.class_order,
        encoding=encoding,
        names=labels.names,
        colors=labels.colors,
        train_ids=dict(labels.train_ids),
        label_colors=reader.colors if isinstance(reader, ColorLabels) else (),
        settings=dataset.settings,
    )


def _jobs(storage: Storage, split: Split, dataset: SegmentationSet, encoding: Encoding) -> Iterator[_Job]:
    for first in range(0, len(dataset), SAMPLES_PER_SHARD):
        pairs = dataset.pairs[first : first + SAMPLES_PER_SHARD]
        part = SegmentationSet(
            root=dataset.root, pairs=pairs, labels=dataset.labels, read_label=dataset.read_label
        )
        file = f"{split}/shard-{first // SAMPLES_PER_SHARD:05d}.arrow"
        yield _Job(destination=storage.location, dataset=part, file=file, encoding=encoding)


@contextmanager
def _sole_writer(storage: Storage) -> Iterator[None]:
    """Keep other processes of this machine from writing the same local pack at the same time."""
    if not storage.is_local:
        yield
        return
    Path(storage.root).mkdir(parents=True, exist_ok=True)
    folder = os.open(storage.root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ValueError(f"{storage.location}: another process is packing to this folder") from error
    finally:
        os.close(folder)  # which ends the lock, as the end of the process does


def _begin(storage: Storage, plan: Plan, jobs: list[_Job]) -> Manifest | None:
    """Make sure that the destination is for this pack; returns it if it is finished already."""
    if storage.exists(MANIFEST):
        manifest = read_manifest(storage.read(MANIFEST), where=f"{storage.location}/{MANIFEST}")
        packed = [shard.sources for shards in manifest.splits.values() for shard in shards]
        if manifest.plan != plan or packed != [_sources(job.dataset) for job in jobs]:
            raise ValueError(
                f"{storage.location}: holds a pack of other images or settings; delete it, or pack to "
                "another folder"
            )
        _forget_progress(storage)  # which a start that was killed after the manifest has left
        return find_pack(storage.location)
    if not storage.exists(PLAN):
        others = [name for name in storage.names() if name != UNFINISHED]
        if others:
            raise ValueError(
                f"{storage.location}: is not empty, it has {', '.join(others[:3])}; allowed is a new folder"
            )
        storage.write(PLAN, _plan.dump_json(plan))
    elif _parsed(_plan, storage.read(PLAN)) != plan:
        raise ValueError(
            f"{storage.location}: holds an unfinished pack of other settings; delete it, or pack to another "
            "folder"
        )
    for name in storage.names(UNFINISHED):
        if name.endswith(".partial") and storage.is_local:  # of a start that was killed
            Path(storage.path(f"{UNFINISHED}/{name}")).unlink(missing_ok=True)
    return None


def _write_all(
    jobs: list[_Job], mapped: InParallel, on_progress: Callable[[int, int], object]
) -> dict[str, Shard]:
    total, done, found = sum(len(job.dataset) for job in jobs), 0, {}
    for shard in mapped(_write_or_keep, jobs):
        found[shard.file] = shard
        done += len(shard.samples)
        on_progress(done, total)
    return found


def _commit(storage: Storage, plan: Plan, jobs: list[_Job], shards: dict[str, Shard]) -> Manifest:
    changed = [job.file for job in jobs if _sources(job.dataset) != shards[job.file].sources]
    if changed:
        raise ValueError(
            f"images or labels of {', '.join(changed[:3])} have changed while they were packed; rerun the "
            "command to pack them again"
        )
    splits: dict[Split, tuple[Shard, ...]] = {
        split: tuple(shards[job.file] for job in jobs if job.file.startswith(f"{split}/"))
        for split in PACKED_SPLITS
    }
    manifest = Manifest(plan=plan, splits=splits)
    _delete_others(storage, shards)
    storage.write(MANIFEST, to_json(manifest))
    _forget_progress(storage)
    return manifest


def _forget_progress(storage: Storage) -> None:
    if storage.exists(UNFINISHED):
        storage.fs.delete_dir(storage.path(UNFINISHED))


def _delete_others(storage: Storage, shards: dict[str, Shard]) -> None:
    """Shards of an earlier start, when the data set had more images."""
    for split in PACKED_SPLITS:
        for name in storage.names(split):
            if f"{split}/{name}" not in shards:
                storage.fs.delete_file(storage.path(f"{split}/{name}"))


def _write_or_keep(job: _Job) -> Shard:
    """Write a shard, in any process, unless it is there."""
    storage, sources = Storage(job.destination, option="DEST"), _sources(job.dataset)
    if not storage.exists(PLAN):
        raise ValueError(
            f"{job.destination}: the pack that was begun there is not seen from here; allowed is a folder "
            "that all nodes share, or the URI of an object store"
        )
    if storage.exists(job.record):
        kept = _parsed(_shard, storage.read(job.record))
        if kept is not None and kept.sources == sources and _is_whole(storage, kept):
            return kept
    with _temporary(storage) as file:
        entries: list[Entry] = []
        write_shard(file, _stored(job, entries))
        shard = Shard(
            file=job.file,
            size=file.stat().st_size,
            sha256=file_sha256(file),
            sources=sources,
            samples=tuple(entries),
        )
        storage.adopt(file, job.file)
    storage.write(job.record, _shard.dump_json(shard))
    return shard


@contextmanager
def _temporary(storage: Storage) -> Iterator[Path]:
    """A new local file's path, from which the storage can adopt it."""
    if storage.is_local:
        file = Path(storage.path(f"{UNFINISHED}/{secrets.token_hex(8)}.partial"))
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "shard.arrow"


def _stored(job: _Job, entries: list[Entry]) -> Iterator[tuple[str, Stored]]:
    """The samples of a shard; what the manifest says of them goes into ``entries``."""
    dataset, root = job.dataset, job.dataset.root
    for index, pair in enumerate(dataset.pairs):
        image, label = dataset.read(index)
        stored = encode(image, label, pair.image, job.encoding)
        counts = class_counts(label, dataset.labels.num_classes)[:-1]
        entry = Entry(
            image=dataset.name(index),
            image_size=pair.image.stat().st_size,
            label=pair.label.relative_to(root).as_posix(),
            label_size=pair.label.stat().st_size,
            height=label.shape[0],
            width=label.shape[1],
            sha256=digest(stored),
            pixels={int(train_id): int(counts[train_id]) for train_id in np.flatnonzero(counts)},
        )
        entries.append(entry)
        yield entry.image, stored


def _is_whole(storage: Storage, shard: Shard) -> bool:
    if storage.size(shard.file) != shard.size:
        return False
    with storage.fs.open_input_stream(storage.path(shard.file)) as stream:
        found = hashlib.sha256()
        while block := stream.read(1 << 24):
            found.update(block)
    return found.hexdigest() == shard.sha256


def _sources(dataset: SegmentationSet) -> str:
    """Identifies some files: sha256 of their paths below the root, sizes and times of change."""
    found = hashlib.sha256()
    for path in (path for pair in dataset.pairs for path in pair):
        status = path.stat()
        found.update(f"{path.relative_to(dataset.root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _parsed(adapter: TypeAdapter[Any], content: bytes) -> Any:
    """What a file of the unfinished pack says; None where it cannot be read."""
    try:
        return adapter.validate_json(content)
    except ValidationError:
        return None
